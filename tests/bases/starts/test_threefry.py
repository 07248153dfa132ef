"""Threefry against its published vectors, and MLX's way of splitting keys."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest

from adaptzip.bases.starts.threefry import _hash, bits, first_key, keys


@pytest.mark.parametrize(
    ("key", "counter", "expected"),
    [
        ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
        ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
        ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
    ],
    ids=["zeros", "ones", "pi"],
)
def test_hashes_are_those_of_random123(key: tuple[int, int], counter: tuple[int, int], expected: object) -> None:
    first, second = _hash(key, np.array(counter[:1], np.uint32), np.array(counter[1:], np.uint32))
    assert (int(first[0]), int(second[0])) == expected


def test_numbers_of_odd_and_even_counts_are_mlx() -> None:
    # mx.random.uniform(shape=(7,), key=mx.random.key(3)), mlx 0.32.4
    said = [0.31737357, 0.8551789, 0.8164341, 0.9489181, 0.08783916, 0.04712249, 0.8579489]
    assert np.abs(bits(first_key(3), 7) * 2.0**-32 - said).max() < 1e-7
    even = bits((5, 9), 8)
    assert len(set(even.tolist())) == 8
    assert not np.array_equal(even[:7], bits((5, 9), 7))


def test_a_key_follows_another() -> None:
    first, second = islice(keys((5 << 32) | 9), 2)
    words = [int(word) for word in bits((5, 9), 4)]
    assert first == (words[2], words[3])
    assert second == tuple(int(word) for word in bits((words[0], words[1]), 4)[2:])
