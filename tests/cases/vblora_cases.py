"""VB-LoRAs made by hand, and what they stand for, by the formula alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from adaptzip.checkpoints import Native, NativeModule
from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.core.layouts import Layout
from adaptzip.core.meta import Meta

LEVELS = 64
Widths = Mapping[str, tuple[int, int]]
"""(out, in) by module name."""


def hand_made(
    widths: Widths,
    *,
    vectors: int = 20,
    length: int = 8,
    top_k: int = 2,
    rank: int = 3,
    layout: Layout = "linear",
    scale: float | None = 4.0,
    config: Mapping[str, Any] | None = None,
    extras: Mapping[str, Tensor] | None = None,
    zero: tuple[str, ...] = (),
) -> Native:
    """A random VB-LoRA; the modules in `zero` have no update. A `scale` of None is left out of the config."""
    generator = torch.Generator().manual_seed(0)
    bank = 0.1 * torch.randn(vectors, length, generator=generator)
    modules, factors = {}, {}
    for name, (out, width) in sorted(widths.items()):
        tensors: dict[str, Tensor] = {}
        A, B = torch.zeros(0, width), torch.zeros(out, 0)
        if name not in zero:
            tensors = {"bank": bank * (scale or 1.0)}
            for side, size in (("A", width), ("B", out)):
                indices, weights = _codes(rank * size // length, vectors, top_k, generator)
                tensors[f"{side}.indices"] = indices
                if top_k > 1:
                    tensors[f"{side}.weights"] = weights[:, :-1].contiguous()
                rows = torch.stack([(bank[i] * w[:, None]).sum(0) for i, w in zip(indices, weights, strict=True)])
                A, B = (rows.reshape(rank, width), B) if side == "A" else (A, rows.reshape(rank, out).T.contiguous())
        modules[name] = NativeModule(tensors, A, B, out, width, layout)
        factors[name] = LoraFactors(A, B, layout=layout)
    settings: dict[str, float] = {"rank": rank, "length": length, "vectors": vectors, "top_k": top_k, "levels": LEVELS}
    if scale is not None:
        settings["scale"] = scale
    meta = Meta(config=dict(config or {}), base_model="somebody/some-base")
    return Native("vblora", settings, modules, Adapter(factors, dict(extras or {}), meta))


def _codes(rows: int, vectors: int, top_k: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Distinct vectors for each row, and weights in whole 64ths, the largest last; some are zero."""
    indices = torch.stack([torch.randperm(vectors, generator=generator)[:top_k] for _ in range(rows)])
    cuts = torch.randint(0, LEVELS + 1, (rows, top_k - 1), generator=generator).sort(-1).values
    ends = torch.nn.functional.pad(cuts, (1, 0)), torch.nn.functional.pad(cuts, (0, 1), value=LEVELS)
    return indices, ((ends[1] - ends[0]).sort(-1).values / LEVELS)
