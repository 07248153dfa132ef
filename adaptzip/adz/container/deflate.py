"""Small texts of the file, deflated with a dictionary of what PEFT configurations usually say."""

from __future__ import annotations

import zlib
from importlib.resources import files

from adaptzip.errors import FormatError

LIMIT = 64 * 2**20
"""Longest text that a reader inflates."""

DICTIONARY = files("adaptzip.adz.container").joinpath("dictionary.txt").read_bytes()
"""Part of the format: formats/adz-1.md prints its sha256."""


def deflate(text: bytes) -> bytes:
    """Raw deflate (RFC 1951) with `DICTIONARY`."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zdict=DICTIONARY)
    return packer.compress(text) + packer.flush()


def inflate(data: bytes | memoryview) -> bytes:
    """Inverse of `deflate`.

    Raises:
        FormatError: if `data` is damaged or inflates to more than `LIMIT` bytes.
    """
    unpacker = zlib.decompressobj(-15, zdict=DICTIONARY)
    try:
        text = unpacker.decompress(data, LIMIT)
    except zlib.error as error:
        raise FormatError(f"a deflated text is damaged: {error}") from error
    if not unpacker.eof or unpacker.unused_data:
        raise FormatError(f"a deflated text is damaged or longer than {LIMIT} bytes")
    return text
