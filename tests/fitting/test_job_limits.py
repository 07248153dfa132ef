"""Ranks under a budget of parameters, and errors that ranks leave, against what the update itself says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

from adaptzip import methods
from adaptzip.bases.updates import build_basis
from adaptzip.core.budget import Budget
from adaptzip.core.method import FitContext
from adaptzip.errors import CheckFailedError
from adaptzip.fitting.candidates import candidates, fit_candidate
from adaptzip.fitting.fit_adapter import fit_adapter
from adaptzip.fitting.fits import FittedAdapter
from adaptzip.fitting.job_limits import _units, control_of, packable_extras
from adaptzip.fitting.loading import load_source
from adaptzip.fitting.rate_control import DEFAULT_ERROR, Limits
from adaptzip.fitting.requests import Job, Request, prepare_job
from adaptzip.fitting.surveys import survey_of
from adaptzip.testing.adapters import adapter

SOURCE = adapter({"a": (40, 24, 4), "b": (30, 20, 3), "c": (10, 10, 2)}, seed=4)
NUMBERS = {"a": 64, "b": 50, "c": 20}
"""Numbers of one component."""


def job(**request: object) -> tuple[Job, FittedAdapter]:
    asked = Request(device="cpu", **request)  # type: ignore[arg-type]
    made = prepare_job(load_source(SOURCE, asked), asked)
    method = methods.load_fittable("svd")
    return made, fit_adapter(method, method.config_type(), SOURCE, FitContext())


def caps_of(parameters: int, ranks: Mapping[str, int] | None = None) -> Mapping[str, int]:
    made, fitted = job(budget=Budget(parameters, "parameters"), ranks=ranks)
    control, _ = control_of(made, fitted)
    assert control.steps.caps is not None
    return control.steps.caps


def greedy(parameters: int) -> dict[str, int]:
    """Component after component by energy for each number, leaving out what no longer fits."""
    spectra = survey_of(SOURCE, job()[0].context.device).singular
    ranks = dict.fromkeys(NUMBERS, 0)
    stuck: set[str] = set()
    while open_ones := [n for n in ranks if n not in stuck and ranks[n] < len(spectra[n])]:
        best = max(open_ones, key=lambda name: spectra[name][ranks[name]] ** 2 / NUMBERS[name])
        if NUMBERS[best] > parameters:
            stuck.add(best)
            continue
        parameters -= NUMBERS[best]
        ranks[best] += 1
    return ranks


@pytest.mark.parametrize("parameters", [20, 49, 64, 134, 200, 300, 400, 445, 446, 447, 10_000])
def test_a_budget_of_parameters_buys_the_best_components_that_fit(parameters: int) -> None:
    caps = caps_of(parameters)
    assert caps == greedy(parameters)
    assert sum(NUMBERS[name] * rank for name, rank in caps.items()) <= parameters


def test_everything_fits_from_what_everything_takes() -> None:
    everything = 4 * 64 + 3 * 50 + 2 * 20
    assert caps_of(everything) == {"a": 4, "b": 3, "c": 2}
    assert caps_of(everything - 1) != {"a": 4, "b": 3, "c": 2}


def test_given_ranks_are_kept_within_a_budget_of_parameters() -> None:
    assert caps_of(10_000, {"a": 1, "b": 2}) == {"a": 1, "b": 2, "c": 0}
    assert caps_of(64 + 50, {"a": 1, "b": 2, "c": 0}) == {"a": 1, "b": 1, "c": 0}


def test_too_few_parameters_are_told_the_least() -> None:
    with pytest.raises(CheckFailedError, match="19 parameters leave no room for any module: the smallest takes 20"):
        caps_of(19)
    with pytest.raises(CheckFailedError, match="these ranks leave out every module"):
        caps_of(1000, {"a": 0})


def test_ranks_that_are_given_cap_the_others_at_nothing() -> None:
    made, fitted = job(max_error=0.9, ranks={"a": 2})
    assert control_of(made, fitted)[0].steps.caps == {"a": 2, "b": 0, "c": 0}
    made, fitted = job(max_error=0.9)
    assert control_of(made, fitted)[0].steps.caps is None


def test_the_share_cut_is_what_the_caps_leave_out() -> None:
    made, fitted = job(max_error=0.9, ranks={"a": 2, "b": 3})
    control, limits = control_of(made, fitted)
    spectra = survey_of(SOURCE, made.context.device).singular
    lost = np.square(spectra["a"][2:]).sum() + np.square(spectra["c"]).sum()
    cut = lost / sum(np.square(values).sum() for values in spectra.values())
    assert control.steps.cut == pytest.approx(cut, rel=1e-4)
    assert limits.aim == pytest.approx((cut + DEFAULT_ERROR**2 * (1 - cut)) ** 0.5, rel=1e-4)
    assert limits.error == 0.9


def test_units_of_rank_have_the_energy_of_their_components() -> None:
    made, fitted = job()
    spectra = survey_of(SOURCE, made.context.device).singular
    for name, units in _units(fitted).items():
        assert units == pytest.approx(np.square(spectra[name]).tolist(), rel=1e-4)


def test_limits_are_those_of_the_request() -> None:
    made, fitted = job(budget=Budget(5000, "bytes"), max_error=0.2)
    _, limits = control_of(made, fitted)
    assert (limits.size, limits.error) == (5000, 0.2)
    made, fitted = job(budget=Budget(0.5, "fraction"))
    _, limits = control_of(made, fitted)
    assert (limits.size, limits.error) == (made.source.bytes // 2, None)
    made, fitted = job(budget=Budget(300, "parameters"))
    assert control_of(made, fitted)[1].size is None


def test_extras_that_are_int8_already_can_not_be_packed_smaller() -> None:
    source = adapter({"a": (8, 8, 2)}, extras={"head": torch.randn(20, 30)})
    for mode, expected in (("lossless", True), ("float16", True), ("int8", False)):
        asked = Request(device="cpu", extras=mode)  # type: ignore[arg-type]
        made = prepare_job(load_source(source, asked), asked)
        assert packable_extras(made) == (len(made.source.extras.payload) if expected else 0)


def test_what_all_modules_share_leaves_room_for_one_at_least() -> None:
    """An embedded basis is stored whole: of parameters, what it takes is off before any module."""

    def limited(parameters: int) -> tuple[Job, FittedAdapter]:
        asked = Request(
            to="lora-xs", device="cpu", budget=Budget(parameters, "parameters"), basis=build_basis([SOURCE]),
            embed_basis=True,
        )  # fmt: skip
        made = prepare_job(load_source(SOURCE, asked), asked)
        return made, fit_candidate(made, candidates(made)[0])

    shared = limited(10**6)[1].shared_numbers
    least = min(limited(10**6)[1].numbers(name, 1) for name in SOURCE.modules)
    assert shared > 0
    for parameters in (shared - 1, shared):
        with pytest.raises(CheckFailedError, match=f"what all share takes {shared}") as caught:
            control_of(*limited(parameters))
        assert caught.value.hint == f"allow at least {shared + least} parameters"
    caps = control_of(*limited(shared + least))[0].steps.caps
    assert caps is not None
    assert sum(caps.values()) == 1


def test_nothing_is_coded_to_foresee_a_room_of_more_than_256_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    made, fitted = job(budget=Budget(5000, "bytes"))
    control, _ = control_of(made, fitted)
    fixed = control.steps.fixed_size
    coded: list[float] = []
    code = FittedAdapter.code

    def noted(self: FittedAdapter, step: float, *rest: Any) -> Any:
        coded.append(step)
        return code(self, step, *rest)

    monkeypatch.setattr(FittedAdapter, "code", noted)
    for room in (257, 600):
        step, ranks = control.foresee(Limits(size=fixed + room))
        assert ranks
        assert control.steps.bounds[0] <= step <= control.steps.bounds[1]
    assert not coded
    control.foresee(Limits(size=fixed + 256))
    assert coded
