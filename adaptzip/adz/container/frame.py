"""The safetensors file around everything: one tensor of bytes, and no metadata (formats/adz-1.md, section 1.1)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from adaptzip.errors import FormatError
from adaptzip.files import strict_json
from adaptzip.files.regular import open_regular

TENSOR = "adz"
"""The tensor's name."""
MAX_FRAME = 2**16
"""Longest safetensors header that a reader parses."""


def frame(size: int) -> bytes:
    """The start of a file with a tensor of so many bytes."""
    entry = {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}
    header = json.dumps({TENSOR: entry}, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header


def frame_end(start: bytes, file_size: int) -> int:
    """Bytes before the tensor.

    Args:
        start: the file's first bytes, `8 + MAX_FRAME` of them or all.

    Raises:
        FormatError: if this is no `.adz` file, or its header is malformed or speaks of another size.
    """
    length = int.from_bytes(start[:8], "little")
    if not 0 < length <= min(MAX_FRAME, file_size - 8) or start[8:9] != b"{":
        raise FormatError("not a .adz file: no safetensors header that fits the file")
    entries = strict_json.parse(start[8 : 8 + length], "not a .adz file: its safetensors header")
    size = _size(entries)
    if size is None:
        raise FormatError(f"not a .adz file: its header does not name one tensor {TENSOR!r} of bytes")
    if 8 + length + size != file_size:
        raise FormatError(f"the file has {file_size} bytes where its header announces {8 + length + size}")
    return 8 + length


def is_adz(path: Path) -> bool:
    """Whether a file is a `.adz`, by its name or by what its safetensors header names.

    Raises:
        OSError: if it cannot be read.
    """
    if not path.is_file():
        return False
    if path.suffix == ".adz":
        return True
    with open_regular(path) as handle:
        length = int.from_bytes(handle.read(8), "little")
        header = handle.read(length) if length <= MAX_FRAME else b""
    try:
        return set(strict_json.parse(header, str(path))) - {"__metadata__"} == {TENSOR}
    except (FormatError, TypeError):
        return False


def _size(entries: Any) -> int | None:
    match entries:
        case {"adz": {"dtype": "U8", "shape": [size], "data_offsets": [first, end], **more}, **rest}:
            alone = not more and rest.keys() <= {"__metadata__"}
            if alone and all(type(n) is int for n in (size, first, end)) and first == 0 and end == size >= 0:
                return int(size)
    return None
