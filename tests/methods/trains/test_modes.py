"""Modes of widths: their product, balance and order, and the widths of real models."""

from __future__ import annotations

from math import prod

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from adaptzip.methods._trains import factorise


@pytest.mark.parametrize(
    ("width", "modes"),
    [
        (1, (1,)),
        (2, (2,)),
        (7, (7,)),
        (17, (17,)),
        (34, (17, 2)),
        (289, (17, 17)),
        (384, (8, 8, 6)),
        (768, (12, 8, 8)),
        (1024, (16, 8, 8)),
        (1573, (13, 11, 11)),
        (3072, (8, 8, 8, 6)),
        (4096, (8, 8, 8, 8)),
        (10007, (10007,)),
        (11008, (43, 8, 8, 4)),
        (14336, (8, 8, 8, 7, 4)),
        (50257, (1733, 29)),
    ],
)
def test_known_widths(width: int, modes: tuple[int, ...]) -> None:
    """These are part of the format: files with such modules are read with them."""
    assert factorise(width) == modes


@example(1573)
@example(41 * 13 * 11 * 11)
@given(st.integers(1, 2**31 - 1))
def test_modes_multiply_to_the_width_and_fall(width: int) -> None:
    modes = factorise(width)
    assert prod(modes) == width
    assert list(modes) == sorted(modes, reverse=True)
    assert width == 1 or min(modes) > 1


@given(st.integers(1, 12), st.integers(0, 5), st.integers(0, 3))
def test_smooth_widths_have_modes_of_about_eight(twos: int, threes: int, fives: int) -> None:
    width = 2**twos * 3**threes * 5**fives
    assert max(factorise(width)) <= 24
    assert prod(factorise(width)) == width


@pytest.mark.parametrize("width", [0, -4])
def test_no_modes_below_one(width: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        factorise(width)
