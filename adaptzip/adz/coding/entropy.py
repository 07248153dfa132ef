"""Entropy coding of modules: ranks, the classes of rows, and numbers, in one ANS bit string.

A bit string holds one module, its block, or all modules of a small file, a group. The coder is constriction's stack
(ANS with 32-bit words, a 64-bit state and 24-bit probabilities). It is last in, first out, so everything is encoded in
the reverse of the order in which it is decoded. All models are integers from the format (formats/adz-1.md, sections 5
and 6).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from constriction import stream
from numpy.typing import NDArray

from adaptzip.adz.coding import tables
from adaptzip.adz.coding.contexts import Coding, Contexts
from adaptzip.adz.coding.levels import (
    Levels,
    decode_levels,
    decode_uniform,
    encode_levels,
    encode_module,
    encode_uniform,
)
from adaptzip.adz.coding.tables import NOTHING
from adaptzip.core import compiled
from adaptzip.core.compressed import TensorSpec
from adaptzip.errors import FormatError

_GUARD = np.array([1])
"""What a block of whole numbers alone ends with: zeros, as the coder's last numbers, would leave no trace."""
NUMBERS_PER_BYTE = 16384
SPARE_BYTES = 64
"""A bit string holds at most so many numbers for each of its bytes and these. A sure zero costs 0.0015 bits."""


@dataclass(frozen=True, eq=False)
class Whole:
    """A coded tensor of whole numbers, (rows, width), each in 0..size-1."""

    numbers: NDArray[np.int32]
    size: int


Block = Levels | Whole
Layout = Callable[[int], Sequence[TensorSpec]]
"""A method's tensors for a given rank."""


@dataclass(frozen=True, eq=False)
class Coded:
    """A module of a group: its rank, and the method's tensors in layout order; none for rank 0."""

    rank: int
    blocks: Sequence[Block] = ()

    @property
    def numbers(self) -> int:
        """In all its tensors."""
        return sum(_size(block) for block in self.blocks)


@dataclass(frozen=True)
class Place:
    """What is known of a module of a group before it is decoded.

    Attributes:
        name: for error messages.
        kind: modules of one kind are expected to be alike.
        layout: the method's tensors for a given rank.
    """

    name: str
    kind: Hashable
    layout: Layout


def size_of(spec: TensorSpec) -> int:
    """How many values a whole number of a tensor may have. A simplex's stored weights are at most one half."""
    return spec.bound if spec.kind == "index" else spec.bound // 2 + 1


def fits(numbers: int, size: int) -> bool:
    """Whether a bit string of `size` bytes may hold so many numbers."""
    return numbers <= NUMBERS_PER_BYTE * (size + SPARE_BYTES)


def encode(rank: int, max_rank: int, blocks: Sequence[Block]) -> bytes:
    """Code one module; b"" if its rank is 0.

    Args:
        rank: what the method's layout depends on, in 0..max_rank.
        blocks: the method's tensors in layout order.
    """
    if rank == 0:
        return b""
    found = _encode_alone(rank, max_rank, blocks)
    if fits(sum(map(_size, blocks)), len(found)):
        return found
    # Rows of zeros take no room, but numbers have to take some.
    return _encode_alone(rank, max_rank, [_in_full(block) for block in blocks])


def _encode_alone(rank: int, max_rank: int, blocks: Sequence[Block]) -> bytes:
    real = [block for block in blocks if isinstance(block, Levels)]
    if real and len(real) == len(blocks) and compiled.worthwhile(sum(map(_size, blocks))):
        coder = stream.stack.AnsCoder(encode_module(real))
        encode_uniform(coder, np.array([rank - 1]), max_rank)
        return _bytes(coder)
    return encode_interpreted(rank, max_rank, blocks)


def encode_interpreted(rank: int, max_rank: int, blocks: Sequence[Block]) -> bytes:
    """Code one module of a rank above 0, the classes of its rows in Python."""
    coder = stream.stack.AnsCoder()
    if not any(isinstance(block, Levels) for block in blocks):
        encode_uniform(coder, _GUARD, 2)
    noted = _Noted()
    _note_classes(noted, Contexts(), None, blocks)
    coder = _encode_numbers(coder, blocks)
    noted.encode(coder)
    encode_uniform(coder, np.array([rank - 1]), max_rank)
    return _bytes(coder)


def decode(chunk: bytes | memoryview, max_rank: int, layout: Layout, name: str) -> list[Block]:
    """Decode one module.

    Args:
        layout: the method's tensors for a given rank.
        name: the module, for error messages.

    Raises:
        FormatError: if the bit string does not end exactly where the numbers do.
    """
    coder = _open(bytes(chunk), f"module {name!r}")
    specs = layout(int(decode_uniform(coder, 1, max_rank)[0]) + 1)
    if not fits(sum(spec.numbers for spec in specs), len(chunk)):
        sizes = [(spec.rows, spec.width) for spec in specs]
        raise FormatError(f"module {name!r}: {len(chunk)} bytes cannot hold tensors of {sizes}")
    blocks = _decode_blocks(coder, Contexts(), None, specs)
    guarded = not any(isinstance(block, Levels) for block in blocks)
    if (guarded and decode_uniform(coder, 1, 2)[0] != _GUARD) or not coder.is_empty():
        raise FormatError(f"module {name!r}: coded data does not end where its tensors do")
    return blocks


def encode_group(modules: Sequence[tuple[Hashable, Coded]], max_rank: int) -> bytes | None:
    """Code many modules in one bit string; None where so few bytes may not hold so many numbers.

    Args:
        modules: the kind of each, and what it holds; not all of rank 0.
    """
    contexts, notes = Contexts(), []
    for kind, module in modules:
        noted = _Noted()
        contexts.rank(noted, kind, max_rank, module.rank)
        _note_classes(noted, contexts, kind, module.blocks)
        notes.append(noted)
    coder = stream.stack.AnsCoder()
    for (_, module), noted in zip(reversed(modules), reversed(notes), strict=True):
        coder = _encode_numbers(coder, module.blocks)
        noted.encode(coder)
    found = _bytes(coder)
    return found if fits(sum(module.numbers for _, module in modules), len(found)) else None


def decode_group(group: bytes | memoryview, max_rank: int, places: Sequence[Place]) -> list[Coded]:
    """Inverse of `encode_group`.

    Args:
        places: of the modules, in their order.

    Raises:
        FormatError: if the bit string does not end exactly where the numbers do.
    """
    coder, contexts = _open(bytes(group), "the modules"), Contexts()
    found, numbers = [], 0

    for place in places:
        rank = contexts.rank(_finding(coder), place.kind, max_rank)
        specs = place.layout(rank) if rank else ()
        numbers += sum(spec.numbers for spec in specs)
        if not fits(numbers, len(group)):
            raise FormatError(f"module {place.name!r}: {len(group)} bytes cannot hold the tensors up to here")
        found.append(Coded(rank, _decode_blocks(coder, contexts, place.kind, specs)))
    if not coder.is_empty():
        raise FormatError("coded data does not end where the modules do")
    return found


class _Noted:
    """Remembers what is to be encoded, in the order in which it will be decoded."""

    def __init__(self) -> None:
        self._symbols: list[tuple[Any, int]] = []

    def __call__(self, model: Any, symbol: int | None) -> int:
        assert symbol is not None
        self._symbols.append((model, symbol))
        return symbol

    def encode(self, coder: Any) -> None:
        """Encode it."""
        for model, symbol in reversed(self._symbols):
            coder.encode_reverse(np.array([symbol], dtype=np.int32), model)


def _finding(coder: Any) -> Coding:
    return lambda model, _: int(coder.decode(model))


def _note_classes(noted: _Noted, contexts: Contexts, kind: Hashable, blocks: Sequence[Block]) -> None:
    real = [block for block in blocks if isinstance(block, Levels)]
    sizes = [(len(block.classes), block.quantised.levels.shape[1]) for block in real]
    contexts.classes(noted, kind, sizes, [block.classes for block in real])


def _encode_numbers(coder: Any, blocks: Sequence[Block]) -> Any:
    """Encode tensors, and give the coder to go on with."""
    for block in reversed(blocks):
        if isinstance(block, Levels):
            coder = encode_levels(coder, block)
        else:
            encode_uniform(coder, block.numbers.reshape(-1), block.size)
    return coder


def _decode_blocks(coder: Any, contexts: Contexts, kind: Hashable, specs: Sequence[TensorSpec]) -> list[Block]:
    sizes = [(spec.rows, spec.width) for spec in specs if spec.kind == "real"]
    classes = iter(contexts.classes(_finding(coder), kind, sizes))
    blocks: list[Block] = []
    for spec in specs:
        if spec.kind == "real":
            row_classes = next(classes)
            blocks.append(Levels(decode_levels(coder, spec.rows, spec.width, row_classes), row_classes))
        else:
            numbers = decode_uniform(coder, spec.numbers, size_of(spec)).reshape(spec.rows, spec.width)
            blocks.append(Whole(numbers, size_of(spec)))
    return blocks


def _size(block: Block) -> int:
    return block.quantised.levels.size if isinstance(block, Levels) else block.numbers.size


def _in_full(block: Block) -> Block:
    """A block whose rows of zeros are coded number by number."""
    if isinstance(block, Whole):
        return block
    return replace(block, classes=tuple(tables.surest() if c.shape == NOTHING else c for c in block.classes))


def _bytes(coder: Any) -> bytes:
    words: NDArray[np.uint32] = coder.get_compressed()
    return words.astype("<u4").tobytes().rstrip(b"\0")


def _open(data: bytes, what: str) -> Any:
    words = np.frombuffer(data + b"\0" * (-len(data) % 4), dtype="<u4").astype(np.uint32)
    if words[-1] == 0:
        raise FormatError(f"{what}: coded data ends in zeros")
    return stream.stack.AnsCoder(words)
