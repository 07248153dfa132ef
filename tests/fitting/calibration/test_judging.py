"""Weights from tallies and attributions, by hand."""

from __future__ import annotations

import warnings
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import nn

from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.core.sensitivity import Sensitivity
from adaptzip.errors import AdaptzipWarning
from adaptzip.fitting.calibration import _as_coded, _attributed, _fisher, _some, _without_moments, choosing, gradients
from adaptzip.fitting.calibration.choosing import EQUAL, Attribution, _updates, attributed_weights, errors_near
from adaptzip.fitting.calibration.gradients import GradientTally
from adaptzip.fitting.calibration.moments import (
    InputTally,
    input_rows,
    input_sensitivities,
    relative_weights,
    scaled_moments,
)
from adaptzip.models.live.layers import Layer
from adaptzip.models.live.running import Batch


def test_errors_near_one_are_a_tenth_to_either_side() -> None:
    assert errors_near(0.5) == pytest.approx((0.45, 0.5, 0.55))
    assert errors_near(0.9) == pytest.approx((0.81, 0.9, 0.95))


def test_weights_are_shares_of_the_mean() -> None:
    assert relative_weights({"a": 1.0, "b": 3.0}, "have none") == {"a": 0.5, "b": 1.5}


def test_what_has_no_weight_weighs_one_and_is_named() -> None:
    with pytest.warns(AdaptzipWarning, match="2 modules have none and weigh 1: c, d$"):
        found = relative_weights({"a": 1.0, "b": 3.0, "c": 0.0, "d": -1.0}, "have none")
    assert found == {"a": 0.5, "b": 1.5, "c": 1.0, "d": 1.0}
    with pytest.warns(AdaptzipWarning, match="4 modules have none and weigh 1: a, b, c, ...$"):
        assert set(relative_weights(dict.fromkeys("abcd", 0.0), "have none").values()) == {1.0}
    with pytest.warns(AdaptzipWarning, match="3 modules have none and weigh 1: a, b, c$"):
        relative_weights(dict.fromkeys("abc", 0.0), "have none")


def test_moments_have_the_trace_of_the_identity() -> None:
    gram = torch.tensor([[3.0, 1.0], [1.0, 5.0]], dtype=torch.float64)
    found = scaled_moments(gram)
    assert found is not None
    assert found.dtype == torch.float32
    assert found.tolist() == [[0.75, 0.25], [0.25, 1.25]]
    assert scaled_moments(None) is None
    assert scaled_moments(torch.zeros(2, 2)) is None


def linear() -> Layer:
    layer = nn.Linear(2, 3)
    return Layer(layer, layer.get_parameter("weight"), "linear")


def test_rows_are_those_of_tokens_that_count() -> None:
    mask = torch.tensor([[True, True, False], [True, False, False]])
    inputs = torch.arange(12.0).reshape(2, 3, 2)
    wanted = [[0.0, 1.0], [2.0, 3.0], [6.0, 7.0]]
    assert input_rows(linear(), inputs, mask).tolist() == wanted
    assert input_rows(linear(), inputs.reshape(6, 2), mask).tolist() == wanted
    other = torch.arange(8.0).reshape(4, 2)
    assert input_rows(linear(), other, mask).tolist() == other.tolist()
    pooled = torch.arange(4.0).reshape(2, 2)
    assert input_rows(linear(), pooled, mask).tolist() == pooled.tolist()


def test_one_token_a_text_is_told_from_one_row_a_text() -> None:
    """Texts of one token: as many rows as texts, of which none is padding."""
    mask = torch.tensor([[True], [False]])
    rows = torch.arange(4.0).reshape(2, 2)
    assert input_rows(linear(), rows, mask).tolist() == rows.tolist()
    assert input_rows(linear(), rows[:, None], mask).tolist() == rows[:1].tolist()


def test_many_texts_of_one_token_are_told_from_rows_too() -> None:
    mask = torch.zeros(300, 1, dtype=torch.bool)
    rows = torch.ones(300, 2)
    assert len(input_rows(linear(), rows, mask)) == 300


def test_inputs_weigh_by_their_energy_for_each_input() -> None:
    """12 over 4 inputs and 10 over 10: three to one."""
    layers = {"a": SimpleNamespace(shape=(7, 4)), "b": SimpleNamespace(shape=(7, 10))}
    tallies = {"a": InputTally(5, 12.0, 3 * torch.eye(4).double()), "b": InputTally(5, 10.0, torch.eye(10).double())}
    found = input_sensitivities(cast("Any", SimpleNamespace(layers=layers)), tallies)
    assert {name: s.weight for name, s in found.items()} == {"a": 1.5, "b": 0.5}
    assert found["a"].moments is not None
    assert torch.equal(found["a"].moments, torch.eye(4))


def test_gradients_weigh_by_their_energy_for_each_weight() -> None:
    """56 over 28 weights and 60 over 15: one to two. Moments are those of inputs under gradients."""
    layers = {"a": SimpleNamespace(shape=(7, 4)), "b": SimpleNamespace(shape=(3, 5))}
    tallies = {"a": GradientTally(56.0, 1.0, 3 * torch.eye(4).double()), "b": GradientTally(60.0, 1.0, None)}
    found = _fisher(cast("Any", SimpleNamespace(layers=layers)), tallies)
    assert {name: s.weight for name, s in found.items()} == pytest.approx({"a": 2 / 3, "b": 4 / 3})
    assert found["a"].moments is not None
    assert torch.equal(found["a"].moments, torch.eye(4))
    assert found["b"].moments is None


def test_the_averages_of_importance_decay_as_increloras_do() -> None:
    assert gradients.BETA == 0.85


def test_wide_modules_without_moments_are_named_and_embeddings_are_not() -> None:
    layers = {
        "wide": SimpleNamespace(shape=(7, 5), layout="linear"),
        "words": SimpleNamespace(shape=(7, 5), layout="embedding"),
    }
    tallies = dict.fromkeys(layers, InputTally(5, 5.0, None))
    with pytest.warns(AdaptzipWarning, match="1 modules have more than 4096 inputs .*: wide$"):
        found = input_sensitivities(cast("Any", SimpleNamespace(layers=layers)), tallies)
    assert {name: s.weight for name, s in found.items()} == {"wide": 1, "words": 1}


@pytest.mark.parametrize("widest", [1, 2, 3])
def test_products_of_inputs_and_gradients_are_added_up(widest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of squares 5 and 1, gradients of squares 2 and 9; of the third position, padding, nothing."""
    monkeypatch.setattr(gradients, "WIDEST_MOMENTS", widest)
    mask = torch.tensor([[True, True, False]])
    rows = torch.tensor([[1.0, 2.0], [0.0, 1.0]])
    gradient = torch.tensor([[[1.0, 1.0, 0.0], [0.0, 0.0, 3.0], [9.0, 9.0, 9.0]]])
    tally = GradientTally()
    for _ in range(2):
        gradients._add_products(tally, linear(), rows, mask, gradient)
    assert tally.output_energy == 2 * (2 + 9)
    assert tally.energy == 2 * (2 * 5 + 9 * 1)
    if widest < 2:
        assert tally.gram is None
    else:
        assert tally.gram is not None
        assert tally.gram.tolist() == [[4, 8], [8, 34]]


def attribution() -> Attribution:
    """Squared errors 4 and 1, of which shares 8 and 1 of the distance are due."""
    changes = {"a": torch.tensor([[2.0, 0.0]]), "b": torch.tensor([[0.0, 1.0]]), "zero": torch.zeros(1, 2)}
    return Attribution(changes, {"a": 8.0, "b": 1.0, "zero": 0.0})


def test_a_copy_that_was_compressed_is_taken_with_its_scaling() -> None:
    copy = Adapter({"a": LoraFactors(torch.ones(1, 2).half(), torch.ones(3, 1).half(), 0.5)})
    ((B, A),) = _updates(copy).values()
    assert (A.tolist(), B.tolist()) == ([[1, 1]], [[0.5]] * 3)
    assert A.dtype == B.dtype == torch.float32


def test_attributed_weights_are_shares_by_squared_errors() -> None:
    found = attribution().weights({})
    assert found == pytest.approx({"a": 2.0, "b": 1.0, "zero": 0.05})


def test_moments_weigh_the_squared_errors() -> None:
    """Twice the first input's moment halves what a unit of a's error is to blame for."""
    found = attribution().weights({"a": torch.tensor([[2.0, 0.0], [0.0, 1.0]])})
    assert found == pytest.approx({"a": 1.5, "b": 1.5, "zero": 0.05})


def test_shares_that_help_count_as_nothing_with_a_floor() -> None:
    changes = {"a": torch.ones(1, 1), "b": torch.ones(1, 1)}
    assert Attribution(changes, {"a": 3.0, "b": -3.0}).weights({}) == pytest.approx({"a": 2.0, "b": 0.05})
    assert Attribution(changes, {"a": -3.0, "b": -3.0}).weights({}) == {"a": 1, "b": 1}


def test_several_attributions_are_averaged() -> None:
    changes = {"a": torch.ones(1, 1), "b": torch.ones(1, 1)}
    parts = [Attribution(changes, {"a": 3.0, "b": 1.0}), Attribution(changes, {"a": 1.0, "b": 1.0})]
    assert attributed_weights(parts, {}) == pytest.approx({"a": 1.25, "b": 0.75})


def test_attributed_weights_are_believed_and_half_believed() -> None:
    changes = {"a": torch.ones(1, 1), "b": torch.ones(1, 1)}
    moments = {"a": torch.eye(1)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = _attributed([Attribution(changes, {"a": 9.0, "b": 1.0})], moments, "attributed")
    assert list(found) == ["attributed", "attributed, halved"]
    believed, halved = ({name: s.weight for name, s in found[key].items()} for key in found)
    assert believed == pytest.approx({"a": 1.8, "b": 0.2})
    assert halved == pytest.approx({"a": 1.5, "b": 0.5})
    assert found["attributed"]["a"].moments is moments["a"]
    assert found["attributed"]["b"].moments is None


def test_weights_are_told_as_a_file_can_hold_them() -> None:
    """Gains in quarter octaves: a weight of 4 is a gain of 2, and what is between goes to the nearest."""
    assert _as_coded(Sensitivity(4.0)).weight == 4
    assert _as_coded(Sensitivity(4.1)).weight == 4
    assert _as_coded(Sensitivity(2.0**0.5)).weight == pytest.approx(2**0.5, rel=1e-6)
    assert _as_coded(Sensitivity(0.0)).weight == 0
    moments = torch.eye(2)
    assert _as_coded(Sensitivity(4.1, moments)).moments is moments


def test_some_batches_have_about_4096_tokens_spread_evenly() -> None:
    def batches(count: int, tokens: int) -> list[Batch]:
        return [Batch(torch.zeros(1, tokens, dtype=torch.int64), torch.ones(1, tokens, dtype=torch.bool))] * count

    for count, tokens, kept in ((4, 1024, 4), (5, 1024, 3), (8, 1024, 4), (9, 1024, 3), (1, 9000, 1)):
        assert len(_some(batches(count, tokens))) == kept


def test_without_moments_only_weights_stay() -> None:
    found = _without_moments({"a": Sensitivity(2.0, torch.eye(3))})
    assert (found["a"].weight, found["a"].moments) == (2.0, None)


@pytest.mark.parametrize(
    ("distances", "chosen"),
    [
        ({"x": (0.5, 0.9), "y": (0.1, 1.1)}, "x"),  # y harms at one size, though it is better on the whole
        ({"x": (0.5, 1.0), "y": (0.9, 1.2)}, EQUAL),
        ({"x": (0.8, 0.8), "y": (0.4, 0.9)}, "y"),  # 0.36 before 0.64, of which the roots are taken
        ({}, EQUAL),
    ],
)
def test_the_estimate_kept_is_the_best_of_those_that_do_no_harm(
    monkeypatch: pytest.MonkeyPatch, distances: dict[str, tuple[float, float]], chosen: str
) -> None:
    measured = {(name, place): 2 * value for name, pair in distances.items() for place, value in enumerate(pair)}
    measured |= {(EQUAL, 0): 2.0, (EQUAL, 1): 2.0}
    monkeypatch.setattr(choosing, "_distances", lambda *_: measured)
    found = choosing.choose_estimate(cast("Any", None), Adapter({}), dict.fromkeys(distances, {}), [], (0.2, 0.5))
    assert found.name == chosen
    wanted = {name: (first * second) ** 0.5 for name, (first, second) in distances.items()} | {EQUAL: 1.0}
    assert found.distances == pytest.approx(wanted)
