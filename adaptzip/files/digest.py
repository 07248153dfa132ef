"""Content hashes as the format writes them."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

_BLOCK = 2**20


def digest(parts: Iterable[bytes | memoryview]) -> str:
    """The first 16 bytes of the SHA-256 of the parts in a row, as 22 characters of base64url."""
    sha = hashlib.sha256()
    for part in parts:
        sha.update(part)
    return base64.urlsafe_b64encode(sha.digest()[:16]).decode().rstrip("=")


def file_digest(*paths: Path) -> str:
    """`digest` of the content of a file, or of several in a row.

    Raises:
        OSError: if one cannot be read.
    """
    return digest(block for path in paths for block in _blocks(path))


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as handle:
        yield from iter(lambda: handle.read(_BLOCK), b"")
