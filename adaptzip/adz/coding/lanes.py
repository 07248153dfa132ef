"""Decoding many modules of real numbers at once with compiled kernels, each from its own bit string.

What is odd about a module, a damaged bit string above all, is left to `adaptzip.adz.coding.entropy`, which says what.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adaptzip.adz.coding import tables
from adaptzip.adz.coding.contexts import sixths
from adaptzip.adz.coding.entropy import Layout, fits
from adaptzip.adz.coding.levels import lefts
from adaptzip.adz.coding.tables import LEVELS, NOTHING
from adaptzip.adz.coding.trellis import next_states, values
from adaptzip.core.compressed import Buffer, TensorSpec

Room = Callable[[int], NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class Numbers:
    """A module, decoded.

    Attributes:
        rank: at least 1.
        specs: its tensors, all of real numbers.
        tensors: (rows, width) float32 of each, in steps; whole numbers.
    """

    rank: int
    specs: Sequence[TensorSpec]
    tensors: Sequence[Tensor]


@dataclass(frozen=True, eq=False)
class Begun:
    """Modules, or jobs, of which ranks and classes are decoded.

    Attributes:
        words, jobs, first_rows, places, rows: as for `adaptzip.adz.coding.kernels.lanes.decode`.
    """

    words: NDArray[np.uint32]
    jobs: NDArray[np.uint64]
    first_rows: NDArray[np.int64]
    places: NDArray[np.int64]
    rows: NDArray[np.int64]


def on_cpu(begun: Begun, room: Room | None = None) -> tuple[Tensor, list[bool]]:
    """The numbers of all jobs, float32 in steps, and whether each is whole; a damaged one may be told of all.

    Args:
        room: gives the room for so many numbers.
    """
    from adaptzip.adz.coding.kernels import lanes

    out, jobs = (room or _new_room)(int(begun.places[-1])), begun.jobs
    nearly, models, following = kernel_tables()
    wrong = lanes.decode(begun.words, jobs, begun.first_rows, begun.places, begun.rows, nearly, models, following, out)
    ended = (jobs[:, 0] == 0) & (jobs[:, 1] == jobs[:, 2]) & (wrong < 0)
    return torch.from_numpy(out), ended.tolist()


def decode_together(
    chunks: Sequence[Buffer],
    max_rank: int,
    layouts: Sequence[Layout],
    run: Callable[[Begun], tuple[Tensor, list[bool]]] = on_cpu,
) -> list[Numbers | None]:
    """Decode modules side by side; None for one that is to be decoded alone.

    Args:
        chunks: the block of each, not empty.
        layouts: of each module, its tensors for a given rank.
        run: what decodes the numbers.

    Raises:
        FormatError: what a layout raises.
    """
    from adaptzip.adz.coding.kernels import lanes

    words, jobs = _words(chunks)
    ranks = np.zeros(len(chunks), np.int64)
    if lanes.open_all(words, jobs, max_rank, ranks) >= 0:
        return [None] * len(chunks)
    specs = [list(layout(rank)) for layout, rank in zip(layouts, ranks.tolist(), strict=True)]
    taken = [_are_real(own, len(chunk)) for own, chunk in zip(specs, chunks, strict=True)]
    begun = _begun(words, jobs[taken], [own for own, is_taken in zip(specs, taken, strict=True) if is_taken])
    out, whole = run(begun)
    found = iter(zip(begun.places.tolist(), whole, strict=False))
    places = [next(found) if is_taken else (0, False) for is_taken in taken]
    return [
        Numbers(int(rank), own, _cut(out[place:], own)) if is_whole else None
        for rank, own, (place, is_whole) in zip(ranks, specs, places, strict=True)
    ]


def _new_room(count: int) -> NDArray[np.float32]:
    return np.empty(count, np.float32)


def _are_real(specs: Sequence[TensorSpec], size: int) -> bool:
    return all(spec.kind == "real" for spec in specs) and fits(sum(spec.numbers for spec in specs), size)


def _words(chunks: Sequence[Buffer]) -> tuple[NDArray[np.uint32], NDArray[np.uint64]]:
    """The words of all bit strings, one before each, and (jobs, 3): no state yet, and where each begins and ends."""
    sizes = [-(-len(chunk) // 4) for chunk in chunks]
    ends = list(accumulate(size + 1 for size in sizes))
    words = np.zeros(ends[-1] if ends else 0, "<u4")
    room = words.view(np.uint8)
    for chunk, size, end in zip(chunks, sizes, ends, strict=True):
        begin = 4 * (end - size)
        room[begin : begin + len(chunk)] = np.frombuffer(chunk, np.uint8)
    jobs = np.zeros((len(chunks), 3), np.uint64)
    jobs[:, 1] = [end - size - 1 for size, end in zip(sizes, ends, strict=True)]
    jobs[:, 2] = ends
    return words.astype(np.uint32, copy=False), jobs


def _begun(words: NDArray[np.uint32], jobs: NDArray[np.uint64], specs: Sequence[Sequence[TensorSpec]]) -> Begun:
    """Jobs whose ranks are known, with their classes."""
    from adaptzip.adz.coding.kernels import lanes

    each = [spec for own in specs for spec in own]
    rows = np.array([spec.rows for spec in each], np.int64)
    widths = np.array([spec.width for spec in each], np.int64)
    counts = np.array([len(own) for own in specs], np.int64)
    classes = np.zeros((2, int(rows.sum())), np.int64)
    sizes = np.array([sixths(spec.width) for spec in each], np.int64)
    lanes.classes(words, jobs, counts, rows, sizes, classes)
    places = np.array([0, *accumulate(sum(spec.numbers for spec in own) for own in specs)], np.int64)
    first_rows = np.array([0, *accumulate(sum(spec.rows for spec in own) for own in specs)], np.int64)
    described = _rows(classes, np.repeat(widths, rows), np.cumsum(rows) - rows)
    return Begun(words, jobs, first_rows, places, described)


def _cut(numbers: Tensor, specs: Sequence[TensorSpec]) -> list[Tensor]:
    found, place = [], 0
    for spec in specs:
        found.append(numbers[place : place + spec.numbers].view(spec.rows, spec.width))
        place += spec.numbers
    return found


def _rows(classes: NDArray[np.int64], widths: NDArray[np.int64], begins: NDArray[np.int64]) -> NDArray[np.int64]:
    """Columns `TABLE`, `RAW`, `WIDTH` and `FRESH` of the kernel, for rows of which each tensor begins at one."""
    shapes, scales = classes
    raw = tables.raw_bits(scales)
    table = shapes * tables.SCALES + scales - tables.STEPS_PER_OCTAVE * raw
    fresh = np.zeros_like(raw)
    fresh[begins[begins < len(fresh)]] = 1
    return np.stack([np.where(shapes == NOTHING, -1, 2 * table), raw, widths, fresh], axis=1)


@cache
def kernel_tables() -> tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint8]]:
    """`nearly`, `models` and `next_`, as for `adaptzip.adz.coding.kernels.lanes.decode`."""
    from adaptzip.adz.coding.kernels.lanes import ESCAPE, NEARLY_BITS, ODD, SYMBOL, VALUE, WIDE

    begins = lefts().astype(np.uint64)
    levels = np.arange(2 * LEVELS + 2, dtype=np.int32) - LEVELS
    numbers = np.stack([values(levels, np.full(levels.shape, q, np.uint8)) for q in (0, 1)])
    numbers[:, -1] = (0, 1)
    packed = (numbers.astype(np.int8).view(np.uint8).astype(np.uint64) << VALUE) | (
        (levels & 1).astype(np.uint64) << ODD
    )
    packed |= np.arange(len(levels), dtype=np.uint64) << SYMBOL
    packed[:, -1] |= ESCAPE
    models = (packed | begins[..., :-1] | (np.diff(begins) << WIDE)).reshape(-1, len(levels))
    least = np.arange(2**NEARLY_BITS) << (24 - NEARLY_BITS)
    places = [np.searchsorted(left, least, side="right") - 1 for left in lefts().reshape(len(models), -1)]
    nearly = [row[place] for row, place in zip(models, places, strict=True)]
    return np.concatenate(nearly), models.reshape(-1), next_states().reshape(-1)
