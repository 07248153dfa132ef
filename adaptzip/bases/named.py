"""Bases and banks that a file names by the hash of their content: given, or found in a store."""

from __future__ import annotations

import re
from collections.abc import Mapping
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
    places = (folder / SHARED, folder)
    for path in (place / name for place in places for name in _named(content)):
        if path.is_file():
            return path
    raise RefusedError(
        f"{folder}: has no artefact of hash {content}, which the adapter was compressed with",
        hint="give its file, or a store that holds it as `shared/HASH.basis`",
    )


def artefact_beside(path: Path, content: str) -> Path | None:
    """The artefact of a hash that lies beside a file, or in the store around it; None where none does."""
    names = _named(content)
    # Where a file is a link, its own store may be where that leads.
    for folder in dict.fromkeys((path.absolute().parent, path.resolve().parent)):
        for place in (folder / SHARED, folder, *(above / SHARED for above in folder.parents)):
            for name in names:
                if _is_file(place / name):
                    return place / name
    return None


def _is_file(path: Path) -> bool:
    """Whether it is one, as far as this user may see."""
    try:
        return path.is_file()
    except OSError:
        return False


def _named(content: str) -> list[str]:
    """The names that the artefact of a hash may have, which is made of nothing but what a hash is made of."""
    return [f"{content}{suffix}" for suffix in ARTEFACTS.values()] if _HASH.fullmatch(content) else []


def _read(path: str | Path, reference: BasisReference) -> Basis:
    return read_bank(path) if reference.source == "bank" else read_basis(path)
