"""A method with what its modules are coded with, and what a block may stand for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeAlias, TypeVar

from torch import Tensor

from adaptzip.adz.coding.entropy import SPARE_BYTES, Layout
from adaptzip.core.basis import Basis
from adaptzip.core.compressed import Site, TensorSpec
from adaptzip.core.family import BASIS_MEAN, BASIS_U, BASIS_V, AnyFamily, MethodConfig
from adaptzip.errors import FormatError

MOST_FACTOR_NUMBERS_PER_BYTE = 65536
"""Numbers in a module's factors for each byte of its block, with 64 bytes more: a bound for hostile files."""


FamilyT = TypeVar("FamilyT", bound=AnyFamily, covariant=True)


@dataclass(frozen=True, eq=False)
class Coder(Generic[FamilyT]):
    """A method and what its modules are coded with.

    Attributes:
        method: any family does for decoding; what fits and codes modules asks for a `Method`.
        config: the method's, settled.
        sites: every module's shape.
        max_rank: largest rank that a block may have.
        basis: the frozen basis, for methods that need one, the frames of some modules, or a bank.
    """

    method: FamilyT
    config: MethodConfig
    sites: Mapping[str, Site]
    max_rank: int
    basis: Basis | None = None

    @property
    def given(self) -> dict[str, Tensor]:
        """Shared tensors that lie in a bank outside the file, by role."""
        bank = None if self.basis is None else self.basis.bank
        return {} if bank is None else {self.method.shared_roles[0]: bank.vectors}

    def basis_tensors(self, name: str) -> dict[str, Tensor]:
        """A module's basis or frame, by role; {} where it has none."""
        if self.method.takes_frame and not self.sites[name].frame:
            return {}
        if self.basis is None or self.basis.bank is not None:
            return {}
        module = self.basis.modules[name]
        if self.method.takes_frame and self.method.frame_sides(self.config) == 1:
            return {BASIS_V: module.V}
        mean = {} if module.mean is None or self.method.takes_frame else {BASIS_MEAN: module.mean}
        return {BASIS_U: module.U, BASIS_V: module.V, **mean}


AnyCoder: TypeAlias = Coder[AnyFamily]


def numbered(sites: Mapping[str, Site], sizes: Sequence[int] = ()) -> dict[str, Site]:
    """All sites of a file as a coder knows them: each with its number, and the directions of its frame.

    Args:
        sites: by sorted name.
        sizes: directions of each module's frame, in the order of the sites; () for no frames.
    """
    frames = sizes or [0] * len(sites)
    return {
        name: replace(site, frame=size, number=number)
        for number, ((name, site), size) in enumerate(zip(sites.items(), frames, strict=True))
    }


def layout_of(coder: AnyCoder, name: str, size: int) -> Layout:
    """A module's layout by its rank, for decoding it from `size` bytes.

    The layout raises:
        FormatError: if the rank is out of range, or its factors would be too large for so few bytes.
    """
    site = coder.sites[name]

    def layout(rank: int) -> Sequence[TensorSpec]:
        if rank > min(coder.max_rank, coder.method.max_rank(site, coder.config)):
            raise FormatError(f"module {name!r}, {site.out} x {site.width}: rank {rank} is out of range")
        numbers = factor_numbers(coder, name, rank)
        if numbers > most_factor_numbers(size):
            raise FormatError(f"module {name!r}: {size} bytes cannot stand for factors of {numbers} numbers")
        return coder.method.layout(site, rank, coder.config)

    return layout


def factor_numbers(coder: AnyCoder, name: str, rank: int) -> int:
    """Numbers in the factors that a module of this rank has."""
    site = coder.sites[name]
    return coder.method.factor_rank(site, rank, coder.config) * (site.out + site.width)


def most_factor_numbers(size: int) -> int:
    """How many numbers of factors `size` bytes may stand for."""
    return MOST_FACTOR_NUMBERS_PER_BYTE * (size + SPARE_BYTES)
