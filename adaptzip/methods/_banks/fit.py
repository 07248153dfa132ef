"""The whole fit of a bank: seeding, exact steps on pieces, then exact and gradient steps on the updates' own error."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adaptzip.core.workers import parallel_map
from adaptzip.methods._banks.choosing import choose_codes
from adaptzip.methods._banks.codes import Codes, decode
from adaptzip.methods._banks.factors import Coded, Group, recode, squared_errors, start
from adaptzip.methods._banks.lloyd import first_bank, lloyd, pieces_of, thinned
from adaptzip.methods._banks.refining import decoded, refine
from adaptzip.methods._banks.sections import Sections, sections

_LLOYD_ROUNDS = 8
_MIXED_ROUNDS = 6
"""The same for k > 1, where a round costs more and the later steps on the update gain more."""
_LLOYD_TOLERANCE = 1e-3
_ROUNDS = 5
_TOLERANCE = 2e-3
_STEPS = 5
"""Gradient steps of a round."""
_LARGE = 2**34
"""Numbers times vectors from which on a fit gets half the rounds: the last ones gain least, and each takes long."""


@dataclass(frozen=True)
class Shape:
    """A bank's outline: h vectors of `length` numbers, k to a piece, weights in multiples of 1 / levels."""

    h: int
    length: int
    k: int
    levels: int


@dataclass(frozen=True, eq=False)
class BankFit:
    """A fitted bank.

    Attributes:
        bank: (h, length), float32.
        coded: codes of every group, weights on their levels.
        errors: |dW - dW'|^2 of every module of every group, without weights.
    """

    bank: Tensor
    coded: tuple[Coded, ...]
    errors: tuple[Tensor, ...]


def fit_bank(
    groups: Sequence[Group], shape: Shape, seed: int, progress: Callable[[float], None] | None = None
) -> BankFit:
    """Fit a bank to updates. `groups` are not empty, and hold no zero update."""
    tell = progress or (lambda share: None)
    bank = _open_bank(groups, shape, seed, lambda share: tell(share / 2))
    coded = _first_codes(groups, bank, shape.k)
    previous = float("inf")
    rounds = -(-_ROUNDS // _share(groups, shape))
    for turn in range(1, rounds):
        bank = refine(groups, coded, bank, _STEPS)
        coded = _recoded(groups, coded, bank)
        error = _weighted(groups, _errors(groups, coded, bank))
        tell(0.5 + turn / rounds / 2)
        if error >= previous * (1 - _TOLERANCE):
            break
        previous = error
    bank = refine(groups, coded, bank, _STEPS)
    coded = _recoded(groups, coded, bank, shape.levels)
    bank, coded = _by_norm(bank, coded)
    return BankFit(bank, tuple(coded), tuple(_errors(groups, coded, bank)))


def _share(groups: Sequence[Group], shape: Shape) -> int:
    """What the numbers of rounds are divided by."""
    numbers = sum(group.U.numel() + group.V.numel() for group in groups)
    return 2 if numbers * shape.h > _LARGE else 1


def _open_bank(groups: Sequence[Group], shape: Shape, seed: int, tell: Callable[[float], None]) -> Tensor:
    """A bank for the pieces in their first gauge."""
    generator = torch.Generator().manual_seed(seed)
    pieces = thinned(pieces_of(groups, shape.length), shape.h, generator)
    bank = first_bank(pieces, shape.length, shape.h, generator)
    rounds = (_LLOYD_ROUNDS if shape.k == 1 else _MIXED_ROUNDS) // _share(groups, shape)
    for turn, (better, _) in enumerate(lloyd(pieces, bank, shape.k, rounds, _LLOYD_TOLERANCE)):
        bank = better
        tell((turn + 1) / rounds)
    return bank


def _first_codes(groups: Sequence[Group], bank: Tensor, k: int) -> list[Coded]:
    """Codes of every group in its first gauge."""

    known = sections(bank, _widths(groups), k)

    def code(group: Group) -> Coded:
        A, B = start(group)
        return Coded(choose_codes(bank, A, k, known=known), choose_codes(bank, B, k, known=known))

    return list(parallel_map(code, groups, device=bank.device))


def _recoded(groups: Sequence[Group], coded: Sequence[Coded], bank: Tensor, levels: int | None = None) -> list[Coded]:
    """New codes of every group."""
    known = sections(bank, _widths(groups), coded[0].A.k)

    def recode_one(pair: tuple[Group, Coded]) -> Coded:
        return recode_both(*pair, bank, known, levels=levels)

    return list(parallel_map(recode_one, zip(groups, coded, strict=True), device=bank.device))


def recode_both(
    group: Group, coded: Coded, bank: Tensor, known: Sections | None = None, *, levels: int | None = None
) -> Coded:
    """New codes of A given B, then of B given those of A."""
    A = recode(group.A, decode(bank, coded.B, group.U.shape[1]), bank, coded.A, levels=levels, known=known)
    B = recode(group.B, decode(bank, A, group.V.shape[1]), bank, coded.B, levels=levels, known=known)
    return Coded(A, B)


def _widths(groups: Sequence[Group]) -> set[int]:
    return {width for group in groups for width in (group.U.shape[1], group.V.shape[1])}


def _errors(groups: Sequence[Group], coded: Sequence[Coded], bank: Tensor) -> list[Tensor]:
    def errors(pair: tuple[Group, Coded]) -> Tensor:
        return squared_errors(pair[0], *decoded(*pair, bank))

    return list(parallel_map(errors, zip(groups, coded, strict=True), device=bank.device))


def _weighted(groups: Sequence[Group], errors: Sequence[Tensor]) -> float:
    return sum(float((error * group.weight).sum()) for group, error in zip(groups, errors, strict=True))


def _by_norm(bank: Tensor, coded: Sequence[Coded]) -> tuple[Tensor, list[Coded]]:
    """The bank with its longest vectors first, so that neighbours share their quantiser's class, and codes to match."""
    order = bank.square().sum(1).argsort(dim=0, descending=True, stable=True)
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=order.device)
    moved = [
        Coded(Codes(place[codes.A.indices], codes.A.weights), Codes(place[codes.B.indices], codes.B.weights))
        for codes in coded
    ]
    return bank[order], moved
