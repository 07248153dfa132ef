"""Content hashes as the format writes them."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from adaptzip.files.regular import open_regular

_BLOCK = 2**20
_SAMPLE, _SAMPLES = 4096, 256
"""Bytes of a block of a sample, and how many there are."""


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
    with open_regular(path) as handle:
        yield from iter(lambda: handle.read(_BLOCK), b"")


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's content, as `sha256sum` and the Hub write it.

    Raises:
        OSError: if it cannot be read.
    """
    sha = hashlib.sha256()
    for block in _blocks(path):
        sha.update(block)
    return sha.hexdigest()


def sampled_digest(path: Path) -> str:
    """The SHA-256 of a large file's size, first MiB and 256 blocks of 4 KiB that are spread evenly over it.

    It tells other files apart that were trained or written otherwise, for the cost of reading 2 MiB; a single changed
    number it does not see. Of a file of up to 2 MiB nothing is left out.

    Raises:
        OSError: if it cannot be read.
    """
    size = path.stat().st_size
    sha = hashlib.sha256(size.to_bytes(8, "little"))
    with open_regular(path) as handle:
        sha.update(handle.read(_BLOCK if size > 2 * _BLOCK else size))
        for number in range(_SAMPLES) if size > 2 * _BLOCK else ():
            handle.seek(_BLOCK + (size - _BLOCK - _SAMPLE) * number // (_SAMPLES - 1))
            sha.update(handle.read(_SAMPLE))
    return sha.hexdigest()
