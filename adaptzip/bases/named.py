"""Bases and banks that a file names by the hash of their content: given, or found in a store."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from adaptzip.bases.artefact import read_basis
from adaptzip.bases.bank_file import read_bank
from adaptzip.core.basis import Basis, BasisReference
from adaptzip.errors import RefusedError
from adaptzip.files.names import ARTEFACTS, SHARED

_SHOWN = 8
_HASH = re.compile(r"[\w-]+", re.ASCII)
_CALLED: Mapping[str, str] = {"file": "a shared basis", "bank": "a bank", "reference": "another adapter's A"}


def artefact_for(reference: BasisReference, basis: str | Path | Basis | None) -> Basis:
    """The artefact that a file refers to.

    Args:
        basis: it, its path, or that of a store that has it.

    Raises:
        RefusedError: if it was not given, or is another.
        FormatError: if it is unreadable or damaged.
    """
    if basis is None:
        what = _CALLED[reference.source] + (f" ({reference.description})" if reference.description else "")
        raise RefusedError(
            f"the adapter is coded in {what} of hash {reference.hash[:_SHOWN]}..., which was not given",
            hint="add `basis=FILE`, the very one that it was compressed with",
        )
    if not isinstance(basis, Basis) and Path(basis).is_dir():
        basis = artefact_in(Path(basis), reference.hash)
    found = basis if isinstance(basis, Basis) else _read(basis, reference)
    if found.reference.hash != reference.hash:
        where = _CALLED[reference.source] if isinstance(basis, Basis) else str(basis)
        raise RefusedError(
            f"{where}: has hash {found.reference.hash[:_SHOWN]}..., the adapter was compressed with "
            f"{reference.hash[:_SHOWN]}...",
            hint="give the very one that the adapter was compressed with",
        )
    return found


def artefact_in(folder: Path, content: str) -> Path:
    """The artefact of a hash in a store, or in its folder of what adapters share.

    Raises:
        RefusedError: if neither has it.
    """
    for path in _candidates((folder / SHARED, folder), content):
        if path.is_file():
            return path
    raise RefusedError(
        f"{folder}: has no artefact of hash {content}, which the adapter was compressed with",
        hint="give its file, or a store that holds it as `shared/HASH.basis`",
    )


def artefact_beside(path: Path, content: str) -> Path | None:
    """The artefact of a hash that lies beside a file, or in the store around it; None where none does."""
    # Where a file is a link, its own store may be where that leads.
    folders = dict.fromkeys((path.absolute().parent, path.resolve().parent))
    places = (place for f in folders for place in (f / SHARED, f, *(above / SHARED for above in f.parents)))
    return next(filter(_is_file, _candidates(places, content)), None)


def _is_file(path: Path) -> bool:
    """Whether it is one, as far as this user may see."""
    try:
        return path.is_file()
    except OSError:
        return False


def _candidates(places: Iterable[Path], content: str) -> Iterator[Path]:
    """Where the artefact of a hash may lie; nowhere, if that is made of more than hashes are made of."""
    if _HASH.fullmatch(content):
        yield from (place / f"{content}{suffix}" for place in places for suffix in ARTEFACTS.values())


def _read(path: str | Path, reference: BasisReference) -> Basis:
    return read_bank(path) if reference.source == "bank" else read_basis(path)
