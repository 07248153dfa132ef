"""What adapters of a store may share: its bases and banks, and which of them suits an adapter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from adaptzip.bases.artefact import read_basis
from adaptzip.core.adapter import Adapter
from adaptzip.core.basis import Basis
from adaptzip.core.projection import CapturedEnergy, captured_energy
from adaptzip.files.names import SHARED
from adaptzip.files.trees import Tree, tree_at
from adaptzip.fleet.store.layout import artefact_hash

BASIS = ".basis"
_REMEMBERED = 4


@dataclass(frozen=True)
class Artefact:
    """Something that several adapters may refer to.

    Attributes:
        file: in the store.
        bytes: its size.
    """

    file: str
    bytes: int

    @property
    def hash(self) -> str:
        """Of its content, as adapters name it."""
        return artefact_hash(self.file)


def bases_in(tree: Tree) -> list[Artefact]:
    """The bases of a store, in the order of their hashes."""
    return [Artefact(file, tree.size(file) or 0) for file in tree.names(SHARED) if file.endswith(BASIS)]


def opened(location: str, file: str) -> Basis:
    """A basis of the store at `location`; the last ones are remembered.

    Raises:
        FormatError, RefusedError: as `read_basis`.
    """
    return _opened(location, file)


def fits(adapter: Adapter, basis: Basis) -> bool:
    """Whether a basis has all modules of an adapter, in their shapes."""
    known = basis.modules
    return bool(adapter.modules) and all(
        name in known and (len(known[name].U), len(known[name].V)) == module.shape
        for name, module in adapter.modules.items()
    )


def best_basis(adapter: Adapter, location: str, files: Sequence[str]) -> tuple[str, CapturedEnergy] | None:
    """The basis that holds most of an adapter's energy, and what it holds; None where none fits."""
    best: tuple[str, CapturedEnergy] | None = None
    for file in files:
        basis = opened(location, file)
        if fits(adapter, basis):
            held = captured_energy(adapter.modules, basis)
            if best is None or held.missed < best[1].missed:
                best = file, held
    return best


@lru_cache(maxsize=_REMEMBERED)
def _opened(location: str, file: str) -> Basis:
    tree = tree_at(location)
    with tree.near(file) as path:
        return read_basis(path)
