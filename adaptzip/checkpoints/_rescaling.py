"""The same update in other factors: with the scale inside, with more rows, or in the range of another dtype."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.errors import RefusedError

HALF_LEAST = 2.0**-13
"""A factor whose largest number is smaller would lose more than its last bit of precision in float16."""
_MOST = torch.finfo(torch.float16).max


def fold(factors: LoraFactors) -> LoraFactors:
    """The same update with the scale inside B, in float32 (float64 stays)."""
    if factors.scaling == 1.0:
        return factors
    dtype = torch.promote_types(factors.B.dtype, torch.float32)
    bias = None if factors.bias is None else factors.bias.to(dtype) * factors.scaling
    return replace(factors, B=factors.B.to(dtype) * factors.scaling, scaling=1.0, bias=bias)


def narrow(folded: Tensor, own: torch.dtype) -> Tensor:
    """A factor in the dtype that it had before the scale was folded in, where that loses nothing."""
    found = folded.to(own)
    return found if torch.equal(found.to(folded.dtype), folded) else folded


def pad(factors: LoraFactors, rank: int) -> LoraFactors:
    """The same update with zeros up to `rank`; the scale stays."""
    missing = rank - factors.rank
    if missing == 0:
        return factors
    a = torch.nn.functional.pad(factors.A, (0, 0, 0, missing))
    b = torch.nn.functional.pad(factors.B, (0, missing))
    return replace(factors, A=a, B=b)


def uniform(adapter: Adapter, *, one_rank: bool) -> Adapter:
    """The same update with the scale 1 in every module.

    Args:
        one_rank: and with one rank in all modules whose names have the same first word, as a pipeline's component's.
    """
    folded = {name: fold(factors) for name, factors in adapter.modules.items()}
    ranks: dict[str, int] = {}
    for name, factors in folded.items():
        first = name.partition(".")[0]
        ranks[first] = max(ranks.get(first, 1), factors.rank)
    modules = {name: pad(m, ranks[name.partition(".")[0]]) if one_rank else m for name, m in folded.items()}
    return replace(adapter, modules=modules, meta=adapter.meta.described)


def balanced(factors: LoraFactors) -> LoraFactors:
    """The same update, exactly, as A * c and B / c, where one of them lies at an end of float16's range.

    c is a power of two, and brings the largest numbers of A and B near each other.
    """
    a, b = (float(t.abs().max()) if t.numel() else 0.0 for t in (factors.A, factors.B))
    comfortable = all(
        HALF_LEAST <= largest <= _MOST or t.dtype == torch.float16 for largest, t in ((a, factors.A), (b, factors.B))
    )
    if comfortable or a == 0 or b == 0:
        return factors
    c = 2.0 ** round(math.log2(b / a) / 2)
    dtype = torch.promote_types(torch.promote_types(factors.A.dtype, factors.B.dtype), torch.float32)
    return replace(factors, A=factors.A.to(dtype) * c, B=factors.B.to(dtype) / c)


def in_range(name: str, factors: LoraFactors, dtype: torch.dtype | None) -> LoraFactors:
    """The same update with factors that `dtype` can hold, of which float16 alone has a small range.

    Raises:
        RefusedError: if there are none.
    """
    if dtype != torch.float16:
        return factors
    factors = balanced(factors)
    parts = {"A": factors.A, "B": factors.B, "the bias": factors.bias, "the magnitude": factors.magnitude}
    largest = {what: float(t.abs().max()) for what, t in parts.items() if t is not None and t.numel()}
    for what, number in largest.items():
        if number > torch.finfo(dtype).max:
            raise _out_of_range(
                name, f"{what} has numbers beyond {torch.finfo(dtype).max:g}, which float16 cannot hold"
            )
    for what, factor in (("A", factors.A), ("B", factors.B)):
        if factor.dtype != dtype and 0 < largest.get(what, 0.0) < HALF_LEAST and all(largest.values()):
            raise _out_of_range(name, f"{what} has no number of {HALF_LEAST:g}, and float16 rounds smaller ones badly")
    return factors


def _out_of_range(name: str, what: str) -> RefusedError:
    return RefusedError(f"module {name}: {what}", hint="export with `dtype='bfloat16'` or float32")


def in_own_dtype(adapter: Adapter, dtype: torch.dtype) -> Adapter:
    """With factors in the dtype that the source's had; magnitudes and biases were kept as they are."""
    modules = {}
    for name, factors in adapter.modules.items():
        found = in_range(name, factors, dtype)
        modules[name] = replace(found, A=found.A.to(dtype), B=found.B.to(dtype))
    return replace(adapter, modules=modules)
