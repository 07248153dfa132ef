"""Streams: byte arrays with names, held as one-dimensional U8 tensors of a safetensors file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from adaptzip.container.header import KEY
from adaptzip.errors import FormatError

MAX_HEADER = 64 * 2**20


def frame(metadata: str, sizes: Mapping[str, int]) -> bytes:
    """The start of the file: header length and safetensors header, streams in the order of `sizes`."""
    entries: dict[str, Any] = {"__metadata__": {KEY: metadata}}
    position = 0
    for name, size in sizes.items():
        entries[name] = {"dtype": "U8", "shape": [size], "data_offsets": [position, position + size]}
        position += size
    header = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header


def parse_frame(start: memoryview, file_size: int) -> tuple[str, dict[str, tuple[int, int]]]:
    """Read the header at the start of a file.

    Returns:
        The metadata text, and (first byte, end) of each stream in the file.

    Raises:
        FormatError: if this is no `.adz` file, or its header is malformed or points outside the file.
    """
    length = int.from_bytes(start[:8], "little")
    if file_size < 8 or length > min(MAX_HEADER, file_size - 8):
        raise FormatError("not a .adz file: no safetensors header that fits the file")
    try:
        entries = json.loads(bytes(start[8 : 8 + length]), object_pairs_hook=_unique)
        metadata = entries.pop("__metadata__")[KEY]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise FormatError("not a .adz file: its header has no 'adaptzip' metadata") from error
    if not isinstance(metadata, str):
        raise FormatError("not a .adz file: its 'adaptzip' metadata is not text")
    streams, position = {}, 8 + length
    for name, first, end in sorted(_spans(entries), key=lambda span: span[1:]):
        if first != position - 8 - length:
            raise FormatError(f"stream {name!r} does not begin where the one before it ends")
        streams[name] = (position, 8 + length + end)
        position = 8 + length + end
    if position != file_size:
        raise FormatError(f"the file has {file_size} bytes where its header announces {position}")
    return metadata, streams


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a key is repeated")
    return table


def _spans(entries: Mapping[str, Any]) -> Iterable[tuple[str, int, int]]:
    for name, entry in entries.items():
        match entry:
            case {"dtype": "U8", "shape": [int(size)], "data_offsets": [int(first), int(end)]} if (
                0 <= first <= end and end - first == size
            ):
                yield name, first, end
            case _:
                raise FormatError(f"stream {name!r} is not a one-dimensional U8 tensor")


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
        FormatError: if `data` is not a row of whole numbers below 2^42.
    """
    lengths, value, shift = [], 0, 0
    for byte in data:
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
