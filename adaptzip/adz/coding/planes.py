"""Lossless packing of arrays: bytes of equal significance side by side, each plane by whatever codes it smallest.

The exponents of trained weights cost about 2.5 bits where a byte stream pays 8; their low mantissa bits are noise and
stay as they are. Floating-point words are first rotated left by one bit, so that the top byte is the whole exponent.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import zstandard
from constriction import stream
from numpy.typing import NDArray

from adaptzip.errors import FormatError

RAW, ZSTD, ANS = 0, 1, 2
_HEADER = 9
_FREQUENCIES = 512
_BEST_LEVEL, _FAST_LEVEL = 19, 6
_BEST_UP_TO = 16 * 2**20
_NOISE = 0.995
"""A plane that quick compression leaves this large, as a share, is stored as it is."""


def pack(array: NDArray[Any], *, floating: bool) -> bytes:
    """Pack a 1-D array of unsigned words; `floating` rotates them by a bit first."""
    words = _rotate(array, 1) if floating else array
    planes = words.astype(words.dtype.newbyteorder("<")).view(np.uint8).reshape(-1, array.itemsize)
    return b"".join(_pack_plane(np.ascontiguousarray(planes[:, i])) for i in range(array.itemsize - 1, -1, -1))


def unpack(data: memoryview, count: int, dtype: np.dtype[Any], *, floating: bool) -> tuple[NDArray[Any], int]:
    """Inverse of `pack`: the array of `count` words and the number of bytes of `data` that it took.

    Raises:
        FormatError: if `data` is damaged.
    """
    planes = np.empty((count, dtype.itemsize), dtype=np.uint8)
    position = 0
    for i in range(dtype.itemsize - 1, -1, -1):
        plane, size = _unpack_plane(data[position:], count)
        planes[:, i] = plane
        position += size
    words: NDArray[Any] = planes.reshape(-1).view(dtype.newbyteorder("<")).astype(dtype)
    return (_rotate(words, 8 * dtype.itemsize - 1) if floating else words), position


def _rotate(words: NDArray[Any], bits: int) -> NDArray[Any]:
    width = 8 * words.itemsize
    result: NDArray[Any] = (words << words.dtype.type(bits)) | (words >> words.dtype.type(width - bits))
    return result


def _pack_plane(plane: NDArray[np.uint8]) -> bytes:
    raw = plane.tobytes()
    coding, data = min(_candidates(plane, raw), key=lambda pair: len(pair[1]))
    return bytes([coding]) + len(data).to_bytes(_HEADER - 1, "little") + data


def _candidates(plane: NDArray[np.uint8], raw: bytes) -> Iterator[tuple[int, bytes]]:
    yield RAW, raw
    if not raw or len(zstandard.ZstdCompressor(level=1).compress(raw)) > _NOISE * len(raw):
        return
    level = _BEST_LEVEL if len(raw) <= _BEST_UP_TO else _FAST_LEVEL
    yield ZSTD, zstandard.ZstdCompressor(level=level).compress(raw)
    yield ANS, _ans_pack(plane)


def _unpack_plane(data: memoryview, count: int) -> tuple[NDArray[np.uint8], int]:
    if len(data) < _HEADER:
        raise FormatError("packed tensors are truncated")
    coding, size = data[0], int.from_bytes(data[1:_HEADER], "little")
    body = data[_HEADER : _HEADER + size]
    if len(body) != size:
        raise FormatError("packed tensors are truncated")
    if coding == RAW:
        plane = np.frombuffer(body, dtype=np.uint8)
    elif coding == ZSTD:
        plane = np.frombuffer(_unzstd(bytes(body), count), dtype=np.uint8)
    elif coding == ANS:
        plane = _ans_unpack(body, count)
    else:
        raise FormatError(f"packed tensors have unknown coding {coding}")
    if len(plane) != count:
        raise FormatError(f"packed tensors: expected {count} bytes in a plane, found {len(plane)}")
    return plane, _HEADER + size


def _unzstd(body: bytes, count: int) -> bytes:
    try:
        if zstandard.frame_content_size(body) != count:
            raise FormatError("packed tensors: a plane declares a wrong size")
        return zstandard.ZstdDecompressor().decompress(body, max_output_size=max(count, 1), allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise FormatError(f"packed tensors are damaged: {error}") from error


def _ans_model(weights: NDArray[np.uint16]) -> Any:
    return stream.model.Categorical(weights.astype(np.float64), perfect=False)


def _ans_pack(plane: NDArray[np.uint8]) -> bytes:
    counts = np.bincount(plane, minlength=256)
    weights = (-(-counts * 65535 // counts.max())).astype("<u2")
    coder = stream.stack.AnsCoder()
    coder.encode_reverse(plane.astype(np.int32), _ans_model(weights))
    return bytes(weights.tobytes() + coder.get_compressed().astype("<u4").tobytes())


def _ans_unpack(body: memoryview, count: int) -> NDArray[np.uint8]:
    if len(body) < _FREQUENCIES or len(body) % 4:
        raise FormatError("packed tensors are truncated")
    weights = np.frombuffer(body[:_FREQUENCIES], dtype="<u2")
    words = np.frombuffer(body[_FREQUENCIES:], dtype="<u4").astype(np.uint32)
    if not weights.any() or (len(words) and words[-1] == 0):
        raise FormatError("packed tensors are damaged")
    coder = stream.stack.AnsCoder(words)
    plane: NDArray[np.uint8] = coder.decode(_ans_model(weights), count).astype(np.uint8)
    if not coder.is_empty():
        raise FormatError("packed tensors are damaged")
    return plane
