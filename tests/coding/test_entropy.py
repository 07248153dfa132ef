"""Blocks of any levels and classes come back, from adaptzip's decoder and from the independent one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from adaptzip.coding import entropy, tables
from adaptzip.coding.entropy import Block
from adaptzip.coding.tables import Class
from adaptzip.coding.trellis import Quantised, lanes_of, next_states, values
from adaptzip.errors import FormatError
from formats import decoder

MOST_RAW = 15


def quantisers(levels: NDArray[np.int32]) -> NDArray[np.uint8]:
    """The quantiser that the trellis gives to each level."""
    lanes, table = lanes_of(levels.size), next_states()
    state = np.zeros(lanes, dtype=np.int64)
    found = np.empty(levels.size, dtype=np.uint8)
    flat = levels.reshape(-1)
    for start in range(0, levels.size, lanes):
        part = flat[start : start + lanes]
        found[start : start + lanes] = state[: len(part)] & 1
        state[: len(part)] = table[state[: len(part)], part & 1]
    return found.reshape(levels.shape)


def block(rng: np.random.Generator, rows: int, width: int, raw: list[int], outlier: int) -> Block:
    """Levels that suit each row's class, with one that may lie far outside."""
    spread = np.array([[2.0**bits * 8] for bits in raw])
    levels = np.rint(rng.laplace(size=(rows, width)) * spread).astype(np.int32)
    levels[rng.integers(rows), rng.integers(width)] += outlier
    scales = [tables.SCALES - 1 + tables.STEPS_PER_OCTAVE * bits if bits else int(rng.integers(36)) for bits in raw]
    classes = tuple(Class(int(rng.integers(6)), scale) for scale in scales)
    return Block(Quantised(levels, quantisers(levels)), classes)


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

    found, again = entropy.decode(chunk, rank + slack, lambda r: [(r, width) for width in widths], "m")
    assert found == rank
    for before, after in zip(blocks, again, strict=True):
        assert before.classes == after.classes
        assert np.array_equal(before.quantised.levels, after.quantised.levels)
        assert np.array_equal(before.quantised.quantiser, after.quantised.quantiser)

    tensors = decoder.decode_block(chunk, rank + slack, lambda r: [(r, width) for width in widths])
    for before, tensor in zip(blocks, tensors, strict=True):
        assert np.array_equal(before.quantised.values(), tensor)


def test_rows_of_unequal_number_are_predicted_too() -> None:
    rng = np.random.default_rng(0)
    blocks = [block(rng, rows, 9, [0, 3, 1, 0][:rows], 0) for rows in (2, 4, 1)]
    shapes = [(rows, 9) for rows in (2, 4, 1)]
    chunk = entropy.encode(2, 2, blocks)
    _, again = entropy.decode(chunk, 2, lambda _: shapes, "m")
    assert [b.classes for b in again] == [b.classes for b in blocks]
    tensors = decoder.decode_block(chunk, 2, lambda _: shapes)
    assert all(np.array_equal(b.quantised.values(), t) for b, t in zip(blocks, tensors, strict=True))


@pytest.mark.parametrize("bits", range(MOST_RAW + 1))
def test_every_number_of_raw_bits(bits: int) -> None:
    rng = np.random.default_rng(bits)
    levels = rng.integers(-(30 << bits), 30 << bits, (1, 100)).astype(np.int32)
    scale = tables.SCALES - 1 + tables.STEPS_PER_OCTAVE * bits
    made = Block(Quantised(levels, quantisers(levels)), (Class(3, scale),))
    chunk = entropy.encode(1, 1, [made])
    _, (again,) = entropy.decode(chunk, 1, lambda _: [(1, 100)], "m")
    assert np.array_equal(again.quantised.levels, levels)
    (tensor,) = decoder.decode_block(chunk, 1, lambda _: [(1, 100)])
    assert np.array_equal(tensor, values(levels, made.quantised.quantiser))


def test_rank_zero_is_nothing() -> None:
    assert entropy.encode(0, 4, []) == b""
    assert entropy.decode(b"", 4, lambda _: pytest.fail("a shape was asked for"), "m") == (0, [])


def test_a_long_level_is_refused() -> None:
    levels = np.full((1, 4), 2**21, dtype=np.int32)
    chunk = entropy.encode(1, 1, [Block(Quantised(levels, quantisers(levels)), (Class(3, 30),))])
    with pytest.raises(FormatError, match="beyond the format's"):
        entropy.decode(chunk, 1, lambda _: [(1, 4)], "m")


def test_more_numbers_than_bytes_can_hold_are_refused_before_room_is_made() -> None:
    with pytest.raises(FormatError, match="module 'm': 4 bytes cannot hold"):
        entropy.decode(b"\1\2\3\4", 1, lambda _: [(2**20, 2**40)], "m")


@settings(max_examples=100, deadline=None)
@given(st.binary(min_size=1, max_size=80), st.integers(1, 9))
def test_noise_is_refused_alike(noise: bytes, max_rank: int) -> None:
    def shapes(rank: int) -> list[tuple[int, int]]:
        return [(rank, 12), (rank, 7)]

    try:
        rank, blocks = entropy.decode(noise, max_rank, shapes, "m")
    except FormatError:
        with pytest.raises(decoder.Broken):
            decoder.decode_block(noise, max_rank, shapes)
    else:
        tensors = decoder.decode_block(noise, max_rank, shapes)
        assert all(np.array_equal(b.quantised.values(), t) for b, t in zip(blocks, tensors, strict=True))
        assert rank == len(tensors[0])
