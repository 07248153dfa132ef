"""Streams: byte arrays with names, held as one-dimensional U8 tensors of a safetensors file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from adaptzip.adz.container.header import KEY, MAX_MODULES
from adaptzip.errors import FormatError, RefusedError
from adaptzip.files import strict_json

MAX_HEADER = 16 * 2**20
"""Longest safetensors header that a reader parses and a writer writes."""


def frame(metadata: str, sizes: Mapping[str, int]) -> bytes:
    """The start of the file: header length and safetensors header, streams in the order of `sizes`.

    Raises:
        RefusedError: if the header would be longer than `MAX_HEADER`.
    """
    entries: dict[str, Any] = {"__metadata__": {KEY: metadata}}
    position = 0
    for name, size in sizes.items():
        entries[name] = {"dtype": "U8", "shape": [size], "data_offsets": [position, position + size]}
        position += size
    header = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    header += b" " * (-len(header) % 8)
    if len(header) > MAX_HEADER:
        raise RefusedError(f"the adapter's module names take {len(header)} bytes, more than {MAX_HEADER}")
    return len(header).to_bytes(8, "little") + header


def parse_frame(start: memoryview, file_size: int) -> tuple[str, dict[str, tuple[int, int]]]:
    """Read the header at the start of a file.

    Returns:
        The metadata text, and (first byte, end) of each stream in the file.

    Raises:
        FormatError: if this is no `.adz` file, or its header is malformed or points outside the file.
    """
    length = int.from_bytes(start[:8], "little")
    if length > min(MAX_HEADER, file_size - 8) or bytes(start[8:9]) != b"{":
        raise FormatError("not a .adz file: no safetensors header that fits the file")
    entries = strict_json.parse(bytes(start[8 : 8 + length]), "not a .adz file: its safetensors header")
    metadata = entries.pop("__metadata__", None) if isinstance(entries, dict) else None
    text = metadata.get(KEY) if isinstance(metadata, dict) else None
    if not isinstance(text, str):
        raise FormatError(f"not a .adz file: its header has no {KEY!r} metadata")
    streams, position = {}, 8 + length
    for name, first, end in sorted(_spans(entries), key=lambda span: span[1:]):
        if first != position - 8 - length:
            raise FormatError(f"stream {name!r} does not begin where the one before it ends")
        streams[name] = (position, 8 + length + end)
        position = 8 + length + end
    if position != file_size:
        raise FormatError(f"the file has {file_size} bytes where its header announces {position}")
    return text, streams


def _spans(entries: Mapping[str, Any]) -> Iterable[tuple[str, int, int]]:
    for name, entry in entries.items():
        match entry:
            case {"dtype": "U8", "shape": [size], "data_offsets": [first, end], **rest} if not rest:
                whole = all(type(number) is int for number in (size, first, end))
            case _:
                whole = False
        if not whole or not 0 <= first <= end or end - first != size:
            raise FormatError(f"stream {name!r} is not a one-dimensional U8 tensor")
        yield name, first, end


def write_lengths(lengths: Iterable[int]) -> bytes:
    """Numbers as LEB128."""
    result = bytearray()
    for length in lengths:
        while length >= 128:
            result.append(length & 127 | 128)
            length >>= 7
        result.append(length)
    return bytes(result)


def read_lengths(data: bytes) -> list[int]:
    """Inverse of `write_lengths`.

    Raises:
        FormatError: if `data` is not a row of at most `MAX_MODULES` whole numbers below 2^42, each as short as it
            can be.
    """
    lengths: list[int] = []
    value = shift = 0
    for byte in data:
        if len(lengths) == MAX_MODULES or (shift and byte == 0):
            raise FormatError("the index is damaged or has too many entries")
        value |= (byte & 127) << shift
        if byte < 128:
            lengths.append(value)
            value, shift = 0, 0
        else:
            shift += 7
            if shift > 35:
                raise FormatError("the index holds a number that is too large")
    if shift:
        raise FormatError("the index ends within a number")
    return lengths
