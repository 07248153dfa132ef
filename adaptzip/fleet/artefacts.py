"""What adapters of a store may share: its bases and banks, and which of them may suit an adapter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePosixPath

from adaptzip.bases.artefact import read_basis
from adaptzip.bases.bank_file import read_bank
from adaptzip.core.adapter import Adapter
from adaptzip.core.basis import Basis
from adaptzip.core.projection import captured_energy
from adaptzip.errors import RefusedError
from adaptzip.files.names import ARTEFACTS, SHARED
from adaptzip.files.trees import Tree, tree_at
from adaptzip.fleet.store.layout import artefact_hash, is_artefact

_BANK = ARTEFACTS["bank"]
_REMEMBERED = 4
_WRONG = "move it elsewhere, or leave what is shared out of account with `share='never'`"


@dataclass(frozen=True)
class Artefact:
    """Something that several adapters may refer to.

    Attributes:
        file: in the store.
        bytes: its size.
    """

    file: str
    bytes: int


def artefacts_in(tree: Tree) -> list[Artefact]:
    """The bases and banks of a store, in the order of their hashes."""
    return [Artefact(file, tree.size(file) or 0) for file in tree.names(SHARED) if is_artefact(file)]


def called(file: str) -> str:
    """What the adapters that refer to an artefact are called as a group: `basis x7Gh2kQp`."""
    return f"{PurePosixPath(file).suffix[1:]} {artefact_hash(file)[:8]}"


@lru_cache(maxsize=_REMEMBERED)
def opened(location: str, file: str) -> Basis:
    """A basis or bank of the store at `location`; the last ones are remembered.

    Raises:
        FormatError, RefusedError: as `read_basis` and `read_bank`, and where it is not what its name says.
    """
    with tree_at(location).near(file) as path:
        found = read_bank(path) if file.endswith(_BANK) else read_basis(path)
    if found.reference.hash != artefact_hash(file):
        told = f"{location}/{file}: has hash {found.reference.hash}, and not that of its name"
        raise RefusedError(told, hint=_WRONG)
    return found


def fits(adapter: Adapter, basis: Basis) -> bool:
    """Whether a basis has all modules of an adapter, in their shapes."""
    known = basis.modules
    return bool(adapter.modules) and all(
        name in known and (len(known[name].U), len(known[name].V)) == module.shape
        for name, module in adapter.modules.items()
    )


def suiting(adapters: Sequence[Adapter | None], location: str, files: Sequence[str]) -> list[tuple[str, ...]]:
    """For each adapter the basis that holds most of its energy, if one fits, and all banks, which fit any.

    Args:
        adapters: some of them; nothing suits None.
        location: of the store.
        files: its bases and banks, each of which is opened once.
    """
    banks = tuple(file for file in files if file.endswith(_BANK))
    missed: list[dict[str, float]] = [{} for _ in adapters]
    for file in files:
        for adapter, found in zip(adapters, missed, strict=True):
            if file not in banks and adapter is not None and fits(adapter, opened(location, file)):
                found[file] = captured_energy(adapter.modules, opened(location, file)).missed
    best = [min(found, key=found.__getitem__, default=None) for found in missed]
    return [
        () if adapter is None else (*([file] if file is not None else []), *banks)
        for adapter, file in zip(adapters, best, strict=True)
    ]
