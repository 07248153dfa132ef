"""PEFT's GraLoRA: a weight cut into k by k blocks, each with an update of its own low rank.

Jung et al. 2025, arXiv:2505.20355. The file holds `<module>.gralora_A` (k, in / k, rank) and `.gralora_B` (k, rank,
out / k). With s = rank / k, the block of rows m and columns n is changed by the s columns of A[n] from m * s on and the
s rows of B[m] from n * s on. A plain LoRA of rank hybrid_r may be added as `.gralora_A_general.weight` and
`.gralora_B_general.weight`. All is multiplied by alpha / (rank + hybrid_r).
"""

from __future__ import annotations

import re
from types import MappingProxyType

import torch
from torch import Tensor

from adaptzip.checkpoints._base import Checkpoint, Files, Reader, Signature
from adaptzip.checkpoints._config import CONFIG_NAME, WEIGHT_NAMES
from adaptzip.checkpoints._effects import with_plain_keys
from adaptzip.checkpoints._keys import PREFIX
from adaptzip.checkpoints._parts import (
    DIFFERENT,
    Parts,
    base_name,
    count,
    number,
    part_of,
    peft_config,
    peft_parts,
    refuse_shapes,
    sureness,
)
from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.core.layouts import Layout
from adaptzip.core.meta import Meta
from adaptzip.errors import CheckpointError

_KEY = re.compile(re.escape(PREFIX) + r"(.+)\.gralora_(A|B|A_general\.weight|B_general\.weight)")


class _PeftGralora(Reader):
    """The dialect `peft-gralora`."""

    name = "peft-gralora"
    title = "PEFT's GraLoRA"
    files = Files(WEIGHT_NAMES, CONFIG_NAME)
    signature = (Signature(r"^base_model\.model\..*\.gralora_[AB]$", "PEFT's GraLoRA"),)

    def sniff(self, source: Checkpoint) -> float:
        return sureness(source, "GRALORA", super().sniff(source))

    def read(self, source: Checkpoint) -> Adapter:
        """Every number stays as it is; the factors have k times the rank, and zeros outside their blocks."""
        raw = peft_config(source, "GRALORA", self.title)
        rank, hybrid = count(source, raw, "r", 32), count(source, raw, "hybrid_r", 0, 0)
        scaling = number(source, raw, "alpha", 64) / (rank + hybrid)
        layout: Layout = "transposed" if raw.get("fan_in_fan_out") else "linear"
        modules, extras = peft_parts(source, _KEY, ".gralora_", self.title)
        factors = {}
        for name, keys in modules.items():
            A, B = _blocks(source, name, keys, rank, count(source, raw, "gralora_k", 2))
            if hybrid:
                A, B = _with_general(source, name, keys, hybrid, A, B)
            elif len(keys) > 2:
                raise CheckpointError(
                    f"{source.weights}: {max(keys.values())} is there, but hybrid_r is 0", hint=DIFFERENT
                )
            factors[name] = LoraFactors(A, B, scaling, layout)
        return Adapter(factors, with_plain_keys(extras), Meta(self.name, MappingProxyType(dict(raw)), base_name(raw)))


def _blocks(source: Checkpoint, name: str, keys: Parts, rank: int, k: int) -> tuple[Tensor, Tensor]:
    """A (k * rank, in) and B (out, k * rank) of all blocks."""
    a, b = (part_of(source, name, keys, part) for part in ("A", "B"))
    right = a.ndim == b.ndim == 3 and 0 not in (*a.shape, *b.shape)
    if not right or (a.shape[0], a.shape[2], b.shape[0], b.shape[1]) != (k, rank, k, rank) or rank % k:
        raise refuse_shapes(
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
        raise refuse_shapes(
            source, name, {"A_general": a, "B_general": b}, f"({hybrid}, {A.shape[1]}) and ({B.shape[0]}, {hybrid})"
        )
    return torch.cat([A, a.to(A.dtype)]), torch.cat([B, b.to(B.dtype)], dim=1)


DIALECT = _PeftGralora()
