"""Small decisions of a plan and a run: what is best, what is hopeless, what stood in the way."""

from __future__ import annotations

from dataclasses import replace
from math import inf
from types import SimpleNamespace
from typing import Any, cast

import pytest

from adaptzip.core.budget import Budget
from adaptzip.errors import CheckFailedError, NoRoomError
from adaptzip.fitting import rate_control
from adaptzip.fitting.appraisal import Beside
from adaptzip.fitting.choosing import _hopeless
from adaptzip.fitting.forecasts import Forecast, PlanReport, Refusal, with_aim
from adaptzip.fitting.rate_control import Limits, RateControl
from adaptzip.fitting.requests import Request
from adaptzip.fitting.running import Made, _order, why_not
from adaptzip.fitting.small_rooms import Few
from adaptzip.fitting.steps import StepSearch
from adaptzip.fitting.tolerances import TOLERANCES


def forecast(size: int = 100, error: float = 0.1) -> Forecast:
    return Forecast("svd", {}, size, 10, error, {})


def test_the_best_forecast_is_the_first() -> None:
    first, second = forecast(1), forecast(2)
    assert PlanReport((first, second), (), 100).best is first


def test_without_a_forecast_all_reasons_are_told_and_the_least_that_would_do() -> None:
    refusals = (Refusal("a", "too small", 300), Refusal("b", "no basis"), Refusal("c", "smaller", 200))
    with pytest.raises(CheckFailedError, match="no method can do it: a: too small; b: no basis; c: smaller") as error:
        _ = PlanReport((), refusals, 100).best
    assert error.value.hint == "allow at least 200B"
    assert PlanReport((), refusals[1:2], 100).hint == "allow more, or see `adaptzip methods`"


def test_a_request_without_limits_aims_at_a_tenth() -> None:
    assert with_aim(Request()).max_error == 0.1
    for limited in (Request(max_error=0.3), Request(budget=Budget.parse("9k"))):
        assert with_aim(limited) is limited


def test_the_failure_told_is_the_first_or_the_one_that_needs_least() -> None:
    plain = [CheckFailedError("one"), CheckFailedError("two")]
    kept = list(plain)
    assert why_not(kept) is plain[0]
    assert kept == []
    small, large, unknown = (NoRoomError("no room", hint="more", least=least) for least in (200, 300, None))
    assert why_not([*plain, large, small, unknown]) is small
    assert why_not([unknown, large]) is large
    assert "no setting" in str(why_not([]))


def made(size: int = 100, error: float = 0.1) -> Made:
    return Made(cast("Any", None), error, size, {})


@pytest.mark.parametrize(
    ("size", "error", "extras", "expected"),
    [
        (0, 0.15, None, False),
        (0, 0.151, None, True),
        (150, 0, 0, False),
        (151, 0, 0, True),
        (130, 0, 40, False),  # 90 beside the extras, of 60: once and a half
        (131, 0, 40, True),
    ],
)
def test_what_is_half_as_bad_again_is_hopeless(size: int, error: float, extras: int | None, expected: bool) -> None:
    assert _hopeless(forecast(size, error), made(), extras) == expected


def test_results_are_ordered_by_size_for_an_error_and_by_error_else() -> None:
    def order(request: Request) -> tuple[float, float]:
        return _order(cast("Any", SimpleNamespace(request=request)), made(100, 0.25))

    assert order(Request(max_error=0.3)) == (100, 0.25)
    assert order(Request(budget=Budget.parse("9k"))) == (0.25, 100)


def test_the_reference_wins_with_a_smaller_error() -> None:
    assert Beside("svd", 100, 0.1, 0.2).wins
    assert not Beside("svd", 100, 0.2, 0.2).wins
    assert not Beside("svd", 100, 0.3, 0.2).wins


class Steps:
    """What a search for a step knows of its file."""

    fixed_size = 1000
    cut = 0.25
    caps: dict[str, int] | None = None
    near = TOLERANCES["default"]
    smallest: Any = SimpleNamespace(size=1040.4)


def control(steps: Any = None, **options: int) -> RateControl:
    return RateControl(cast("StepSearch", steps or Steps()), **options)


def test_a_size_below_what_every_file_takes_is_refused() -> None:
    control().check_size(1000)
    with pytest.raises(NoRoomError, match="999 bytes cannot be reached: without any module the file takes 1000"):
        control().check_size(999)


def test_a_size_that_holds_no_module_is_told_the_least() -> None:
    error = control().no_room(1010)
    assert str(error).startswith("1010 bytes leave no room for any module")
    assert (error.least, error.hint) == (1040, "allow at least 1040B")
    assert control().no_room(999).least == 1040
    reserved = control(reserved=50).no_room(1010)
    assert str(reserved) == "1060 bytes leave no room for any module: without any module the file takes 1050"
    assert reserved.least == 1090


def test_extras_are_named_where_packing_them_smaller_would_do() -> None:
    """Half of them has to be as much as is missing: here 30 bytes."""
    assert "`extras='int8'`" in str(control(extras_size=60).no_room(1010).hint)
    assert "`extras='int8'`" not in str(control(extras_size=59).no_room(1010).hint)


def test_where_nothing_is_small_enough_another_method_is_named() -> None:
    class Nothing(Steps):
        smallest = None

    error = control(Nothing()).no_room(1010)
    assert (error.least, error.hint) == (None, "choose other settings, or another method")


@pytest.mark.parametrize(("error", "refused"), [(0.49, True), (0.5, True), (0.51, False)])
def test_an_error_below_what_is_cut_is_refused(error: float, refused: bool) -> None:
    """Settings that leave out a quarter of |dW|^2 leave an error of a half."""
    limits = Limits(error=error)
    if not refused:
        control()._check(limits)
        return
    with pytest.raises(CheckFailedError, match="these settings leave at least 0.5") as caught:
        control()._check(limits)
    assert "other settings" in str(caught.value.hint)

    class Capped(Steps):
        caps = {"a": 1}

    with pytest.raises(CheckFailedError) as caught:
        control(Capped())._check(limits)
    assert "higher ranks" in str(caught.value.hint)


def test_limits_are_checked_together() -> None:
    control()._check(Limits(1000, 0.6))
    with pytest.raises(NoRoomError):
        control()._check(Limits(999, 0.6))
    control()._check(replace(Limits(), aim=0.01))


def coded(size: float, error: float, step: float = 1.0, distortion: float = 0.5) -> Any:
    """An outcome of one component."""
    return SimpleNamespace(size=size, error=error, step=step, ranks={"a": 1}, distortion=distortion, useful=True)


class Coding(Steps):
    """A search that codes a step to whatever a table says, and keeps the steps."""

    bounds = (0.9, 2.0)

    def __init__(self, outcomes: list[Any]) -> None:
        self.outcomes, self.coded = iter(outcomes), list[float]()

    def code(self, step: float, ranks: dict[str, int]) -> Any:
        assert ranks == {"a": 1}
        self.coded.append(step)
        return next(self.outcomes)


def test_room_that_is_left_is_filled_with_finer_steps_at_the_same_ranks() -> None:
    best = coded(1500, 0.5)
    steps = Coding([coded(1700, 0.4), coded(2001, 0.1), coded(2000, 0.3)])
    found = control(steps)._nudged(best, 2000)
    assert steps.coded == pytest.approx([0.97, 0.97**2, 0.97**3])  # finer ones lie beyond the bounds
    assert (found.size, found.error) == (2000, 0.3)


def test_room_that_is_filled_already_is_left_alone() -> None:
    """Within nine thousandths of the room or eight bytes; or fine enough for anyone."""
    for best in (coded(1995, 0.5), coded(1991, 0.5), coded(1500, 0.5, distortion=2e-4)):
        assert control(Coding([]))._nudged(best, 2000) is best
    for best in (coded(1990, 0.5), coded(1500, 0.5, distortion=2.1e-4)):
        assert not control()._enough(best, 2000)
    useless = coded(2000, 1.0)
    useless.useful = False
    assert not control()._enough(useless, 2000)
    many = coded(1500, 0.5)
    many.ranks = {"a": 30, "b": 3}
    assert control()._enough(many, 2000)
    many.ranks = {"a": 30, "b": 2}
    assert not control()._enough(many, 2000)


class Alone(RateControl):
    """Of which no set of few components comes to anything."""

    def _few(self, room: int, error: float) -> list[Any]:
        return []


class Unmet(Steps):
    """A search that finds nothing for a room."""

    def refine(self, room: int, *, rising: bool) -> None:
        return None


@pytest.mark.parametrize("size", [1000, 1010, 1040])
def test_a_room_below_the_smallest_file_is_refused(size: int) -> None:
    with pytest.raises(NoRoomError, match="leave no room for any module"):
        Alone(cast("StepSearch", Unmet()))._filled(size)


def test_a_room_that_only_the_smallest_file_fits_gets_it() -> None:
    assert Alone(cast("StepSearch", Unmet()))._filled(1041) is Steps.smallest


class Held(Steps):
    """A search that holds ranks to an outcome of a table, and keeps which were held."""

    fitted = SimpleNamespace(energy=1.0)
    caps: Any = None
    bounds = (0.5, 2.0)

    def __init__(self) -> None:
        self.tried = list[int]()

    def held(self, ranks: dict[str, int], room: float) -> Any:
        self.tried.append(ranks["a"])
        return coded(room, 0.1)


@pytest.mark.parametrize(("error", "tried"), [(0.0, []), (0.5, [1]), (0.6, [1, 2]), (inf, [1, 2, 3])])
def test_few_components_are_tried_where_they_promise_a_smaller_error(
    monkeypatch: pytest.MonkeyPatch, error: float, tried: list[int]
) -> None:
    """Squared errors of 0.2, 0.3 and 4 times |dW|^2 against the error squared."""
    sets = [Few({"a": rank}, 1.0, 100.0, squared) for rank, squared in ((1, 0.2), (2, 0.3), (3, 4.0))]
    monkeypatch.setattr(rate_control, "promising", lambda *_: sets)
    steps = Held()
    assert len(control(steps)._few(1000, error)) == len(tried)
    assert steps.tried == tried


class Jumping(Held):
    """Of which every step either leaves the room empty or needs four times as much."""

    fitted = SimpleNamespace(energy=1.0, ranks=lambda step, caps: {"a": 1} if step < 1 else {})


@pytest.fixture
def jumping(monkeypatch: pytest.MonkeyPatch) -> RateControl:
    monkeypatch.setattr(rate_control, "expected_at", lambda _, step, caps: (4000.0 if step < 1 else 0.0, 1.0))
    return control(Jumping())


@pytest.mark.parametrize(("sizes", "best"), [((500, 1000, 1011), 2), ((1011, 900, 2000), 2), ((1009, 100, 5), 3)])
def test_where_ranks_jump_over_the_room_the_best_set_that_fits_is_foreseen(
    monkeypatch: pytest.MonkeyPatch, jumping: RateControl, sizes: tuple[int, ...], best: int
) -> None:
    """Within a hundredth above the room; later sets leave less."""
    sets = [Few({"a": rank}, 1.0, size, 1 / rank) for rank, size in enumerate(sizes, 1)]
    monkeypatch.setattr(rate_control, "promising", lambda *_: sets)
    assert jumping._foresee_size(2000) == (1.0, {"a": best})


@pytest.mark.parametrize(("room", "codes"), [(256, True), (257, False)])
def test_next_to_no_room_is_coded_to_be_foreseen(
    monkeypatch: pytest.MonkeyPatch, jumping: RateControl, room: int, codes: bool
) -> None:
    monkeypatch.setattr(rate_control, "promising", lambda *_: [Few({"a": 7}, 1.0, 100.0, 0.1)])
    monkeypatch.setattr(RateControl, "_filled", lambda self, size: coded(size, 0.5))
    assert jumping._foresee_size(1000 + room)[1] == {"a": 1 if codes else 7}
