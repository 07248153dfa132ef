"""Updates in the vectors of a bank that is given: the gauge and the signs that suit it, and the codes."""

from __future__ import annotations

import torch
from torch import Tensor

from adaptzip.methods._banks.choosing import choose_codes
from adaptzip.methods._banks.codes import Codes, decode
from adaptzip.methods._banks.factors import Coded, Group, squared_errors, start
from adaptzip.methods._banks.fit import recode_both
from adaptzip.methods._banks.refining import decoded
from adaptzip.methods._banks.sections import Sections

_ROUNDS = 4
_TOLERANCE = 5e-3
_LEVELLED = 2
"""Rounds with weights on their levels, which undo some of what rounding did."""


def first_codes(group: Group, bank: Tensor, k: int, known: Sections) -> Coded:
    """Codes in the first gauge, each component with the sign that suits the bank: (-u)(-v)^T is u v^T."""
    A, B = start(group)
    plain, turned = (_pair(bank, sign * A, sign * B, k, known) for sign in (1, -1))
    better = _cost(bank, turned, -A, -B) < _cost(bank, plain, A, B)
    return Coded(_chosen(better, turned.A, plain.A), _chosen(better, turned.B, plain.B))


def coded_with(group: Group, bank: Tensor, k: int, known: Sections, levels: int | None = None) -> Coded:
    """Codes of a group for this bank, chosen in turn for A and B until that gains little.

    Args:
        known: `sections` of the bank for all widths of the group.
        levels: weights are multiples of 1 / levels; None leaves them free.
    """
    coded = first_codes(group, bank, k, known)
    previous = float("inf")
    for _ in range(_ROUNDS):
        coded = recode_both(group, coded, bank, known)
        error = float((squared_errors(group, *decoded(group, coded, bank)) * group.weight).sum())
        if error >= previous * (1 - _TOLERANCE):
            break
        previous = error
    for _ in range(0 if levels is None else _LEVELLED):
        coded = recode_both(group, coded, bank, known, levels=levels)
    return coded


def _pair(bank: Tensor, A: Tensor, B: Tensor, k: int, known: Sections) -> Coded:
    return Coded(choose_codes(bank, A, k, known=known), choose_codes(bank, B, k, known=known))


def _cost(bank: Tensor, coded: Coded, A: Tensor, B: Tensor) -> Tensor:
    """(n, rank): about what the errors of both rows of a component cost in the update."""
    left, right = ((decode(bank, c, rows.shape[2]) - rows).square().sum(2) for c, rows in ((coded.A, A), (coded.B, B)))
    return left * B.square().sum(2) + right * A.square().sum(2)


def _chosen(better: Tensor, one: Codes, other: Codes) -> Codes:
    where = better[..., None, None]
    return Codes(torch.where(where, one.indices, other.indices), torch.where(where, one.weights, other.weights))
