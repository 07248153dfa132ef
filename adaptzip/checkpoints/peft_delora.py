"""PEFT's DeLoRA: ranks of norm 1 each, under one learned strength, scaled by the norms of the base's columns.

Bini et al. 2025, arXiv:2503.18225. The file holds `<module>.delora_A` (rank, in), `.delora_B` (out, rank),
`.delora_lambda` (1,) and `.delora_w_norm` (in,), and the update is lambda / rank * sum_i b_i a_i / (|b_i| |a_i|), each
of its columns times w_norm. A norm counts as 1e-4 at least.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from adaptzip.checkpoints._base import Checkpoint, Signature
from adaptzip.checkpoints._config import DIFFERENT, parse_config
from adaptzip.checkpoints._parts import Parts, misfit, part_of
from adaptzip.checkpoints._peft_method import Modules, PeftMethod
from adaptzip.core.adapter import LoraFactors
from adaptzip.errors import CheckpointError

_LEAST = 1e-4
"""The least norm that PEFT divides by."""


class _PeftDelora(PeftMethod):
    """The dialect `peft-delora`. Norms and strength are folded into A and B in float64, rounded once to float32."""

    name = "peft-delora"
    title = "PEFT's DeLoRA"
    judged_by = "PEFT"
    signature = (Signature(r"^base_model\.model\..*\.delora_[AB]$", "PEFT's DeLoRA"),)
    kind = "DELORA"
    own = ".delora_"
    parts = "A|B|lambda|w_norm"

    def factors(self, source: Checkpoint, raw: Mapping[str, Any], modules: Modules) -> dict[str, LoraFactors]:
        config = parse_config({**raw, "alpha_pattern": {}}, source.path)
        return {name: _factors(source, name, keys, config.rank(name)) for name, keys in modules.items()}


def _factors(source: Checkpoint, name: str, keys: Parts, rank: int) -> LoraFactors:
    A, B, strength, norms = (part_of(source, name, keys, part) for part in ("A", "B", "lambda", "w_norm"))
    fits = A.ndim == B.ndim == 2 and A.shape[0] == B.shape[1] and 0 not in (*A.shape, *B.shape)
    if not fits or tuple(norms.shape) != (A.shape[1],) or strength.numel() != 1:
        parts = {"A": A, "B": B, "lambda": strength, "w_norm": norms}
        raise misfit(source, name, parts, "A (rank, in), B (out, rank), lambda (1,) and w_norm (in,)")
    if A.shape[0] != rank:
        raise CheckpointError(
            f"{source.weights}: module {name} has rank {A.shape[0]}, but adapter_config.json says {rank}",
            hint=DIFFERENT,
        )
    a, b = A.double(), B.double()
    scales = float(strength) / rank / (a.norm(dim=1).clamp(min=_LEAST) * b.norm(dim=0).clamp(min=_LEAST))
    # Half of a rank's scale goes to either side, so that both stay within float32.
    halves = scales.abs().sqrt()
    return LoraFactors((a * norms.double() * halves[:, None]).float(), (b * halves * torch.sign(scales)).float())


DIALECT = _PeftDelora()
