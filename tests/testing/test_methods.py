"""The conformance suite finds what is wrong with a method."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from torch import Tensor

from adaptzip.core.adapter import LoraFactors
from adaptzip.core.method import AnyMethod, FitContext
from adaptzip.testing import MethodTests
from adaptzip.testing.plugging import registered
from tests.cases.seventh_method import Seventh
from tests.cases.sixth_method import Config, Sixth, SixthFit, SixthProfile


class Silent(Seventh):
    """Spans modules without saying so."""

    name = "silent"
    spans_modules = False


class Remembering(Sixth):
    """Keeps its last fit."""

    name = "remembering"

    def fit(
        self, modules: Mapping[str, LoraFactors], config: Config, prepared: None, context: FitContext
    ) -> dict[str, SixthFit]:
        self.last = super().fit(modules, config, prepared, context)
        return self.last


class Boasting(Sixth):
    """Says that its errors are smaller than they are."""

    name = "boasting"

    def squared_error(self, fitted: SixthFit, tensors: Mapping[str, Tensor]) -> float:
        return super().squared_error(fitted, tensors) / 2


class Guessing(Sixth):
    """Foretells a tenth of its bits."""

    name = "guessing"

    def predict(self, profile: SixthProfile, rank: int, step: float) -> tuple[float, float]:
        bits, error = super().predict(profile, rank, step)
        return bits / 10, error


@pytest.fixture
def suite(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MethodTests]:
    made: AnyMethod = request.param()

    class OfIt(MethodTests):
        method = made

    with registered(made, tmp_path):
        yield OfIt()


@pytest.mark.parametrize("suite", [Silent], indirect=True)
def test_a_method_has_to_say_that_it_spans_modules(suite: MethodTests) -> None:
    with pytest.raises(AssertionError):
        suite.test_it_says_whether_it_spans_modules()


@pytest.mark.parametrize("suite", [Remembering], indirect=True)
def test_a_method_may_remember_nothing(suite: MethodTests) -> None:
    with pytest.raises(AssertionError, match="last"):
        suite.test_it_keeps_nothing_on_itself()


@pytest.mark.parametrize("suite", [Boasting], indirect=True)
def test_an_error_has_to_be_the_true_one(suite: MethodTests) -> None:
    with pytest.raises(AssertionError):
        suite.test_its_own_error_is_the_true_one("a", 0.02)


@pytest.mark.parametrize("suite", [Guessing], indirect=True)
def test_a_prediction_has_to_be_near(suite: MethodTests) -> None:
    with pytest.raises(AssertionError):
        suite.test_its_prediction_is_of_the_right_size(0.02)


@pytest.mark.parametrize("suite", [Sixth], indirect=True)
def test_a_sound_method_passes(suite: MethodTests) -> None:
    suite.test_it_says_whether_it_spans_modules()
    suite.test_it_keeps_nothing_on_itself()
    suite.test_its_own_error_is_the_true_one("a", 0.02)
    suite.test_its_prediction_is_of_the_right_size(0.02)
