"""Texts of the head, deflated with a dictionary of what they usually say."""

from __future__ import annotations

import zlib
from functools import lru_cache
from importlib.resources import files

from adaptzip.errors import FormatError

LIMIT = 64 * 2**20
"""Longest text that a reader inflates."""

DICTIONARY = files("adaptzip.adz.container").joinpath("dictionary.txt").read_bytes()
"""Part of the format: formats/adz-1.md prints its sha256."""

_SHORT = 2**14
"""Longest text that is deflated once only, however often a file's size is asked for."""


def deflate(text: bytes) -> bytes:
    """Raw deflate (RFC 1951) with `DICTIONARY`."""
    return _remembered(text) if len(text) <= _SHORT else _deflate(text)


def _deflate(text: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zdict=DICTIONARY)
    return packer.compress(text) + packer.flush()


_remembered = lru_cache(maxsize=32)(_deflate)


def inflate(data: bytes) -> tuple[bytes, bytes]:
    """The text, and what follows the deflated data.

    Raises:
        FormatError: if `data` is damaged or inflates to more than `LIMIT` bytes.
    """
    unpacker = zlib.decompressobj(-15, zdict=DICTIONARY)
    try:
        text = unpacker.decompress(data, LIMIT)
    except zlib.error as error:
        raise FormatError(f"a deflated text is damaged: {error}") from error
    if not unpacker.eof:
        raise FormatError(f"a deflated text is damaged or longer than {LIMIT} bytes")
    return text, unpacker.unused_data
