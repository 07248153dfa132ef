"""Updates of layers that one implementation has apart and another as one: queries, keys and values, most of all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import reduce

import torch
from torch import Tensor

from adaptzip.checkpoints._rescaling import fold
from adaptzip.core.adapter import LoraFactors
from adaptzip.errors import RefusedError


def split_rows(name: str, factors: LoraFactors, shares: Sequence[int]) -> list[LoraFactors]:
    """The updates of the layers whose rows make up a fused layer's, one after the other.

    Args:
        name: the fused module, for messages.
        factors: its update (out, in).
        shares: how many of the sum's shares of `out` each layer has.

    Raises:
        RefusedError: if the rows do not come apart so.
    """
    out, total = factors.shape[0], sum(shares)
    if out % total:
        raise RefusedError(
            f"module {name} has {out} outputs, expected a multiple of {total}, as its layers lie",
            hint="write it in the dialect that it came in",
        )
    if factors.magnitude is not None and factors.magnitude.ndim > 1:
        raise RefusedError(
            f"module {name} has a DoRA magnitude for each input of a fused layer, which does not come apart",
            hint="write it in the dialect that it came in",
        )
    sizes = [out // total * share for share in shares]
    magnitudes, biases = _vectors(factors.magnitude, sizes), _vectors(factors.bias, sizes)
    rows = zip(torch.split(factors.B, sizes), magnitudes, biases, strict=True)
    return [replace(factors, B=b.contiguous(), magnitude=m, bias=bias) for b, m, bias in rows]


def fuse_rows(name: str, parts: Mapping[int, LoraFactors], shares: Sequence[int]) -> LoraFactors:
    """The update of a fused layer; layers that are missing in `parts` stay as they are.

    Parts that share A and scale, as those that were split have, get that A back; others lie beside each other, so that
    the rank is the sum of theirs.

    Args:
        name: the fused module, for messages.
        parts: the update of each layer by its place among `shares`.
        shares: as for `split_rows`.

    Raises:
        RefusedError: if the parts' outputs are not in these shares, or only some have a DoRA magnitude or a bias.
    """
    first = next(iter(parts.values()))
    units = {factors.shape[0] / shares[place] for place, factors in parts.items()}
    widths = {factors.shape[1] for factors in parts.values()}
    if len(units) > 1 or len(widths) > 1 or not next(iter(units)).is_integer():
        raise RefusedError(
            f"the parts of {name} have shapes {[list(factors.shape) for factors in parts.values()]}, which do not make "
            "up one layer",
            hint="write it in the dialect that it came in",
        )
    sizes = [int(next(iter(units))) * share for share in shares]
    shared = all(f.scaling == first.scaling and torch.equal(f.A, first.A) for f in parts.values())
    if not shared and len({f.scaling for f in parts.values()}) > 1:
        parts = {place: fold(factors) for place, factors in parts.items()}
    parts = _in_one_dtype(parts)
    found = list(parts.values())
    first = found[0]
    blocks = [parts[place].B if place in parts else None for place in range(len(shares))]
    return replace(
        found[0],
        A=first.A if shared else torch.cat([f.A for f in found]),
        B=_stacked(blocks, sizes, first.rank) if shared else _diagonal(blocks, sizes),
        magnitude=_joined(name, "a DoRA magnitude", [f.magnitude for f in found], len(shares)),
        bias=_joined(name, "a bias", [f.bias for f in found], len(shares)),
    )


def _in_one_dtype(parts: Mapping[int, LoraFactors]) -> dict[int, LoraFactors]:
    """The parts in the widest dtypes that one of them has."""
    a, b = (reduce(torch.promote_types, (getattr(f, side).dtype for f in parts.values())) for side in ("A", "B"))
    return {place: replace(f, A=f.A.to(a), B=f.B.to(b)) for place, f in parts.items()}


def _vectors(vector: Tensor | None, sizes: Sequence[int]) -> Sequence[Tensor | None]:
    return [None] * len(sizes) if vector is None else [part.contiguous() for part in torch.split(vector, list(sizes))]


def _stacked(blocks: Sequence[Tensor | None], sizes: Sequence[int], rank: int) -> Tensor:
    dtype = next(b.dtype for b in blocks if b is not None)
    return torch.cat(
        [torch.zeros(size, rank, dtype=dtype) if b is None else b for b, size in zip(blocks, sizes, strict=True)]
    )


def _diagonal(blocks: Sequence[Tensor | None], sizes: Sequence[int]) -> Tensor:
    there = [b for b in blocks if b is not None]
    found = torch.zeros(sum(sizes), sum(b.shape[1] for b in there), dtype=there[0].dtype)
    row = column = 0
    for block, size in zip(blocks, sizes, strict=True):
        if block is not None:
            found[row : row + size, column : column + block.shape[1]] = block
            column += block.shape[1]
        row += size
    return found


def _joined(name: str, what: str, vectors: Sequence[Tensor | None], count: int) -> Tensor | None:
    there = [vector for vector in vectors if vector is not None]
    if not there:
        return None
    if any(vector.ndim > 1 for vector in there):
        raise RefusedError(
            f"each of the layers that make up {name} has {what} of its inputs, and one layer has room for one",
            hint="write it in the dialect that it came in",
        )
    if len(there) != count:
        raise RefusedError(
            f"only some of the layers that make up {name} have {what}, one for each output",
            hint="write it in the dialect that it came in",
        )
    return torch.cat(there)
