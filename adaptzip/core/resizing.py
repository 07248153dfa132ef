"""An adapter of lower ranks: each module's update cut to its first singular directions (Eckart and Young, 1936)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.core.comparing import diff
from adaptzip.core.workers import parallel_map
from adaptzip.errors import CheckFailedError, UsageError

_TRIES = 4
"""How often an error is aimed at, of which rounding to a dtype is a part."""
_TINY = 1e-12
Parts = Mapping[str, tuple[Tensor, Tensor, Tensor]]
"""The thin SVD of each module's update: U (out, k), S (k,), Vt (k, in)."""


@dataclass(frozen=True)
class Resized:
    """What `resized` made.

    Attributes:
        adapter: the adapter; its factors have the dtypes that they had.
        error: relative error |dW - dW'| / |dW| over all modules.
    """

    adapter: Adapter
    error: float


def resized(
    adapter: Adapter,
    *,
    rank: int | None = None,
    max_error: float | None = None,
    size: int | None = None,
    dtype: torch.dtype | None = None,
) -> Resized:
    """Cut ranks until all of the limits that are given hold, with the least error that they allow.

    The limits are upper ones, and hold together. Ranks are chosen over all modules together: by `max_error` the
    smallest singular values of the whole adapter go first, and by `size` those that explain least for each byte of
    their vectors. Every module keeps rank 1.

    Args:
        adapter: the adapter; extras, DoRA magnitudes and biases stay as they are.
        rank: most directions of a module.
        max_error: upper limit of |dW - dW'| / |dW|, in (0, 1).
        size: most bytes of the factors together.
        dtype: dtype of the factors; None keeps their own.

    Raises:
        UsageError: if a limit is out of range.
        CheckFailedError: if `size` is too small for rank 1, or other limits leave more error than `max_error`.
    """
    if rank is not None and rank < 1:
        raise UsageError(f"a rank of {rank} was asked for, expected at least 1")
    if max_error is not None and not 0 < max_error < 1:
        raise UsageError(f"a max_error of {max_error} was asked for, expected a number between 0 and 1")
    names = list(adapter.modules)
    spectra = parallel_map(lambda name: adapter.modules[name].svd(), names)
    parts: Parts = dict(zip(names, spectra, strict=True))
    ranks = {name: min(rank or len(S), len(S)) for name, (_, S, _) in parts.items()}
    if size is not None:
        ranks = _least(ranks, _for_size(adapter, parts, size, dtype))
    aim = max_error
    for _ in range(_TRIES):
        aimed = ranks if aim is None else _least(ranks, _for_error(parts, aim))
        found = _resized(adapter, parts, aimed, dtype)
        if max_error is None or aim is None or found.error <= max_error:
            return found
        # Rounding to the factors' dtype adds to what was cut.
        aim = math.sqrt(max(aim**2 - 1.05 * (found.error**2 - max_error**2), 0.0)) or _TINY
    raise CheckFailedError(
        f"the relative error is {found.error:.3g}, more than the {max_error:g} that were asked for",
        hint="allow higher ranks, a larger budget, or factors of another dtype",
    )


def _resized(adapter: Adapter, parts: Parts, ranks: Mapping[str, int], dtype: torch.dtype | None) -> Resized:
    modules = {name: _cut(factors, parts[name], ranks[name], dtype) for name, factors in adapter.modules.items()}
    meta = replace(adapter.meta.described, dtype=adapter.meta.dtype)
    made = replace(adapter, modules=modules, meta=meta)
    return Resized(made, diff(Adapter(adapter.modules), Adapter(modules)).relative_error or 0.0)


def _least(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    return {name: min(count, other[name]) for name, count in one.items()}


def _for_error(parts: Parts, max_error: float) -> dict[str, int]:
    """The ranks that are left when the smallest values of all modules go while their energy is allowed to."""
    energies = torch.cat([S.double() ** 2 for _, S, _ in parts.values()])
    falling, order = energies.sort()
    # Rounding the kept vectors must not take the result beyond the limit.
    allowed = float(falling.sum()) * max_error**2 * (1 - 1e-3)
    gone = order[: int((falling.cumsum(0) <= allowed).sum())]
    return _left(parts, gone)


def _for_size(adapter: Adapter, parts: Parts, size: int, dtype: torch.dtype | None) -> dict[str, int]:
    """The ranks that are left when the values that explain least for a byte go."""
    costs = {name: _bytes_of_one(adapter.modules[name], dtype) for name in parts}
    least = sum(costs.values())
    if size < least:
        halved = sum(_bytes_of_one(adapter.modules[name], torch.float16) for name in parts) < least
        hint = "store them in 16 bits with `dtype='float16'`, or " if halved else ""
        raise CheckFailedError(
            f"the size leaves {max(size, 0):,} bytes for the factors, which have {least:,} bytes at rank 1",
            hint=f"{hint}compress the adapter to a .adz, which can be smaller",
        )
    cost = torch.cat([torch.full((len(S),), costs[name]) for name, (_, S, _) in parts.items()])
    gain = torch.cat([S.double() ** 2 for _, S, _ in parts.values()]) / cost
    first = torch.cat([torch.arange(len(S)) == 0 for _, S, _ in parts.values()])
    order = torch.where(first, math.inf, gain).argsort(descending=True)
    kept = int((cost[order].cumsum(0) <= size).sum())
    return _left(parts, order[kept:])


def _bytes_of_one(factors: LoraFactors, dtype: torch.dtype | None) -> int:
    """Bytes of one direction's vectors."""
    a, b = (dtype or t.dtype for t in (factors.A, factors.B))
    return factors.shape[0] * b.itemsize + factors.shape[1] * a.itemsize


def _left(parts: Parts, gone: Tensor) -> dict[str, int]:
    """How many values each module keeps; at least one."""
    lengths = [len(S) for _, S, _ in parts.values()]
    kept = torch.ones(sum(lengths), dtype=torch.bool)
    kept[gone] = False
    return {name: max(1, int(part.sum())) for name, part in zip(parts, torch.split(kept, lengths), strict=True)}


def _cut(
    factors: LoraFactors, parts: tuple[Tensor, Tensor, Tensor], rank: int, dtype: torch.dtype | None
) -> LoraFactors:
    """The first directions, as factors of equal size; untouched, but for the dtype, where none goes."""
    if rank >= factors.rank:
        return factors if dtype is None else replace(factors, A=factors.A.to(dtype), B=factors.B.to(dtype))
    U, S, Vt = (part[..., :rank] if number < 2 else part[:rank] for number, part in enumerate(parts))
    root = S.sqrt()
    scale = factors.scaling or 1.0
    bias = None if factors.bias is None else (factors.bias.float() * scale).to(factors.bias.dtype)
    return replace(
        factors,
        A=(root[:, None] * Vt).to(dtype or factors.A.dtype),
        B=(U * root).to(dtype or factors.B.dtype),
        scaling=1.0,
        bias=bias,
    )
