"""A frozen basis: orthonormal directions of modules' outputs and inputs, between which cores are stored; or a bank."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from adaptzip.core.showing import Shown
from adaptzip.core.words import count

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from adaptzip.core.bank import Bank

BasisSource = Literal["base", "file", "embedded", "start", "reference", "bank"]


@dataclass(frozen=True)
class Start:
    """A random generator's numbers that modules' A began with, which a reader makes again.

    Attributes:
        generator: which numbers (formats/adz-1.md), such as "uniform": MT19937, as torch's CPU generator draws them.
        seed: of the generator.
        offsets: numbers before those of each module that has directions, in the order of the modules' names.
        correlation: of the A that were compressed with what they began with, the mean over modules; only told.
    """

    generator: str
    seed: int
    offsets: tuple[int, ...]
    correlation: float = 0.0


@dataclass(frozen=True)
class BasisReference:
    """Where a compressed adapter's basis is found.

    Attributes:
        source: "base": recomputed from the base model's weights; "file": an artefact; "embedded": in the file itself;
            "start": made again from a seed; "reference": the rows of another adapter's A; "bank": an artefact of
            vectors that pieces of factors are mixed of.
        size: most directions a module has on either side; vectors of a bank.
        hash: digest of the base tensors, or of the artefact's or the other adapter's content; "" where a reader needs
            nothing else.
        description: what made it, such as the base model's name or the adapters' count, for messages.
        start: the seed, and where each module's numbers are, for a start.
    """

    source: BasisSource
    size: int
    hash: str = ""
    description: str = ""
    start: Start | None = None


@dataclass(frozen=True, eq=False, repr=False)
class ModuleBasis(Shown):
    """One module's directions: U (out, k) and V (in, k), float32, the most important first.

    Columns are orthonormal to the rounding of the dtype they were stored in. A side that has fewer directions than
    the other, or than can be told apart from rounding, ends in zero columns. A frame may have V alone: its U has none.

    Attributes:
        mean: (k, k), float32: U @ mean @ V^T is the mean update of the adapters that the basis is of; None where it is
            not kept.
    """

    U: Tensor
    V: Tensor
    mean: Tensor | None = None

    @property
    def size(self) -> int:
        """k, the number of directions on either side."""
        return self.V.shape[1]

    def to(self, device: torch.device) -> ModuleBasis:
        """The same on a device."""
        mean = None if self.mean is None else self.mean.to(device)
        return ModuleBasis(self.U.to(device), self.V.to(device), mean)

    def leading(self, size: int) -> ModuleBasis:
        """The first `size` directions on both sides, and what they hold of the mean."""
        mean = None if self.mean is None else self.mean[:size, :size]
        return ModuleBasis(self.U[:, :size], self.V[:, :size], mean)

    @property
    def both(self) -> bool:
        """Whether directions of outputs are known as well."""
        return self.U.shape[1] == self.size

    def _told(self) -> Iterator[str]:
        yield f"{self.U.shape[0]} x {self.V.shape[0]}"
        yield count(self.size, "direction")
        if self.mean is not None:
            yield "a mean"


@dataclass(frozen=True, eq=False, repr=False)
class Basis(Shown):
    """A basis for many modules, or a bank, which knows no modules.

    Attributes:
        modules: by module name; {} for a bank.
        reference: what a file says of it.
        bank: the bank, where it is one.
    """

    modules: Mapping[str, ModuleBasis]
    reference: BasisReference
    bank: Bank | None = None

    def _told(self) -> Iterator[str]:
        yield self.reference.source
        if self.bank is not None:
            yield from self.bank._told()
        else:
            yield count(len(self.modules), "module")
            yield f"at most {count(self.reference.size, 'direction')}"
        yield self.reference.description

    def to(self, device: torch.device) -> Basis:
        """The same on a device."""
        modules = {name: module.to(device) for name, module in self.modules.items()}
        bank = None if self.bank is None else replace(self.bank, vectors=self.bank.vectors.to(device))
        return replace(self, modules=modules, bank=bank)

    def of(self, names: Collection[str]) -> Basis:
        """The basis of these of its modules alone."""
        modules = {name: module for name, module in self.modules.items() if name in names}
        size = max((module.size for module in modules.values()), default=0)
        start = self.reference.start
        if start is not None:
            kept = zip(sorted(self.modules), start.offsets, strict=True)
            start = replace(start, offsets=tuple(offset for name, offset in kept if name in names))
        return Basis(modules, replace(self.reference, size=size, start=start))

    def cut(self, sizes: Mapping[str, int]) -> Basis:
        """The basis of these of its modules, in so many of their first directions."""
        kept = self.of(sizes)
        modules = {
            name: m if m.size == sizes[name] else ModuleBasis(m.U[:, : sizes[name]], m.V[:, : sizes[name]])
            for name, m in kept.modules.items()
        }
        size = max((module.size for module in modules.values()), default=0)
        return Basis(modules, replace(kept.reference, size=size))
