"""The search for a step, on curves that are known."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from adaptzip.fitting.rate import PASSES, Point, search, solve


class Curve:
    """A file of `size` bytes and a distortion, by step; keeps the steps that were measured."""

    def __init__(self, size: Callable[[float], float], distortion: Callable[[float], float]) -> None:
        self.size, self.distortion = size, distortion
        self.steps: list[float] = []

    def __call__(self, step: float) -> Point:
        self.steps.append(step)
        return Point(step, self.size(step), self.distortion(step))


def falling_curve() -> Curve:
    return Curve(lambda step: 1000 / step, lambda step: step**2)


def test_a_rising_value_is_solved() -> None:
    assert solve(lambda step: step**2, 9.0, 1.0, 100.0, rising=True) == pytest.approx(3, rel=1e-9)


def test_a_falling_value_is_solved() -> None:
    assert solve(lambda step: 8 / step, 2.0, 1e-3, 1e3, rising=False) == pytest.approx(4, rel=1e-9)


def test_what_is_never_passed_ends_at_a_bound() -> None:
    assert solve(lambda step: step, 50.0, 1.0, 10.0, rising=True) == pytest.approx(10)
    assert solve(lambda step: step, 0.5, 1.0, 10.0, rising=True) == pytest.approx(1)
    assert solve(lambda step: 1 / step, 50.0, 1.0, 10.0, rising=False) == pytest.approx(1)
    assert solve(lambda step: 1 / step, 0.01, 1.0, 10.0, rising=False) == pytest.approx(10)


def test_a_true_prediction_needs_one_measurement() -> None:
    curve = falling_curve()
    found = search(curve, lambda step: step**2, 4.0, rising=True, bounds=(0.01, 100))
    assert found is not None
    assert 4 * 0.998 < found.distortion <= 4
    assert len(curve.steps) == 1


@pytest.mark.parametrize("wrong", [0.2, 7.0])
def test_a_prediction_that_is_wrong_by_a_factor_is_corrected(wrong: float) -> None:
    curve = falling_curve()
    found = search(curve, lambda step: wrong * step**2, 4.0, rising=True, bounds=(0.01, 100))
    assert found is not None
    assert 4 * 0.998 < found.distortion <= 4
    assert len(curve.steps) == 2


def test_a_limited_size_is_filled_beside_what_is_fixed() -> None:
    """500 bytes that no step changes: the limit is that of the rest."""
    curve = Curve(lambda step: 500 + 1000 / step, lambda step: step)
    found = search(curve, lambda step: 2000 / step, 100.0, rising=False, bounds=(0.01, 1000), fixed=500)
    assert found is not None
    assert 600 - 0.2 < found.size <= 600
    assert len(curve.steps) == 2


@pytest.mark.parametrize("rising", [True, False])
def test_a_prediction_of_another_slope_is_corrected_again_and_again(rising: bool) -> None:
    curve = Curve(lambda step: 1000 / step, lambda step: step)
    limit = 3.0 if rising else 1000 / 3
    found = search(
        curve, lambda step: step**0.8 if rising else step**-0.8, limit, rising=rising, bounds=(0.1, 100), tolerance=0.01
    )
    assert found is not None
    value = found.distortion if rising else found.size
    assert 0.99 * limit < value <= limit
    assert 2 < len(curve.steps) <= PASSES
    assert len(set(curve.steps)) == len(curve.steps)


def test_of_feasible_points_the_smallest_file_wins_for_an_error() -> None:
    """A step nearer to the limit that takes more bytes is not taken for it."""
    curve = Curve(lambda step: 50.0 if step < 2 else 90.0, lambda step: step)
    found = search(curve, lambda step: 4 * step, 3.0, rising=True, bounds=(0.1, 10))
    assert curve.steps == pytest.approx([0.75, 3], rel=2e-3)
    assert found is not None
    assert found.size == 50


def test_of_feasible_points_the_largest_file_wins_for_a_size() -> None:
    curve = Curve(lambda step: 100 if step < 2 else 60 + step / 10, lambda step: step)
    found = search(curve, lambda step: 1000 / step, 80.0, rising=False, bounds=(0.1, 100), tolerance=1e-6)
    assert found is not None
    assert found.size == max(60 + step / 10 for step in curve.steps if step >= 2)
    assert len([step for step in curve.steps if step >= 2]) > 1


def test_of_equal_files_the_finer_step_is_kept_for_an_error_and_the_nearer_one_for_a_size() -> None:
    curve = Curve(lambda step: 50.0, lambda step: step)
    found = search(curve, lambda step: 4 * step, 3.0, rising=True, bounds=(0.1, 10))
    assert found is not None
    assert found.step == curve.steps[0] < curve.steps[1]
    curve = Curve(lambda step: 50.0, lambda step: step)
    found = search(curve, lambda step: 80 / step, 80.0, rising=False, bounds=(0.1, 10))
    assert found is not None
    assert found.step == curve.steps[-1] != curve.steps[0]


@pytest.mark.parametrize("rising", [True, False])
def test_nothing_feasible_is_nothing(rising: bool) -> None:
    curve = Curve(lambda step: 1000.0, lambda step: 1000.0)
    assert search(curve, lambda step: step, 10.0, rising=rising, bounds=(1, 2)) is None
    assert 0 < len(curve.steps) <= PASSES


def test_where_nothing_is_fixed_the_whole_file_counts() -> None:
    curve = Curve(lambda step: 80.5, lambda step: 1.0)
    assert search(curve, lambda step: 80 / step, 80.0, rising=False, bounds=(1, 2)) is None


def test_a_value_that_is_the_limit_itself_is_feasible() -> None:
    curve = Curve(lambda step: 7.0, lambda step: 10.0)
    found = search(curve, lambda step: step, 10.0, rising=True, bounds=(1, 100))
    assert found is not None
    assert len(curve.steps) == 1


def test_a_search_ends_after_twelve_measurements() -> None:
    curve = Curve(lambda step: 1.0, lambda step: 0.0)
    assert search(curve, lambda step: step, 1.0, rising=True, bounds=(1e-300, 1e300)) is not None
    assert len(curve.steps) == PASSES == 12


def test_a_step_at_a_bound_gives_way_to_the_middle() -> None:
    """So narrow a range that the step foretold is the lower bound itself, which was measured or is not allowed."""
    curve = Curve(lambda step: 1.0, lambda step: 0.0)
    search(curve, lambda step: 9.0, 1.0, rising=True, bounds=(1, 1.0001), tolerance=1e-6)
    assert curve.steps[0] == pytest.approx(1.0001**0.5, rel=1e-12)
    assert all(1 < step < 1.0001 for step in curve.steps)


@pytest.mark.parametrize(("high", "goes_on"), [(1.015, False), (1.03, True)])
def test_a_search_goes_on_down_to_half_the_tolerance(high: float, goes_on: bool) -> None:
    """The first step, at which nothing is feasible, is the new upper bound: 1.5 % or 3 % above the lower one."""
    curve = Curve(lambda step: 1.0, lambda step: 100.0)
    search(curve, lambda step: step, high / 0.98, rising=True, bounds=(1, 2), tolerance=0.04)
    assert curve.steps[0] == pytest.approx(high)
    assert (len(curve.steps) > 1) == goes_on


def test_a_search_ends_where_the_range_is_narrow() -> None:
    curve = Curve(lambda step: 1.0, lambda step: 0.0)
    search(curve, lambda step: 0.0, 1.0, rising=True, bounds=(1, 1.1), tolerance=0.1)
    assert len(curve.steps) == 1


@pytest.mark.parametrize(
    ("value", "aim", "passed", "most"),
    [
        (lambda step: step**2, 9.0, 3.0, 14),
        (lambda step: step / (1 + step), 0.9, 9.0, 16),
        (lambda step: float(step > 3), 0.5, 3.0, 45),  # a jump, and nothing before it
        (lambda step: step + 50 * (step > 2.5), 20.0, 2.5, 45),
    ],
)
def test_a_smooth_value_takes_few_looks_and_a_jump_no_more_than_halving(
    value: Callable[[float], float], aim: float, passed: float, most: int
) -> None:
    looks: list[float] = []

    def looked(step: float) -> float:
        looks.append(step)
        return value(step)

    found = solve(looked, aim, 1e-3, 1e3, rising=True)
    assert found == pytest.approx(passed, rel=2e-9)
    assert value(found * (1 - 1e-9)) <= aim < value(found * (1 + 1e-9))
    assert len(looks) <= most
    falling = solve(lambda step: 1 / value(step) if value(step) else 1e300, 1 / aim, 1e-3, 1e3, rising=False)
    assert falling == pytest.approx(passed, rel=2e-9)
