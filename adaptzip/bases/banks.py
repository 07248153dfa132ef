"""Which bank an adapter is compressed with, and finding it again to reconstruct."""

from __future__ import annotations

from pathlib import Path

from adaptzip.bases.bank_file import is_bank, read_bank
from adaptzip.core.basis import Basis, BasisReference
from adaptzip.core.compressed import TensorSpec
from adaptzip.errors import FormatError, RefusedError

_SHOWN = 8


def holds_bank(basis: str | Path | Basis | None) -> bool:
    """Whether what is given as a basis is a bank, or a file that calls itself one."""
    if isinstance(basis, Basis):
        return basis.bank is not None
    return basis is not None and is_bank(basis)


def bank_for_compress(basis: str | Path | Basis) -> Basis:
    """The bank that is given, exactly as a reader will have it.

    Raises:
        FormatError, RefusedError: as `read_bank`.
    """
    return basis if isinstance(basis, Basis) else read_bank(basis)


def bank_for_reconstruct(reference: BasisReference, spec: TensorSpec, basis: str | Path | Basis | None) -> Basis:
    """The bank that a compressed adapter was coded with.

    Args:
        reference: what the file says of it.
        spec: the shared tensor that it stands for.
        basis: the bank, or the path of its file.

    Raises:
        RefusedError: if it was not given, or is another than the file was made with.
        FormatError: if the file's settings do not fit it, or it is unreadable.
    """
    if reference.source != "bank":
        raise FormatError(f"the file's vectors cannot come from what is {reference.source!r}")
    if basis is None:
        told = f" ({reference.description})" if reference.description else ""
        raise RefusedError(
            f"the adapter is coded with a bank{told} of hash {reference.hash[:_SHOWN]}..., which was not given",
            hint="add `basis=FILE`, the very one that it was compressed with",
        )
    if not holds_bank(basis):
        raise RefusedError(
            f"{'the basis' if isinstance(basis, Basis) else basis}: is no bank, and the adapter was compressed with "
            f"one of hash {reference.hash[:_SHOWN]}...",
            hint="give the very one that the adapter was compressed with",
        )
    found = bank_for_compress(basis)
    if found.bank is None or found.reference.hash != reference.hash:
        where = "the bank" if isinstance(basis, Basis) else str(basis)
        raise RefusedError(
            f"{where}: has hash {found.reference.hash[:_SHOWN]}..., the adapter was compressed with "
            f"{reference.hash[:_SHOWN]}...",
            hint="give the very one that the adapter was compressed with",
        )
    if tuple(found.bank.vectors.shape) != (spec.rows, spec.width):
        raise FormatError(
            f"the file's bank is {spec.rows} x {spec.width}, and the one it names {list(found.bank.vectors.shape)}"
        )
    return found
