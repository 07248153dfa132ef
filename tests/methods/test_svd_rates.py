"""What svd foresees of many modules at once, against one component after another."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from adaptzip.core.foresight import OneByOne, Values
from adaptzip.core.rates import BIT_WEIGHT, ROW_BITS
from adaptzip.methods import load_fittable
from adaptzip.methods._rates import row_costs
from adaptzip.methods._svd_rates import SvdProfile, SvdRates

STEPS = (3.0, 0.4, 0.05, 0.001)


def profiles() -> list[SvdProfile]:
    """Modules of several ranks, with moments, a frame, both or neither, and a frame of outputs as well."""
    rng = np.random.default_rng(0)
    found = []
    for rank, out, width in ((4, 30, 20), (1, 7, 9), (16, 64, 200), (3, 500, 2)):
        singular = np.sort(rng.exponential(size=rank))[::-1] * 3
        stretch = rng.uniform(0.5, 2, rank)
        outside = rng.uniform(0, 1, rank)
        found += [
            SvdProfile(singular, out, width),
            SvdProfile(singular, out, width, stretch),
            SvdProfile(singular, out, width, None, rank, outside),
            SvdProfile(singular, out, width, stretch, rank, outside),
            SvdProfile(singular, out, width, stretch, rank, outside, rng.uniform(0, 1, rank)),
        ]
    return found


def component(profile: SvdProfile, number: int, step: float) -> tuple[float, float]:
    """Bits and squared error of one component, by its rows: of coordinates in frames, and of what these leave."""
    s = profile.singular[number]
    length = 1.0 if profile.stretch is None else profile.stretch[number]

    def row(deviation: float) -> tuple[float, float]:
        rate, error = row_costs(np.array([deviation / step]))
        return float(rate[0]), float(error[0])

    def side(long: float, numbers: int, outside: Values | None) -> tuple[float, float]:
        """Bits of a vector's rows, and the share of it that they lose."""
        if outside is None:
            rate, error = row(long / np.sqrt(numbers))
            return ROW_BITS + numbers * rate, error
        o = outside[number]
        inner, lost = row(long * np.sqrt((1 - o) / profile.frame))
        rest = o + (1 - o) * min(lost, 1.0)
        rate, error = row(long * np.sqrt(rest / numbers))
        # A class costs as much as any where its row has that many bits, and next to nothing where it has none.
        own = min(ROW_BITS, 0.1 * ROW_BITS + numbers * rate)
        return ROW_BITS + profile.frame * inner + own + numbers * rate, rest * error

    u, v = side(s, profile.out, profile.out_outside), side(s * length, profile.width, profile.outside)
    kept = (1 - min(u[1], 1.0)) * (1 - min(v[1] * length**2, 1.0))
    return u[0] + v[0], s**2 * (1 - kept)


@pytest.mark.parametrize("step", STEPS)
def test_predictions_are_sums_over_components(step: float) -> None:
    every = profiles()
    rates, rng = SvdRates(every), np.random.default_rng(1)
    ranks = np.array([rng.integers(0, len(p.singular) + 1) for p in every])
    bits, errors = rates.predict(step, ranks)
    for place, (profile, rank) in enumerate(zip(every, ranks, strict=True)):
        costs = [component(profile, number, step) for number in range(rank)]
        assert bits[place] == pytest.approx(sum(b for b, _ in costs), rel=1e-12)
        left = float(np.square(profile.singular[rank:]).sum())
        assert errors[place] == pytest.approx(sum(e for _, e in costs) + left, rel=1e-12)


@pytest.mark.parametrize("step", STEPS)
def test_ranks_are_worth_their_bits(step: float) -> None:
    every = profiles()
    for profile, rank in zip(every, SvdRates(every).ranks(step), strict=True):
        costs = [component(profile, number, step) for number in range(len(profile.singular))]
        worth = [s**2 - e - BIT_WEIGHT * step**2 * b for s, (b, e) in zip(profile.singular, costs, strict=True)]
        if profile.stretch is None and profile.outside is None:
            expected = next((n for n, value in enumerate(worth) if value <= 0), len(worth))
        else:
            expected = max(range(len(worth) + 1), key=lambda n: sum(worth[:n]))
        assert rank == expected


def test_rows_are_those_asked_for() -> None:
    every = profiles()
    rows, ranks = np.array([5, 0, 11]), np.array([1, 2, 3])
    for rates in (SvdRates(every), OneByOne(load_fittable("svd"), every)):
        first = rates.predict(0.1, ranks, rows)
        rates.ranks(0.1)  # What it remembers of this step gives the same.
        for one, other in zip(first, rates.predict(0.1, ranks, rows), strict=True):
            assert np.allclose(one, other, rtol=1e-13)
        alone = [SvdRates([every[row]]).predict(0.1, np.array([rank])) for row, rank in zip(rows, ranks, strict=True)]
        assert np.allclose(first[0], [bits[0] for bits, _ in alone], rtol=1e-13)
        assert np.allclose(first[1], [errors[0] for _, errors in alone], rtol=1e-13)


def test_one_by_one_says_the_same() -> None:
    method, every = load_fittable("svd"), profiles()
    for step in STEPS:
        ranks = SvdRates(every).ranks(step)
        assert OneByOne(method, every).ranks(step).tolist() == ranks.tolist()
        for one, other in zip(
            OneByOne(method, every).predict(step, ranks), SvdRates(every).predict(step, ranks), strict=True
        ):
            assert np.allclose(one, other, rtol=1e-13)


def test_no_modules_have_no_ranks() -> None:
    rates = SvdRates([])
    assert rates.ranks(0.1).tolist() == []
    assert [values.tolist() for values in rates.predict(0.1, np.array([], np.int64))] == [[], []]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("most", [None, 2])
def test_gains_of_frames_are_what_they_save(step: float, most: int | None) -> None:
    every = profiles()
    gains = SvdRates(every).frame_gains(step, None if most is None else np.full(len(every), most))
    for profile, gain in zip(every, gains, strict=True):
        saved = []
        for one in (profile, replace(profile, frame=0, outside=None, out_outside=None)):
            rank = int(SvdRates([one]).ranks(step)[0])
            costs = [component(one, number, step) for number in range(rank if most is None else min(rank, most))]
            worth = [s**2 - e - BIT_WEIGHT * step**2 * b for s, (b, e) in zip(one.singular, costs, strict=False)]
            saved.append(sum(worth))
        expected = (saved[0] - saved[1]) / (BIT_WEIGHT * step**2) if profile.frame else 0.0
        assert gain == pytest.approx(expected, rel=1e-9, abs=1e-9)
