"""Blocks of any numbers come back, from adaptzip's decoder and from the independent one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from adaptzip.adz.coding import entropy, tables
from adaptzip.adz.coding.entropy import Block, Whole, size_of
from adaptzip.adz.coding.levels import Levels
from adaptzip.adz.coding.tables import Class
from adaptzip.adz.coding.trellis import Quantised, next_states
from adaptzip.core.compressed import TensorSpec
from adaptzip.errors import FormatError
from formats import decoder

MOST_RAW = 15


def quantisers(levels: NDArray[np.int32]) -> NDArray[np.uint8]:
    """The quantiser that the trellis gives to each level."""
    state, following, found = 0, next_states().tolist(), []
    for level in levels.reshape(-1).tolist():
        found.append(state & 1)
        state = following[state][level & 1]
    return np.array(found, dtype=np.uint8).reshape(levels.shape)


def specs(*shapes: tuple[int, int]) -> list[TensorSpec]:
    """Tensors of real numbers."""
    return [TensorSpec(str(i), rows, width) for i, (rows, width) in enumerate(shapes)]


def same(before: Block, after: Block) -> bool:
    """Whether two blocks hold the same."""
    if isinstance(before, Whole) or isinstance(after, Whole):
        whole = isinstance(before, Whole) and isinstance(after, Whole) and before.size == after.size
        return whole and np.array_equal(before.numbers, after.numbers)  # type: ignore[union-attr]
    return (
        before.classes == after.classes
        and np.array_equal(before.quantised.levels, after.quantised.levels)
        and np.array_equal(before.quantised.quantiser, after.quantised.quantiser)
    )


def independently(chunk: bytes, max_rank: int, layout: Callable[[int], list[TensorSpec]]) -> list[NDArray[np.int64]]:
    """What the independent decoder makes of a block."""
    return decoder.decode_block(
        chunk, max_rank, lambda rank: [decoder.Spec(s.rows, s.width, s.kind, s.bound) for s in layout(rank)]
    )


def numbers(found: Block) -> NDArray[np.int64]:
    """A block's numbers, real ones in units of the step."""
    return (found.numbers if isinstance(found, Whole) else found.quantised.values()).astype(np.int64)


def fits(spec: TensorSpec, found: Block) -> bool:
    """Whether no row of weights adds up to more than 1."""
    return bool((numbers(found).sum(1) <= spec.bound).all())


def block(rng: np.random.Generator, rows: int, width: int, raw: list[int], outlier: int) -> Levels:
    """Levels that suit each row's class, with one that may lie far outside."""
    spread = np.array([[2.0**bits * 8] for bits in raw])
    levels = np.rint(rng.laplace(size=(rows, width)) * spread).astype(np.int32)
    levels[rng.integers(rows), rng.integers(width)] += outlier
    scales = [tables.SCALES - 1 + tables.STEPS_PER_OCTAVE * bits if bits else int(rng.integers(36)) for bits in raw]
    classes = tuple(Class(int(rng.integers(6)), scale) for scale in scales)
    return Levels(Quantised(levels, quantisers(levels)), classes)


@settings(max_examples=60, deadline=None)
@given(
    rank=st.integers(1, 5),
    widths=st.lists(st.integers(1, 200), min_size=1, max_size=3),
    raw=st.lists(st.integers(0, 12), min_size=5, max_size=5),
    outlier=st.sampled_from([0, 0, 40, -(2**12), 2**19]),
    slack=st.integers(0, 3),
    seed=st.integers(0, 2**32),
)
def test_blocks_come_back(rank: int, widths: list[int], raw: list[int], outlier: int, slack: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    blocks = [block(rng, rank, width, raw[:rank], outlier) for width in widths]
    chunk = entropy.encode(rank, rank + slack, blocks)

    asked = []

    def layout(found: int) -> list[TensorSpec]:
        asked.append(found)
        return specs(*[(found, width) for width in widths])

    again = entropy.decode(chunk, rank + slack, layout, "m")
    assert asked == [rank]
    assert all(same(*pair) for pair in zip(blocks, again, strict=True))
    tensors = independently(chunk, rank + slack, layout)
    assert all(np.array_equal(numbers(b), t) for b, t in zip(blocks, tensors, strict=True))


def test_rows_of_unequal_number_are_predicted_too() -> None:
    rng = np.random.default_rng(0)
    blocks = [block(rng, rows, 9, [0, 3, 1, 0][:rows], 0) for rows in (2, 4, 1)]
    chunk = entropy.encode(2, 2, blocks)
    again = entropy.decode(chunk, 2, lambda _: specs((2, 9), (4, 9), (1, 9)), "m")
    assert all(same(*pair) for pair in zip(blocks, again, strict=True))


@pytest.mark.parametrize("bits", range(MOST_RAW + 1))
def test_every_number_of_raw_bits(bits: int) -> None:
    rng = np.random.default_rng(bits)
    levels = rng.integers(-(30 << bits), 30 << bits, (1, 100)).astype(np.int32)
    scale = tables.SCALES - 1 + tables.STEPS_PER_OCTAVE * bits
    made = Levels(Quantised(levels, quantisers(levels)), (Class(3, scale),))
    chunk = entropy.encode(1, 1, [made])
    (again,) = entropy.decode(chunk, 1, lambda _: specs((1, 100)), "m")
    assert same(again, made)


def test_rank_zero_is_nothing() -> None:
    assert entropy.encode(0, 4, []) == b""


@settings(max_examples=60, deadline=None)
@given(
    bound=st.integers(1, 5000),
    levels=st.sampled_from([2, 8, 64, 1024]),
    rows=st.integers(0, 40),
    k=st.integers(1, 4),
    rank=st.integers(1, 3),
    with_levels=st.booleans(),
    zero=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_whole_numbers_come_back(
    bound: int, levels: int, rows: int, k: int, rank: int, with_levels: bool, zero: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    layout = [TensorSpec("i", rows, k, "index", bound=bound), TensorSpec("w", rows, k - 1, "simplex", bound=levels)]
    top = 1 if zero else None
    blocks: list[Block] = [
        Whole(rng.integers(0, top or size_of(spec), (spec.rows, spec.width)).astype(np.int32), size_of(spec))
        for spec in layout
    ]
    if with_levels:
        layout.append(TensorSpec("r", 2, 9))
        blocks.append(block(rng, 2, 9, [0, 3], 0))
    chunk = entropy.encode(rank, 3, blocks)
    assert chunk
    again = entropy.decode(chunk, 3, lambda _: layout, "m")
    assert all(same(*pair) for pair in zip(blocks, again, strict=True))
    if fits(layout[1], blocks[1]):
        tensors = independently(chunk, 3, lambda _: layout)
        assert all(np.array_equal(numbers(b), t) for b, t in zip(blocks, tensors, strict=True))


def test_whole_numbers_take_the_bits_of_their_range() -> None:
    numbers = np.random.default_rng(0).integers(0, 200, (500, 2)).astype(np.int32)
    chunk = entropy.encode(1, 1, [Whole(numbers, 200)])
    assert len(chunk) == pytest.approx(1000 * np.log2(200) / 8, abs=8)


def test_a_block_of_whole_numbers_that_does_not_end_is_refused() -> None:
    spec = TensorSpec("i", 50, 1, "index", bound=7)
    chunk = entropy.encode(1, 1, [Whole(np.full((50, 1), 3, dtype=np.int32), 7)])
    for shorter in (49, 51):
        others = [TensorSpec("i", shorter, 1, "index", bound=7)]
        with pytest.raises(FormatError, match="does not end where its tensors do"):
            entropy.decode(chunk, 1, partial(_same, others), "m")
    assert entropy.decode(chunk, 1, lambda _: [spec], "m")


def _same(specs: list[TensorSpec], rank: int) -> list[TensorSpec]:
    return specs


def test_a_long_level_is_refused() -> None:
    levels = np.full((1, 4), 2**22, dtype=np.int32)
    chunk = entropy.encode(1, 1, [Levels(Quantised(levels, quantisers(levels)), (Class(3, 30),))])
    with pytest.raises(FormatError, match="beyond the format's"):
        entropy.decode(chunk, 1, lambda _: specs((1, 4)), "m")


def test_more_numbers_than_bytes_can_hold_are_refused_before_room_is_made() -> None:
    with pytest.raises(FormatError, match="module 'm': 4 bytes cannot hold"):
        entropy.decode(b"\1\2\3\4", 1, lambda _: specs((2**20, 2**40)), "m")


@settings(max_examples=100, deadline=None)
@given(st.binary(min_size=1, max_size=80), st.integers(1, 9))
def test_noise_is_decoded_or_refused(noise: bytes, max_rank: int) -> None:
    def layout(rank: int) -> list[TensorSpec]:
        return specs((rank, 12), (rank, 7))

    try:
        blocks = entropy.decode(noise, max_rank, layout, "m")
    except FormatError:
        with pytest.raises(decoder.Broken):
            independently(noise, max_rank, layout)
        return
    tensors = independently(noise, max_rank, layout)
    assert all(np.array_equal(numbers(b), t) for b, t in zip(blocks, tensors, strict=True))
    levels = [found for found in blocks if isinstance(found, Levels)]
    assert [found.quantised.levels.shape[1] for found in levels] == [12, 7]
    assert all(len(found.classes) == len(found.quantised.levels) <= max_rank for found in levels)
    assert all(np.abs(found.quantised.levels).max() < 2**22 for found in levels)
