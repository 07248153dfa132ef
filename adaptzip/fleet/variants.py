"""The ways in which an adapter can be coded with a basis or a bank, and what is written read back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

from adaptzip.adz.container.reader import open_again
from adaptzip.adz.container.writer import packed
from adaptzip.core.adapter import Adapter
from adaptzip.core.bank_builder import BankBuilder
from adaptzip.core.basis import Basis
from adaptzip.core.comparing import diff
from adaptzip.core.compressed import Compressed
from adaptzip.errors import CheckFailedError, RefusedError, without_warnings
from adaptzip.fitting.compression import make_from
from adaptzip.fitting.requests import Original, Request
from adaptzip.fitting.starting import known_frames
from adaptzip.methods import REFERENCE, fittable, load
from adaptzip.restoring.reconstruction import reconstruct

Sharing = Literal["auto", "always", "never"]
"""Whether an adapter is coded with a basis or bank of its store: where that pays, wherever it can be, or not."""
ALLOWED, ROUNDING = 1.001, 1e-6
"""What comes back may differ from what was measured by rounding alone: by this factor of the error, and this much."""


def shared_variants(source: Original, request: Request, shared: Basis) -> list[Compressed]:
    """An adapter with a basis or a bank, in the ways that there are, that meet the request and use it: in frames
    of a basis's directions and as cores between them, or as mixtures of a bank's vectors."""
    asked = replace(request, basis=shared)
    if shared.bank is not None:
        source = replace(source, frames=None)
        methods = [name for name in fittable() if isinstance(load(name), BankBuilder)]
    else:
        source = replace(source, frames=known_frames(source.adapter, source.adapter, asked))
        cores = [name for name in fittable() if load(name).needs_basis and load(name).default_basis == "update"]
        methods = [REFERENCE, *cores]
    found = []
    for method in methods:
        try:
            with without_warnings():
                made = make_from(source, replace(asked, to=method)).compressed
        except (CheckFailedError, RefusedError):
            continue
        if made.basis is not None and made.basis.hash == shared.reference.hash:
            found.append(made)
    return found


def smallest(found: list[Compressed], request: Request) -> Compressed:
    """That of the fewest bytes, or within a budget that of the least error."""
    return min(found, key=lambda one: (one.provenance.relative_error if request.budget else 0.0, one.bytes))


def read_back(
    adapter: Adapter, made: Compressed, shared: Basis | None, name: str, base: str | Path | None
) -> tuple[Compressed, bytes, float]:
    """What was made, opened again from its bytes; these; and the error of what comes back.

    Args:
        shared: the basis or bank that it refers to.
        name: what to call the adapter.

    Raises:
        CheckFailedError: if what comes back is less, or further away, than the file says.
    """
    content = packed(made)
    again = open_again(content)
    found = diff(adapter, reconstruct(again, base=base, basis=shared))
    error, stated = found.relative_error or 0.0, made.provenance.relative_error
    whole = not (found.only_in_a or found.only_in_b) and (found.extras_equal or not adapter.extras)
    if not whole or error > stated * ALLOWED + ROUNDING:
        raise CheckFailedError(
            f"{name}: what was written comes back with an error of {error:.6g}, expected {stated:.6g}"
        )
    return again, content, error
