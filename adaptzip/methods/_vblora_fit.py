"""What `vblora` makes of an adapter and its modules, and the codes that are stored of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from adaptzip.methods._banks.codes import Codes, decode, piece_count
from adaptzip.methods._banks.factors import Coded, Group, recode
from adaptzip.methods._banks.sections import LastSections
from adaptzip.methods._banks.single import expanded, from_stored
from adaptzip.methods._vblora_config import Config, choices_of


@dataclass(frozen=True, eq=False)
class Prepared:
    """A fitted bank, as it is stored, and the codes of every module.

    Attributes:
        bank: (h, length), multiplied by the config's scale.
        coded: by module: codes of A (rank, in) and of B transposed (rank, out), on the CPU.
        exposures: by module: squared error that a squared error of 1 in every stored number of the bank makes.
        given: whether the bank was there before the adapter, so that ranks may follow the step.
        outside: whether it stays outside the file.
        searched: the bank as it was decoded last, for all modules.
    """

    bank: Tensor
    coded: Mapping[str, Coded]
    exposures: Mapping[str, float]
    given: bool = False
    outside: bool = False
    searched: LastSections = field(default_factory=LastSections)


@dataclass(eq=False)
class VbFit:
    """A module: the update's own components (a group of one), and the codes to begin with.

    It remembers what `target` chose for one role and needs for the next (`chosen`), and for a bank that no step changes
    what it chose at each rank (`known`).

    Attributes:
        errors: weighted squared error of the first rows of these codes with the bank as it was fitted, for each number
            of rows from 0 where the bank is given; of all of them alone otherwise.
        exposure: see `Prepared`.
        spread: mean square of the stored bank's numbers.
        searched: see `Prepared`.
        chosen: codes of a factor between its two roles, with the bank that they were chosen for.
        known: codes by factor and rank; None where the bank is coded with the adapter.
    """

    group: Group
    coded: Coded
    config: Config
    errors: NDArray[np.float64]
    exposure: float
    spread: float
    searched: LastSections = field(default_factory=LastSections)
    chosen: dict[str, tuple[Tensor, Codes]] = field(default_factory=dict)
    known: dict[tuple[str, int], Codes] | None = None


@dataclass(frozen=True, eq=False)
class VbProfile:
    """Summary of a module.

    Attributes:
        singular: weighted squares of the singular values, one for each unit of rank.
        energy: weighted |dW|^2.
        errors: as in `VbFit`.
        unit_bits, unit_numbers: bits and numbers of one unit of rank.
        exposure, spread: as in `VbFit`.
    """

    singular: NDArray[np.float64]
    energy: float
    errors: NDArray[np.float64]
    unit_bits: float
    unit_numbers: int
    exposure: float
    spread: float

    @property
    def scores(self) -> list[float]:
        return [float(value) / self.unit_numbers for value in self.singular]

    def error(self, rank: int) -> float:
        """Weighted squared error of the first rows, without the bank's quantisation."""
        return float(self.errors[rank] if len(self.errors) > 1 else self.errors[0] + self.singular[rank:].sum())


def recoded(fitted: VbFit, side: str, rank: int, done: Mapping[str, Tensor]) -> Codes:
    """The codes of a factor for the bank as it will be decoded, and for B with A as it will be."""
    if fitted.known is None:
        return _recoded(fitted, side, rank, done)
    if rank == fitted.group.rank:
        # Nothing has changed since they were chosen.
        first = expanded(fitted.coded, rank, done["bank"].device)
        return first.A if side == "A" else first.B
    if (side, rank) not in fitted.known:
        fitted.known[side, rank] = _recoded(fitted, side, rank, done)
    return fitted.known[side, rank]


def _recoded(fitted: VbFit, side: str, rank: int, done: Mapping[str, Tensor]) -> Codes:
    levels, group = fitted.config.levels, replace(fitted.group, rank=rank)
    width = (group.A if side == "A" else group.B).width
    bank, known = fitted.searched.of(done["bank"], fitted.config.scale, width, fitted.coded.A.k)
    first = expanded(fitted.coded, rank, bank.device)
    if side == "A":
        return recode(group.A, decode(bank, first.B, group.U.shape[1]), bank, first.A, levels=levels, known=known)
    other = decode(bank, codes_of(done, "A", rank), group.V.shape[1])
    return recode(group.B, other, bank, first.B, levels=levels, known=known)


def coded_rank(tensors: Mapping[str, Tensor], width: int, config: Config) -> int:
    """The rank of a module whose stored tensors these are, by role; its inputs have a width."""
    return len(tensors["A.indices"]) // piece_count(width, choices_of(config).length)


def codes_of(tensors: Mapping[str, Tensor], side: str, rank: int) -> Codes:
    """The codes of a factor, "A" or "B", (1, rank, pieces, k), from the tensors stored."""
    return from_stored(tensors[f"{side}.indices"], tensors[f"{side}.weights"], rank)
