"""Entropy coding of one block: a module's rank, the classes of its rows, and its numbers, in one ANS bit string.

The coder is constriction's stack (ANS with 32-bit words, a 64-bit state and 24-bit probabilities). It is last in,
first out, so everything is encoded in the reverse of the order in which it is decoded. All models are integers from
the format (formats/adz-1.md, "module block").
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
from constriction import stream
from numpy.typing import NDArray

from adaptzip.adz.coding import tables
from adaptzip.adz.coding.classes import decode_classes, encode_classes
from adaptzip.adz.coding.tables import LEVELS, Class
from adaptzip.adz.coding.trellis import Quantised, lanes_of, next_states
from adaptzip.core.compressed import TensorSpec
from adaptzip.errors import FormatError

ESCAPE = 2 * LEVELS + 1
"""Symbol of a level whose coded part is beyond +-LEVELS; level k has symbol k + LEVELS."""
_GUARD = np.array([1])
"""What a block of whole numbers alone ends with: zeros, as the coder's last numbers, would leave no trace."""
_LENGTHS = 24
_LONGEST = 20
"""Most bits of an escape's excess and the row's raw bits together, so that every level is below 2^22."""
_NUMBERS_PER_BYTE = 16384
"""More numbers than this never fit a byte: even a sure zero costs 0.0015 bits in the tables."""


@dataclass(frozen=True, eq=False)
class Levels:
    """A coded tensor of real numbers: its levels and the class of each row."""

    quantised: Quantised
    classes: tuple[Class, ...]


@dataclass(frozen=True, eq=False)
class Whole:
    """A coded tensor of whole numbers, (rows, width), each in 0..size-1."""

    numbers: NDArray[np.int32]
    size: int


Block = Levels | Whole


def size_of(spec: TensorSpec) -> int:
    """How many values a whole number of a tensor may have. A simplex's stored weights are at most one half."""
    return spec.bound if spec.kind == "index" else spec.bound // 2 + 1


@dataclass(frozen=True)
class _Run:
    """A run of elements in decoding order that lie in one row and one stage."""

    start: int
    stop: int
    row: int


def encode(rank: int, max_rank: int, blocks: Sequence[Block]) -> bytes:
    """Code one module; b"" if its rank is 0.

    Args:
        rank: what the method's layout depends on, in 0..max_rank.
        blocks: the method's tensors in layout order.
    """
    if rank == 0:
        return b""
    coder = stream.stack.AnsCoder()
    if not any(isinstance(block, Levels) for block in blocks):
        _encode_uniform(coder, _GUARD, 2)
    for block in reversed(blocks):
        if isinstance(block, Levels):
            _encode_levels(coder, block)
        else:
            _encode_uniform(coder, block.numbers.reshape(-1), block.size)
    encode_classes(coder, [block.classes for block in blocks if isinstance(block, Levels)])
    _encode_uniform(coder, np.array([rank - 1]), max_rank)
    words: NDArray[np.uint32] = coder.get_compressed()
    return words.astype("<u4").tobytes().rstrip(b"\0")


def decode(
    chunk: bytes | memoryview, max_rank: int, layout: Callable[[int], Sequence[TensorSpec]], name: str
) -> list[Block]:
    """Decode one module.

    Args:
        layout: the method's tensors for a given rank.
        name: the module, for error messages.

    Raises:
        FormatError: if the bit string does not end exactly where the numbers do.
    """
    coder = _open(bytes(chunk), name)
    specs = layout(int(_decode_uniform(coder, 1, max_rank)[0]) + 1)
    if sum(spec.numbers for spec in specs) > _NUMBERS_PER_BYTE * (len(chunk) + 8):
        sizes = [(spec.rows, spec.width) for spec in specs]
        raise FormatError(f"module {name!r}: {len(chunk)} bytes cannot hold tensors of {sizes}")
    classes = iter(decode_classes(coder, [spec.rows for spec in specs if spec.kind == "real"]))
    blocks: list[Block] = []
    for spec in specs:
        if spec.kind == "real":
            row_classes = next(classes)
            blocks.append(Levels(_decode_levels(coder, spec.rows, spec.width, row_classes), row_classes))
        else:
            numbers = _decode_uniform(coder, spec.numbers, size_of(spec)).reshape(spec.rows, spec.width)
            blocks.append(Whole(numbers, size_of(spec)))
    guarded = not any(isinstance(block, Levels) for block in blocks)
    if (guarded and _decode_uniform(coder, 1, 2)[0] != _GUARD) or not coder.is_empty():
        raise FormatError(f"module {name!r}: coded data does not end where its tensors do")
    return blocks


def _open(chunk: bytes, name: str) -> Any:
    words = np.frombuffer(chunk + b"\0" * (-len(chunk) % 4), dtype="<u4").astype(np.uint32)
    if words[-1] == 0:
        raise FormatError(f"module {name!r}: coded data ends in zeros")
    return stream.stack.AnsCoder(words)


def _runs(rows: int, width: int) -> Iterator[_Run]:
    """Runs in decoding order: stage by stage, cut where a row ends."""
    numbers = rows * width
    lanes = lanes_of(numbers)
    cuts = sorted({*range(0, numbers, lanes), *range(0, numbers, width), numbers})
    for start, stop in pairwise(cuts):
        yield _Run(start, stop, start // width)


@cache
def _level_model(table: int, quantiser: int) -> Any:
    frequency = tables.frequencies()[table, quantiser].astype(np.float64)
    both = np.concatenate([frequency[LEVELS:0:-1], frequency[: LEVELS + 1], frequency[LEVELS + 1 :]])
    return stream.model.Categorical(both / tables.TOTAL, perfect=False)


def _encode_uniform(coder: Any, numbers: NDArray[Any], size: int) -> None:
    if size > 1:
        coder.encode_reverse(numbers.astype(np.int32), stream.model.Uniform(size))


def _decode_uniform(coder: Any, count: int, size: int) -> NDArray[np.int32]:
    if size <= 1:
        return np.zeros(count, dtype=np.int32)
    result: NDArray[np.int32] = coder.decode(stream.model.Uniform(size), count)
    return result


def _encode_levels(coder: Any, block: Levels) -> None:
    levels, quantiser = block.quantised.levels.reshape(-1), block.quantised.quantiser.reshape(-1)
    for run in reversed(list(_runs(*block.quantised.levels.shape))):
        c = block.classes[run.row]
        _encode_run(coder, c, levels[run.start : run.stop], quantiser[run.start : run.stop])


def _encode_run(coder: Any, c: Class, levels: NDArray[np.int32], quantiser: NDArray[np.uint8]) -> None:
    raw = c.raw_bits
    half = (1 << raw) >> 1
    high = (levels + half) >> raw
    if raw:
        _encode_uniform(coder, (levels + half) & ((1 << raw) - 1), 1 << raw)
    outside = np.abs(high) > LEVELS
    if outside.any():
        _encode_escapes(coder, high[outside])
    symbols = np.where(outside, ESCAPE, high + LEVELS).astype(np.int32)
    if raw:
        coder.encode_reverse(symbols, _level_model(c.table, 0))
        return
    odd = quantiser.astype(bool)
    coder.encode_reverse(symbols[odd], _level_model(c.table, 1))
    coder.encode_reverse(symbols[~odd], _level_model(c.table, 0))


def _encode_escapes(coder: Any, high: NDArray[np.int32]) -> None:
    excess = np.abs(high) - LEVELS - 1
    length = int(excess.max()).bit_length()
    _encode_uniform(coder, excess, 1 << length)
    _encode_uniform(coder, (high < 0).astype(np.int32), 2)
    _encode_uniform(coder, np.array([length]), _LENGTHS)


def _decode_levels(coder: Any, rows: int, width: int, classes: Sequence[Class]) -> Quantised:
    lanes = lanes_of(rows * width)
    levels = np.empty(rows * width, dtype=np.int32)
    quantiser = np.empty(rows * width, dtype=np.uint8)
    state = np.zeros(lanes, dtype=np.uint8)
    models = [_RowModels.of(c) for c in classes]
    for run in _runs(rows, width):
        first = run.start % lanes
        lane = state[first : first + run.stop - run.start]
        q: NDArray[np.uint8] = lane & np.uint8(1)
        k = _decode_run(coder, models[run.row], q)
        levels[run.start : run.stop] = k
        quantiser[run.start : run.stop] = q
        lane[:] = _NEXT.take(2 * lane.astype(np.int16) + (k & 1))
    return Quantised(levels.reshape(rows, width), quantiser.reshape(rows, width))


_NEXT = next_states().reshape(-1)


@dataclass(frozen=True)
class _RowModels:
    """What decoding needs of a row's class."""

    raw_bits: int
    even: Any
    odd: Any

    @classmethod
    def of(cls, c: Class) -> _RowModels:
        return cls(c.raw_bits, _level_model(c.table, 0), _level_model(c.table, 1))


def _decode_run(coder: Any, models: _RowModels, quantiser: NDArray[np.uint8]) -> NDArray[np.int32]:
    raw = models.raw_bits
    if raw:
        symbols: NDArray[np.int32] = coder.decode(models.even, len(quantiser))
    else:
        symbols = np.empty(len(quantiser), dtype=np.int32)
        odd = quantiser.view(np.bool_)
        ones = int(np.count_nonzero(odd))
        symbols[~odd] = coder.decode(models.even, len(quantiser) - ones)
        symbols[odd] = coder.decode(models.odd, ones)
    high = symbols - LEVELS
    if symbols.max() == ESCAPE:
        outside = symbols == ESCAPE
        high[outside] = _decode_escapes(coder, int(outside.sum()), raw)
    if raw:
        high = (high << raw) + _decode_uniform(coder, len(high), 1 << raw) - (1 << raw >> 1)
    return high


def _decode_escapes(coder: Any, count: int, raw: int) -> NDArray[np.int32]:
    length = int(_decode_uniform(coder, 1, _LENGTHS)[0])
    if length + raw > _LONGEST:
        raise FormatError(f"a level is beyond the format's: its escape has {length} bits above {raw} raw ones")
    sign = 1 - 2 * _decode_uniform(coder, count, 2)
    excess = _decode_uniform(coder, count, 1 << length)
    return sign * (excess + LEVELS + 1)
