"""A first bank for pieces with weights: codes and bank in turn, each exact for the other (Lloyd 1982)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from adaptzip.methods._banks.choosing import choose_codes
from adaptzip.methods._banks.codes import Codes, cut, sum_of
from adaptzip.methods._banks.factors import Group, start
from adaptzip.methods._banks.seeding import seed_bank

_MOST_PER_VECTOR = 24
"""Pieces per vector of the bank that a first bank is fitted to; of more, a random part is enough."""
_CG_STEPS = 8
_CG_TOLERANCE = 1e-8
_DAMPING = 1e-3


@dataclass(frozen=True, eq=False)
class Pieces:
    """Pieces of one length.

    Attributes:
        values: (n, length).
        weights: (n,), what a squared error in a piece costs in the update.
    """

    values: Tensor
    weights: Tensor


def pieces_of(groups: Sequence[Group], length: int) -> list[Pieces]:
    """All pieces of all factors in their first gauge: the whole ones, then those that end a row, by length."""
    found: dict[int, list[tuple[Tensor, Tensor]]] = {}
    for group in groups:
        A, B = start(group)
        for rows, other in ((A, B), (B, A)):
            cost = other.square().sum(2) * group.weight[:, None]
            whole, rest = cut(rows, length)
            for part in (whole, None if rest is None else rest[..., None, :]):
                if part is not None and part.numel():
                    weights = cost[..., None].expand(part.shape[:-1])
                    found.setdefault(part.shape[-1], []).append((part.flatten(0, -2), weights.flatten()))
    return [
        Pieces(torch.cat([values for values, _ in found[size]]), torch.cat([weights for _, weights in found[size]]))
        for size in sorted(found, reverse=True)
    ]


def thinned(pieces: Sequence[Pieces], h: int, generator: torch.Generator) -> list[Pieces]:
    """At most `_MOST_PER_VECTOR` pieces of every length per vector of the bank, drawn at random."""
    return [_thinned(part, h * _MOST_PER_VECTOR, generator) for part in pieces]


def _thinned(part: Pieces, most: int, generator: torch.Generator) -> Pieces:
    if len(part.values) <= most:
        return part
    drawn = torch.randperm(len(part.values), generator=generator)[:most].sort().values.to(part.values.device)
    return Pieces(part.values[drawn], part.weights[drawn])


def first_bank(pieces: Sequence[Pieces], length: int, h: int, generator: torch.Generator) -> Tensor:
    """(h, length): seeded with the longest pieces, which are padded where no row is as long as `length`."""
    values = pieces[0].values
    padded = torch.nn.functional.pad(values, (0, length - values.shape[1]))
    return seed_bank(padded, pieces[0].weights, h, generator)


def lloyd(
    pieces: Sequence[Pieces], bank: Tensor, k: int, rounds: int, tolerance: float
) -> Iterator[tuple[Tensor, float]]:
    """Banks after each round, with the weighted squared error that the round began with; it never rises.

    Stops after `rounds`, or when a round gains less than `tolerance` of the error.
    """
    previous = float("inf")
    codes: list[Codes] = []
    for _ in range(rounds):
        codes = [_better(part, bank, k, codes[i] if codes else None) for i, part in enumerate(pieces)]
        errors = [weighted_errors(part, bank, found) for part, found in zip(pieces, codes, strict=True)]
        total = float(sum(error.sum(dtype=torch.float64) for error in errors))
        bank = fit_vectors(pieces, codes, bank)
        bank, codes = replace_unused(pieces, codes, errors, bank)
        yield bank, total
        if total >= previous * (1 - tolerance):
            return
        previous = total


def _better(part: Pieces, bank: Tensor, k: int, old: Codes | None) -> Codes:
    """New codes, or the old where they are better, as may be for k > 1."""
    new = choose_codes(bank[:, : part.values.shape[1]], part.values, k)
    new = Codes(new.indices[:, 0], new.weights[:, 0])
    if old is None or k == 1:
        return new
    keep = (weighted_errors(part, bank, old) < weighted_errors(part, bank, new))[:, None]
    return Codes(torch.where(keep, old.indices, new.indices), torch.where(keep, old.weights, new.weights))


def weighted_errors(part: Pieces, bank: Tensor, codes: Codes) -> Tensor:
    """Squared error of each piece times its weight, (n,)."""
    return (part.values - sum_of(bank[:, : part.values.shape[1]], codes)).square().sum(1) * part.weights


def fit_vectors(pieces: Sequence[Pieces], codes: Sequence[Codes], bank: Tensor) -> Tensor:
    """The bank that minimises the weighted squared error for given codes, or comes near to it: least squares.

    Conjugate gradients on the normal equations, which are sparse and the same for all columns of one section: columns
    between two lengths of pieces. For k = 1 they are diagonal and one step is exact. Vectors that no piece uses stay.
    """
    edges = [0, *sorted({part.values.shape[1] for part in pieces})]
    solved = [_section(pieces, codes, bank, start, stop) for start, stop in pairwise(edges)]
    return torch.cat([*solved, bank[:, edges[-1] :]], 1)


def _section(pieces: Sequence[Pieces], codes: Sequence[Codes], bank: Tensor, start: int, stop: int) -> Tensor:
    """Solved columns (h, stop - start)."""
    h, places, values = len(bank), [], []
    right = bank.new_zeros(h, stop - start)
    for part, found in zip(pieces, codes, strict=True):
        if part.values.shape[1] < stop:
            continue
        mass = found.weights * part.weights[:, None]
        for term in range(found.k):
            right.index_add_(0, found.indices[:, term], part.values[:, start:stop] * mass[:, term, None])
        row = found.indices.repeat_interleave(found.k, 1)
        column = found.indices.repeat(1, found.k)
        places.append(torch.stack([row.flatten(), column.flatten()]))
        values.append((mass[:, :, None] * found.weights[:, None, :]).flatten())
    matrix = torch.sparse_coo_tensor(torch.cat(places, 1), torch.cat(values), (h, h), check_invariants=False).coalesce()
    if codes[0].k == 1:
        return _conjugate_gradients(matrix, right, bank[:, start:stop], 1, 0.0)
    return _conjugate_gradients(matrix, right, bank[:, start:stop], _CG_STEPS, _DAMPING)


def _conjugate_gradients(matrix: Tensor, right: Tensor, x: Tensor, steps: int, damping: float) -> Tensor:
    """Solve for every column from `x`, preconditioned by the diagonal; rows whose diagonal is 0 stay.

    Moves are damped by a share of the mean diagonal: a vector of hardly any weight must not run away.
    """
    tiny = torch.finfo(x.dtype).tiny
    row, column = matrix.indices()
    diagonal = x.new_zeros(len(x)).index_add_(0, row, matrix.values() * (row == column))[:, None]
    ridge = damping * diagonal.mean()
    inverse = torch.where(diagonal > 0, 1 / (diagonal + ridge).clamp(min=tiny), 0.0)
    residual = right - torch.sparse.mm(matrix, x)
    direction = residual * inverse
    product = (residual * direction).sum(0)
    least = product * _CG_TOLERANCE
    for _ in range(steps):
        image = torch.sparse.mm(matrix, direction) + ridge * direction
        # A column that is solved must stand still: what follows from rounding alone may point anywhere.
        step = torch.where(product > least, product / (direction * image).sum(0).clamp(min=tiny), 0.0)
        x = x + step * direction
        residual = residual - step * image
        before, product = product, (residual.square() * inverse).sum(0)
        direction = residual * inverse + product / before.clamp(min=tiny) * direction
    return x


def replace_unused(
    pieces: Sequence[Pieces], codes: Sequence[Codes], errors: Sequence[Tensor], bank: Tensor
) -> tuple[Tensor, list[Codes]]:
    """Put the worst-fitted of the longest pieces in place of vectors that no piece uses; codes do not change."""
    used = torch.zeros(len(bank), dtype=torch.bool, device=bank.device)
    for found in codes:
        used[found.indices[found.weights > 0]] = True
    empty = (~used).nonzero()[:, 0]
    values = pieces[0].values
    count = min(len(empty), len(values))
    if count:
        bank = bank.clone()
        bank[empty[:count], : values.shape[1]] = values[errors[0].topk(count).indices]
    return bank, list(codes)
