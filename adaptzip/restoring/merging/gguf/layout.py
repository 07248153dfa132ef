"""The bytes of a merged GGUF file before its tensors, and where each of those goes.

The library's own writer has every value and one whole tensor in memory, and leaves empty lists out. Here values are the
base's bytes, and tensors are written a block of rows at a time.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO

from adaptzip.checkpoints._gguf.header import MAGIC, TEXT, UINT32, Header, Value, aligned
from adaptzip.files.regular import open_regular
from adaptzip.restoring.merging.gguf.plan import GgufPlan

KEY = "adaptzip.merge"
"""What was merged, as JSON."""
_VERSION = 3
_FILE_TYPE, _MOSTLY_BF16 = "general.file_type", 32
_OF_PARTS = ("split.no", "split.count", "split.tensors.count")


@dataclass(frozen=True, eq=False)
class Layout:
    """A file to be written.

    Attributes:
        values: the bytes of all values of the base that it keeps, and how many they are.
        places: the byte where each tensor begins, in order.
        told: the bytes of what the file says of the merge.
        size: of the whole file.
    """

    values: bytes
    count: int
    places: tuple[int, ...]
    told: int
    size: int


def lay_out(plan: GgufPlan, told: int) -> Layout:
    """Where everything goes.

    Args:
        told: the bytes to keep for what the file says of the merge.
    """
    kept = _kept(plan.base.header)
    with open_regular(plan.base.files[0]) as handle:
        values = b"".join(_bytes(handle, value, plan.dequantised) for value in kept)
    alignment = plan.base.header.alignment
    begin = aligned(len(_head(plan, values, len(kept), " " * told)), alignment)
    places = []
    for output in plan.outputs:
        places.append(begin)
        begin = aligned(begin + output.bytes, alignment)
    return Layout(values, len(kept), tuple(places), told, begin)


def head(plan: GgufPlan, layout: Layout, told: str) -> bytes:
    """The bytes before the tensors; `told` may be shorter than what was kept for it, and is filled with spaces."""
    return _head(plan, layout.values, layout.count, told + " " * (layout.told - len(told.encode())))


def _kept(header: Header) -> Sequence[Value]:
    """The base's values but for those that tell of its being in parts, or merged before."""
    return [value for key, value in header.values.items() if key not in (*_OF_PARTS, KEY)]


def _bytes(file: BinaryIO, value: Value, dequantised: bool) -> bytes:
    """A value as the base has it, but for the type of most tensors, which dequantising changes."""
    file.seek(value.begin)
    found = file.read(value.end - value.begin)
    if dequantised and value.key == _FILE_TYPE and value.kind == UINT32:
        return found[:-4] + struct.pack("<I", _MOSTLY_BF16)
    return found


def _head(plan: GgufPlan, values: bytes, count: int, told: str) -> bytes:
    parts = [MAGIC, struct.pack("<IQQ", _VERSION, len(plan.outputs), count + 1), values]
    parts += [_text(KEY), struct.pack("<I", TEXT), _text(told)]
    place = 0
    for output in plan.outputs:
        shape = output.base.shape
        parts += [_text(output.base.name), struct.pack(f"<I{len(shape)}Q", len(shape), *shape[::-1])]
        parts += [struct.pack("<IQ", output.kind, place)]
        place = aligned(place + output.bytes, plan.base.header.alignment)
    return b"".join(parts)


def _text(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()
