"""Content hashes as the format writes them."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from pathlib import Path

_BLOCK = 2**20


def digest(parts: Iterable[bytes | memoryview]) -> str:
    """The first 16 bytes of the SHA-256 of the parts in a row, as 22 characters of base64url."""
    sha = hashlib.sha256()
    for part in parts:
        sha.update(part)
    return base64.urlsafe_b64encode(sha.digest()[:16]).decode().rstrip("=")


def file_digest(path: Path) -> str:
    """`digest` of a file's content.

    Raises:
        OSError: if it cannot be read.
    """
    with path.open("rb") as handle:
        return digest(iter(lambda: handle.read(_BLOCK), b""))
