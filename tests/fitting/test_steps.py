"""One step for a whole adapter: what is measured of it, and where the search looks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import pytest

from adaptzip import Adapter, methods
from adaptzip.adz.coding.trellis import MAX_LEVEL
from adaptzip.core.method import FitContext
from adaptzip.fitting.fit_adapter import fit_adapter
from adaptzip.fitting.fits import NOTHING_CODED, CodedAdapter, FittedAdapter
from adaptzip.fitting.small_rooms import INDEX_BYTES, cheapest
from adaptzip.fitting.steps import FINEST_ERROR, Outcome, StepSearch, round_step
from adaptzip.fitting.tolerances import TOLERANCES, Tolerances
from adaptzip.testing.adapters import adapter

SOURCE = adapter({"a": (40, 24, 4), "b": (30, 20, 3), "c": (10, 10, 2), "d": (10, 10, 2)}, seed=4)
FIXED = 1000


def svd(source: Adapter = SOURCE) -> FittedAdapter:
    method = methods.load_fittable("svd")
    return fit_adapter(method, method.config_type(), source, FitContext())


class Sizes:
    """A file of `FIXED` bytes beside its modules; counts how often it was asked."""

    def __init__(self) -> None:
        self.asked: list[float] = []

    def __call__(self, step: float, coded: CodedAdapter, error: float) -> int:
        self.asked.append(step)
        return FIXED + coded.bytes


def searched(caps: Mapping[str, int] | None = None, cut: float = 0.0, source: Adapter = SOURCE) -> StepSearch:
    return StepSearch(svd(source), Sizes(), FIXED, caps, cut)


def test_distortion_is_the_error_of_what_the_caps_leave() -> None:
    assert searched().distortion(0.25) == 0.5
    cut = searched(cut=0.19)
    assert cut.distortion(1.0) == pytest.approx(1)
    assert cut.distortion(0.19 + 0.81 * 0.25) == pytest.approx(0.5)
    assert cut.distortion(0.19) == cut.distortion(0.1) == 0


def test_caps_that_leave_nothing_divide_by_nothing() -> None:
    assert searched(cut=1.0).distortion(1.0) == 0


def test_steps_lie_between_the_finest_error_and_the_update_itself() -> None:
    steps = searched()
    low, high = steps.bounds
    fitted = steps.fitted
    assert high == pytest.approx(fitted.energy**0.5)

    def error(step: float) -> float:
        return float((fitted.predict(step, fitted.ranks(step))[1] / fitted.energy) ** 0.5)

    assert error(low) < FINEST_ERROR <= error(low * 1.1)
    largest = max(profile.energy for profile in fitted.profiles.values())
    assert low >= largest**0.5 / MAX_LEVEL


def test_caps_count_in_the_bounds() -> None:
    """What caps cut away is not to be made up for by a finer step."""
    caps = {"a": 1, "b": 1, "c": 1, "d": 1}
    fitted = svd()
    cut = fitted.predict(1e-9, fitted.ranks(1e-9, caps))[1] / fitted.energy
    low, _ = searched(caps, cut).bounds
    share = fitted.predict(low * 1.1, fitted.ranks(low * 1.1, caps))[1] / fitted.energy - cut
    assert 0 <= share**0.5 < 2 * FINEST_ERROR
    assert low > searched(caps, 0.0).bounds[0]
    assert searched(caps, cut).whole_ranks() == caps


def test_code_measures_the_whole_adapter() -> None:
    steps = searched(cut=0.001)
    ranks = {"a": 2, "c": 1}
    found = steps.code(0.02, ranks)
    every = list(steps.fitted.profiles)
    coded = steps.fitted.code(0.02, ranks, every)
    share = steps.fitted.squared_error(coded, every) / steps.fitted.energy
    assert found.size == FIXED + coded.bytes
    assert found.error == pytest.approx(share**0.5)
    assert found.distortion == pytest.approx(((share - 0.001) / 0.999) ** 0.5)
    assert (found.step, found.ranks) == (0.02, ranks)


def outcome(error: float, coded: CodedAdapter) -> Outcome:
    return Outcome(0.1, 10, error, error, {}, coded)


def test_what_keeps_nothing_is_of_no_use() -> None:
    steps = searched()
    coded = steps.fitted.code(0.02, {"a": 1}, ["a"])
    assert outcome(0.5, coded).useful
    assert outcome(0.999, coded).useful
    assert not outcome(1.0, coded).useful
    assert not outcome(1 - 1e-7, coded).useful
    assert not outcome(1.2, coded).useful
    assert not outcome(0.5, NOTHING_CODED).useful


@pytest.mark.parametrize("limit", [0.02, 0.1, 0.5])
def test_a_distortion_is_met_closely(limit: float) -> None:
    found = searched().refine(limit, rising=True)
    assert found is not None
    assert 0.97 * limit < found.distortion <= limit
    assert found.size == FIXED + found.coded.bytes


@pytest.mark.parametrize("limit", [0.01, 0.1])
def test_what_nobody_asked_for_is_met_on_either_side(limit: float) -> None:
    found = searched().about(limit)
    assert found is not None
    assert found.distortion == pytest.approx(limit, rel=0.01)


@pytest.mark.parametrize("room", [150, 300])
def test_a_room_is_filled_closely(room: int) -> None:
    found = searched().refine(room, rising=False)
    assert found is not None
    assert 0.9 * room < found.size - FIXED <= room


def test_no_outcome_where_nothing_fits() -> None:
    steps = searched()
    assert steps.held({"a": 4, "b": 3}, 1) is None
    assert steps.refine(1e-12, rising=True) is None


def test_held_ranks_stay_and_keep_to_the_room() -> None:
    ranks = {"a": 1, "b": 1}
    found = searched().held(ranks, 90)
    assert found is not None
    assert found.ranks == ranks
    assert set(found.coded.modules) == set(ranks)
    assert 75 < found.size - FIXED <= 90


def test_steps_of_a_search_are_float32_numbers() -> None:
    found = searched().refine(0.1, rising=True)
    assert found is not None
    assert found.step == round_step(found.step)
    assert round_step(0.1) == 0.10000000149011612


def test_a_step_of_late_is_not_coded_again() -> None:
    steps = searched()
    ranks = {"a": 1}
    sizes = steps.total_size
    assert isinstance(sizes, Sizes)
    first = steps._once(0.5, ranks)
    assert steps._once(0.5, ranks) is first
    assert sizes.asked == [0.5]
    for step in (0.1, 0.2, 0.3):
        steps._once(step, ranks)
    assert steps._once(0.5, ranks) is first
    steps._once(0.4, ranks)
    assert len(steps.seen) == 4
    assert steps._once(0.5, ranks) is not first
    assert sizes.asked == [0.5, 0.1, 0.2, 0.3, 0.4, 0.5]
    assert steps._once(0.5, {"a": 2}) is not steps._once(0.5, ranks)


def test_the_size_foreseen_counts_index_and_header() -> None:
    assert searched().foreseen_size(50.4, {"a": 1, "b": 2}) == round(FIXED + 50.4 + 2 * INDEX_BYTES)


def test_the_smallest_file_keeps_one_component() -> None:
    steps = searched()
    found = steps.smallest
    assert found is not None
    assert found.useful
    assert sum(found.ranks.values()) == 1
    others = [steps._coarsest(ranks) for ranks in cheapest(steps.fitted, None)]
    assert found.size == min(other.size for other in others if other is not None)


def test_a_sample_stands_for_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    source = adapter([(20, 16, 3)] * 30, seed=2)
    whole = searched(source=source)
    monkeypatch.setattr("adaptzip.fitting.fit_adapter.KEPT_NUMBERS", 10)
    monkeypatch.setattr("adaptzip.fitting.fits.SAMPLE_NUMBERS", 10 * 108)
    part = searched(source=source)
    assert (len(part.fitted.sample), part.fitted.complete, whole.fitted.complete) == (10, False, True)
    step = 0.05
    ranks = whole.fitted.ranks(step)
    exact, about = whole.measure(step, ranks), part.measure(step, ranks)
    assert len(about.coded.modules) <= 10 < len(exact.coded.modules)
    assert about.size - FIXED == pytest.approx(exact.size - FIXED, rel=0.1)
    assert about.error == pytest.approx(exact.error, rel=0.1)
    assert about.distortion == pytest.approx(about.error)
    few = dict.fromkeys(list(ranks)[:5], 1)
    assert part.measure(step, few).size == whole.measure(step, few).size


def test_the_search_of_a_copy_begins_anew() -> None:
    steps = searched()
    steps._once(0.5, {"a": 1})
    assert not replace(steps).seen


def test_a_sample_that_misled_is_aimed_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a sample alone the step is searched; what is met closely is the limit of the whole."""
    source = adapter([(20, 16, 3)] * 30, seed=2)
    monkeypatch.setattr("adaptzip.fitting.fit_adapter.KEPT_NUMBERS", 10)
    monkeypatch.setattr("adaptzip.fitting.fits.SAMPLE_NUMBERS", 4 * 108)
    for limit, rising in ((0.1, True), (0.4, True), (700, False)):
        steps = searched(source=source)
        assert not steps.fitted.complete
        found = steps.refine(limit, rising=rising)
        assert found is not None
        assert len(found.coded.modules) == len(found.ranks)
        value = found.distortion if rising else found.size - FIXED
        assert 0.93 * limit < value <= limit


def test_held_ranks_of_more_than_a_sample_are_coded_whole_at_last(monkeypatch: pytest.MonkeyPatch) -> None:
    source = adapter([(20, 16, 3)] * 30, seed=2)
    monkeypatch.setattr("adaptzip.fitting.fit_adapter.KEPT_NUMBERS", 10)
    monkeypatch.setattr("adaptzip.fitting.fits.SAMPLE_NUMBERS", 15 * 108)
    steps = searched(source=source)
    ranks = dict.fromkeys(source.modules, 1)
    found = steps.held(ranks, 900)
    assert found is not None
    assert set(found.coded.modules) == set(ranks)
    assert found.size == FIXED + found.coded.bytes <= FIXED + 900


class Coarse(StepSearch):
    """A file that shrinks with the step, and keeps something of the update up to a step of 0.3."""

    def _at(self, step: float, ranks: Mapping[str, int]) -> Outcome | None:
        if step > 0.3:
            return None
        coded = self.fitted.code(0.02, {"a": 1}, ["a"])
        return Outcome(step, round(100 / step), 0.5, 0.5, ranks, coded)


def test_the_coarsest_step_that_leaves_anything_is_found_about() -> None:
    steps = Coarse(svd(), Sizes(), FIXED)
    found = steps._coarsest({"a": 1})
    assert found is not None
    assert 0.28 < found.step <= 0.3
    assert found.size == round(100 / found.step)


class Misled(StepSearch):
    """A sample that says one thing, and a whole that comes out as a list says."""

    def __init__(self, found: list[tuple[float, int]]) -> None:
        fitted = cast("FittedAdapter", SimpleNamespace(complete=False))
        super().__init__(fitted, Sizes(), FIXED)
        self.found, self.aims = iter(found), list[float]()

    def _slope(self, limit: float) -> float:
        return 1.0

    def _search(self, limit: float, near: Tolerances, *, rising: bool) -> Outcome | None:
        self.aims.append(limit)
        return Outcome(0.1, 0, limit, limit, {}, NOTHING_CODED)

    def code(self, step: float, ranks: Mapping[str, int]) -> Outcome:
        distortion, size = next(self.found)
        return Outcome(step, FIXED + size, distortion, distortion, ranks, NOTHING_CODED)


def test_of_what_comes_of_several_aims_the_smallest_file_is_kept_for_an_error() -> None:
    steps = Misled([(0.05, 500), (0.2, 100), (0.08, 400), (0.0995, 450)])
    found = steps.refine(0.1, rising=True)
    assert found is not None
    assert found.size == FIXED + 400
    aims = [0.1, 0.2, 0.1, 0.125]  # the limit by what came of it, each time a little less
    assert steps.aims == pytest.approx(aims, rel=0.007)
    assert all(aim < whole for aim, whole in zip(steps.aims[1:], aims[1:], strict=True))


def test_of_what_comes_of_several_aims_the_largest_file_is_kept_for_a_size() -> None:
    steps = Misled([(0.3, 500), (0.2, 1100), (0.25, 700), (0.28, 600)])
    found = steps.refine(1000, rising=False)
    assert found is not None
    assert found.size == FIXED + 700


def test_tolerances_shrink_where_bytes_fall_faster_than_the_error_grows() -> None:
    """Spectra alike: near an error of 1 all modules vanish together."""
    alike = searched(source=adapter([(96, 80, 6)] * 12))
    assert alike._slope(0.1) == 1
    assert 1 < alike._slope(0.8) < alike._slope(0.95)
    near = TOLERANCES["fast"]
    steeper = near.where(2.0)
    assert (steeper.error, steeper.coarse, steeper.miss) == (near.error / 2, near.coarse / 2, near.miss / 2)
    assert steeper.bytes == near.bytes


def test_what_is_near_the_limit_is_not_aimed_at_again() -> None:
    for near in (0.0995, 0.0999):
        steps = Misled([(near, 100)])
        assert steps.refine(0.1, rising=True) is not None
        assert len(steps.aims) == 1
    steps = Misled([(0.0, 100)])
    assert steps.refine(0.1, rising=True) is not None
    assert len(steps.aims) == 1
    steps = Misled([(0.09, 100), (0.0995, 90)])
    assert steps.refine(0.1, rising=True) is not None
    assert len(steps.aims) == 2
