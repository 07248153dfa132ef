"""Classes of rows and their probability tables."""

from __future__ import annotations

from math import log2

import numpy as np
import pytest

from adaptzip.adz.coding import tables
from adaptzip.adz.coding.classes import choose_classes
from adaptzip.adz.coding.tables import LEVELS, SCALES, SHAPES, STEPS_PER_OCTAVE, Class
from adaptzip.adz.coding.trellis import Quantised
from formats import decoder

PROBABILITY = tables.frequencies().astype(float) / tables.TOTAL
SYMBOL = np.concatenate([[1], np.full(LEVELS, 2), [1]])
"""How many levels share a frequency."""


def test_frequencies_sum_to_the_total_and_are_never_nothing() -> None:
    assert tables.frequencies().shape == (len(SHAPES) * SCALES, 2, LEVELS + 2)
    assert (tables.frequencies() > 0).all()
    assert np.allclose((PROBABILITY * SYMBOL).sum(-1), 1)


def test_larger_levels_are_never_much_likelier() -> None:
    levels = PROBABILITY[:, :, 1:-1]
    assert (levels[:, :, 1:] <= levels[:, :, :-1] * 1.25 + 40 / tables.TOTAL).all()


def test_wider_rows_have_fewer_zeros() -> None:
    zeros = PROBABILITY.reshape(len(SHAPES), SCALES, 2, -1)[..., 0]
    assert (np.diff(zeros[..., 0], axis=1) < 0.05).all()
    # Where nearly all is 0, the search hardly ever comes to quantiser 1.
    assert (np.diff(zeros[:, 8:, 1], axis=1) < 0.05).all()
    assert (zeros[:, 0] > 0.9).all()
    assert (zeros[:, -1] < 0.17).all()


def test_costs_are_those_of_the_frequencies() -> None:
    cost = tables.bits()
    assert cost.shape == (len(SHAPES) * SCALES + 1, 2, LEVELS + 2)
    assert cost[7, 1, 3] == pytest.approx(-log2(PROBABILITY[7, 1, 3]), rel=1e-6)
    assert not cost[-1].any()


@pytest.mark.parametrize("scale", range(tables.LARGEST_SCALE_INDEX + 1))
def test_scales_beyond_the_tables_take_raw_bits(scale: int) -> None:
    c = Class(2, scale)
    assert c.raw_bits == max(0, -((SCALES - 1 - scale) // STEPS_PER_OCTAVE))
    assert 2 * SCALES <= c.table < 3 * SCALES
    assert c.table - 2 * SCALES + STEPS_PER_OCTAVE * c.raw_bits == scale
    assert (c.raw_bits, c.table) == (decoder.RowClass(2, scale).raw_bits, decoder.RowClass(2, scale).table)


def test_scales_are_found_from_deviations() -> None:
    deviations = tables.SMALLEST_SCALE * 2 ** (np.arange(100) / STEPS_PER_OCTAVE)
    assert tables.scale_index(deviations).tolist() == list(range(100))
    assert tables.scale_index(np.array([0.0, 1e-30, 1e30])).tolist() == [0, 0, tables.LARGEST_SCALE_INDEX]


@pytest.mark.parametrize("index", range(len(SHAPES)))
def test_shapes_are_found_from_mean_magnitudes(index: int) -> None:
    """By sums over a fine grid: the mean magnitude of a density exp(-|x|^b), by its standard deviation."""
    x = np.linspace(0, 60, 600_001)
    density = np.exp(-(x ** SHAPES[index]))
    ratio = (x * density).sum() / density.sum() / np.sqrt((x**2 * density).sum() / density.sum())
    assert tables.shape_index(np.array([ratio, ratio - 0.01, ratio + 0.01])).tolist() == [index] * 3


def test_shapes_of_laplace_and_gauss_and_beyond() -> None:
    assert tables.shape_index(np.array([1 / 2**0.5, (2 / np.pi) ** 0.5, 0.1, 1.0])).tolist() == [1, 3, 0, 5]


@pytest.mark.parametrize("scale", [0, 20, 35, 36, 60])
def test_the_cheapest_class_is_chosen(scale: int) -> None:
    rng = np.random.default_rng(scale)
    deviation = tables.SMALLEST_SCALE * 2 ** (scale / STEPS_PER_OCTAVE)
    levels = np.rint(rng.laplace(size=(1, 400)) * deviation / 2**1.5).astype(np.int32)
    quantiser = rng.integers(0, 2, (1, 400)).astype(np.uint8)
    (chosen,) = choose_classes(Quantised(levels, quantiser), np.array([scale]))

    def bits(c: Class) -> float:
        raw = c.raw_bits
        high = np.minimum(np.abs((levels + (1 << raw >> 1)) >> raw), LEVELS + 1)
        return float(tables.bits()[c.table, 0 if raw else quantiser, high].sum()) + raw * levels.size

    raw = Class(0, scale).raw_bits
    allowed = [Class(shape, s) for shape in range(len(SHAPES)) for s in ([scale] if raw else range(SCALES))]
    assert chosen in allowed
    assert bits(chosen) == pytest.approx(min(map(bits, allowed)), rel=1e-4)
