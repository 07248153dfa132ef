"""PEFT's GraLoRA: a weight cut into k by k blocks, each with an update of its own low rank.

Jung et al. 2025, arXiv:2505.20355. The file holds `<module>.gralora_A` (k, in / k, rank) and `.gralora_B` (k, rank,
out / k). With s = rank / k, the block of rows m and columns n is changed by the s columns of A[n] from m * s on and the
s rows of B[m] from n * s on. A plain LoRA of rank hybrid_r may be added as `.gralora_A_general.weight` and
`.gralora_B_general.weight`. All is multiplied by alpha / (rank + hybrid_r).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from adaptzip.checkpoints._base import Checkpoint, Signature
from adaptzip.checkpoints._config import DIFFERENT, whole
from adaptzip.checkpoints._parts import Parts, linear_layout, misfit, number, part_of
from adaptzip.checkpoints._peft_method import Modules, PeftMethod
from adaptzip.core.adapter import LoraFactors
from adaptzip.errors import CheckpointError


class _PeftGralora(PeftMethod):
    """The dialect `peft-gralora`. Numbers stay as they are; factors have k times the rank, and zeros outside blocks."""

    name = "peft-gralora"
    title = "PEFT's GraLoRA"
    judged_by = "PEFT"
    signature = (Signature(r"^base_model\.model\..*\.gralora_[AB]$", "PEFT's GraLoRA"),)
    kind = "GRALORA"
    own = ".gralora_"
    parts = r"A|B|A_general\.weight|B_general\.weight"

    def factors(self, source: Checkpoint, raw: Mapping[str, Any], modules: Modules) -> dict[str, LoraFactors]:
        rank = whole("r", raw.get("r", 32), source.path)
        hybrid = whole("hybrid_r", raw.get("hybrid_r", 0), source.path, 0)
        k = whole("gralora_k", raw.get("gralora_k", 2), source.path)
        scaling, layout = number(source, raw, "alpha", 64) / (rank + hybrid), linear_layout(raw)
        return {
            name: LoraFactors(*_pair(source, name, keys, rank, k, hybrid), scaling, layout)
            for name, keys in modules.items()
        }


def _pair(source: Checkpoint, name: str, keys: Parts, rank: int, k: int, hybrid: int) -> tuple[Tensor, Tensor]:
    """A and B of the blocks, and of the plain LoRA where the configuration says that there is one."""
    A, B = _blocks(source, name, keys, rank, k)
    if hybrid:
        return _with_general(source, name, keys, hybrid, A, B)
    if len(keys) > 2:
        raise CheckpointError(f"{source.weights}: {max(keys.values())} is there, but hybrid_r is 0", hint=DIFFERENT)
    return A, B


def _blocks(source: Checkpoint, name: str, keys: Parts, rank: int, k: int) -> tuple[Tensor, Tensor]:
    """A (k * rank, in) and B (out, k * rank) of all blocks."""
    a, b = (part_of(source, name, keys, part) for part in ("A", "B"))
    right = a.ndim == b.ndim == 3 and 0 not in (*a.shape, *b.shape)
    if not right or (a.shape[0], a.shape[2], b.shape[0], b.shape[1]) != (k, rank, k, rank) or rank % k:
        raise misfit(
            source, name, {"A": a, "B": b}, f"A ({k}, in / {k}, {rank}) and B ({k}, {rank}, out / {k}), as configured"
        )
    s, width, out = rank // k, a.shape[1], b.shape[2]
    A = torch.zeros(k, k, s, k, width, dtype=a.dtype)
    B = torch.zeros(k, out, k, k, s, dtype=b.dtype)
    for n in range(k):
        A[n, :, :, n] = a[n].T.reshape(k, s, width)
        for m in range(k):
            B[m, :, n, m] = b[m, n * s : (n + 1) * s].T
    return A.reshape(k * rank, k * width), B.reshape(k * out, k * rank)


def _with_general(
    source: Checkpoint, name: str, keys: Parts, hybrid: int, A: Tensor, B: Tensor
) -> tuple[Tensor, Tensor]:
    """The factors with those of the plain LoRA after them."""
    a, b = (part_of(source, name, keys, f"{side}_general.weight") for side in "AB")
    if tuple(a.shape) != (hybrid, A.shape[1]) or tuple(b.shape) != (B.shape[0], hybrid):
        raise misfit(
            source, name, {"A_general": a, "B_general": b}, f"({hybrid}, {A.shape[1]}) and ({B.shape[0]}, {hybrid})"
        )
    return torch.cat([A, a.to(A.dtype)]), torch.cat([B, b.to(B.dtype)], dim=1)


DIALECT = _PeftGralora()
