"""The format's own log, sin and cos against the library's."""

from __future__ import annotations

import math

import numpy as np

from adaptzip.bases.starts.elementary import COS_TERMS, LOG_TERMS, SIN_TERMS, STEP, cos_sin, log

SOME = np.unique(np.concatenate([np.arange(5000), np.arange(0, 1 << 24, 997), (1 << 24) - 1 - np.arange(5000)]))


def test_the_constants_are_what_they_say() -> None:
    assert 2 * math.pi / 2**24 == STEP
    assert tuple(1 / k for k in range(19, 0, -2)) == LOG_TERMS
    for terms, first in ((SIN_TERMS, 15), (COS_TERMS, 16)):
        for k, term in enumerate(reversed(terms)):
            exact = (-1) ** k / math.factorial(2 * k + first % 2)
            assert abs(term - exact) <= 2 * math.ulp(exact)
        assert len(terms) == first // 2 + 1


def test_logarithms_are_those_of_the_library() -> None:
    numbers = SOME + 1
    assert np.abs(log(numbers) - np.log(numbers * 2.0**-24)).max() < 2e-15
    assert log(np.array([1 << 24]))[0] == 0


def test_the_largest_logarithms_have_all_their_digits() -> None:
    numbers = (1 << 24) - 1 - np.arange(1000)
    expected = np.log1p((numbers - (1 << 24)) * 2.0**-24)
    assert np.abs(log(numbers) / expected - 1).max() < 1e-15


def test_cosines_and_sines_are_those_of_the_library() -> None:
    cos, sin = cos_sin(SOME)
    angles = SOME * (2 * np.pi / 2**24)
    assert np.abs(cos - np.cos(angles)).max() < 2e-15
    assert np.abs(sin - np.sin(angles)).max() < 2e-15


def test_quarters_of_a_turn_are_exact() -> None:
    cos, sin = cos_sin(np.arange(4) << 22)
    assert cos.tolist() == [1, 0, -1, 0]
    assert sin.tolist() == [0, 1, 0, -1]
