"""Lossless packing of words into planes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from adaptzip.adz.coding import planes
from adaptzip.errors import FormatError
from formats import decoder

WORDS = [np.dtype(f"u{size}") for size in (1, 2, 4, 8)]


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(WORDS).flatmap(lambda dtype: hnp.arrays(dtype, st.integers(0, 300))),
    st.booleans(),
    st.binary(max_size=5),
)
def test_words_come_back(words: np.ndarray, floating: bool, tail: bytes) -> None:
    data = planes.pack(words, floating=floating)
    again, size = planes.unpack(memoryview(data + tail), len(words), words.dtype, floating=floating)
    assert np.array_equal(again, words)
    assert size == len(data)


@pytest.mark.parametrize("share", [0.001, 0.03, 0.3])
@pytest.mark.parametrize("count", [1000, 5000, 20000, 40000, 65535, 65537])
def test_a_skewed_plane_costs_little_more_than_its_entropy(count: int, share: float) -> None:
    plane = (np.random.default_rng(count).random(count) < share).astype(np.uint8)
    p = np.bincount(plane, minlength=2) / count
    entropy = -(p[p > 0] * np.log2(p[p > 0])).sum() * count / 8
    coded = planes._ans_pack(plane)
    assert len(coded) < 512 + 1.01 * entropy + 0.0002 * count + 8
    assert np.array_equal(planes._ans_unpack(memoryview(coded), count), plane)
    assert np.array_equal(decoder.unpack_plane(2, coded, count), plane)


def test_the_smallest_coding_wins() -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, 5000).astype(np.uint8)
    rare = (rng.random(100_000) < 0.05).astype(np.uint8)
    repeated = np.tile(noise[:50], 100)
    assert [planes._pack_plane(plane)[0] for plane in (noise, repeated, rare)] == [planes.RAW, planes.ZSTD, planes.ANS]


def test_a_wrong_count_is_refused() -> None:
    data = planes.pack(np.arange(100, dtype=np.uint16), floating=False)
    for count in (99, 101, 0):
        with pytest.raises(FormatError):
            planes.unpack(memoryview(data), count, np.dtype("u2"), floating=False)
