"""What a request may do with a bank, and with methods that take one."""

from __future__ import annotations

from pathlib import Path

from adaptzip.bases.banks import holds_bank
from adaptzip.core.basis import Basis
from adaptzip.errors import RefusedError
from adaptzip.fitting.requests import AUTO, Original, Request
from adaptzip.methods import load, names


def check_bank_used(source: Original, request: Request) -> None:
    """Refuse a bank that is given to a method without use for one, and another basis to a method that takes banks.

    Raises:
        RefusedError: if it is.
    """
    if request.basis is None or request.to == AUTO:
        return
    method, given = load(request.to), holds_bank(request.basis)
    if given and not method.takes_bank and not source.packed:
        takes = next((name for name in names() if load(name).takes_bank), None)
        raise RefusedError(
            f"{_named(request.basis)}: is a bank of vectors, which method {request.to!r} has no use for",
            hint=f"compress with `to={takes!r}`",
        )
    if method.takes_bank and not given and not source.packed:
        raise RefusedError(
            f"{_named(request.basis)}: is no bank of vectors, which method {request.to!r} takes for its basis",
            hint="give a file that `adaptzip bank build` wrote",
        )


def _named(basis: str | Path | Basis) -> str:
    return "the basis" if isinstance(basis, Basis) else str(basis)


def refuse_training(request: Request) -> None:
    """Raises: RefusedError: if a bank is given to be trained, which other adapters refer to."""
    if holds_bank(request.basis) and load(request.to).takes_bank:
        raise RefusedError(
            "a bank that adapters share was given, and training would change its vectors",
            hint="leave `basis=` out: the file then has a bank of its own",
        )
