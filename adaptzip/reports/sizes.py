"""How large adapters are on disk: the whole file, and the update alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from adaptzip.adz.container.reader import read_header
from adaptzip.core.adapter import Adapter
from adaptzip.restoring.functions import Functions
from adaptzip.restoring.opening import archive_file, source_bytes


@dataclass(frozen=True)
class Sizes:
    """Bytes of an adapter's file.

    Attributes:
        bytes: of the weight file or the `.adz`.
        update_bytes: of the update alone: the factors, or the parts of a `.adz` that are neither header nor extras.
        method: what made a `.adz`, else None.
    """

    bytes: int
    update_bytes: int
    method: str | None = None


def sizes_of(path: str | Path, adapter: Adapter | Functions) -> Sizes:
    """Sizes of the file at `path`, which `adapter` was read from.

    Raises:
        CheckpointError, FormatError: if there is none, or it can't be read.
    """
    archive, whole = archive_file(path), source_bytes(path)
    if archive is None:
        if isinstance(adapter, Functions):
            return Sizes(whole, whole)
        return Sizes(whole, sum(factors.A.nbytes + factors.B.nbytes for factors in adapter.modules.values()))
    opened = read_header(archive)
    # A file without modules keeps functions, whose tensors are among its extras.
    metadata = opened.head.metadata
    beside = 0 if metadata.sites else opened.parts["extras"]
    return Sizes(whole, update_bytes(opened.parts) + beside, metadata.method)


def update_bytes(parts: Mapping[str, int]) -> int:
    """Bytes of a `.adz`'s update: of all parts but header and extras."""
    return sum(size for part, size in parts.items() if part not in ("header", "extras"))
