"""Settings that a method proposes, what a file takes beside them, and what is forecast of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest

from adaptzip import LoraFactors
from adaptzip.adz.container import writer
from adaptzip.bases.updates import build_basis
from adaptzip.core.adapter import Adapter
from adaptzip.core.budget import Budget
from adaptzip.core.compressed import Site
from adaptzip.core.survey import Allowance, Candidate, Survey
from adaptzip.fitting.candidates import bare_size, candidates, empty_file, fit_candidate, smallest, with_ranks
from adaptzip.fitting.choosing import foresee
from adaptzip.fitting.forecasts import compare
from adaptzip.fitting.loading import load_source
from adaptzip.fitting.requests import Job, Request, prepare_job
from adaptzip.fitting.running import run
from adaptzip.testing.adapters import adapter

SOURCE = adapter({f"layers.{i}.q": (96, 64, 8) for i in range(6)}, seed=2)


def job_of(to: str, source: Adapter = SOURCE, **request: Any) -> Job:
    asked = Request(to=to, device="cpu", **request)
    return prepare_job(load_source(source, asked), asked)


def test_a_method_of_one_setting_proposes_what_was_asked_for() -> None:
    job = job_of("svd", max_error=0.3)
    assert candidates(job) == smallest(job) == [Candidate(job.config)]


def test_of_updates_of_zero_nothing_is_proposed_but_what_was_asked_for() -> None:
    module = SOURCE.modules["layers.0.q"]
    zero = Adapter({"a": LoraFactors(module.A, module.B * 0)})
    job = job_of("vblora", zero, max_error=0.3)
    assert candidates(job) == smallest(job) == [Candidate(job.config)]


def test_a_share_of_the_error_allowed_asks_for_more_bytes() -> None:
    job = job_of("vblora", max_error=0.6)
    whole, half = (candidates(job, aim)[0] for aim in (1.0, 0.5))
    assert whole.bytes is not None
    assert half.bytes is not None
    assert whole.error is not None
    assert half.error is not None
    assert half.bytes > whole.bytes
    assert half.error < whole.error


def test_the_smallest_setting_takes_the_fewest_bytes() -> None:
    job = job_of("vblora", budget=Budget(0.5, "fraction"))
    least = smallest(job)[0].bytes
    assert least is not None
    assert all(least <= candidate.bytes for candidate in candidates(job) if candidate.bytes is not None)


@pytest.mark.filterwarnings("ignore::adaptzip.errors.AdaptzipWarning")
@pytest.mark.parametrize("to", ["vblora", "loretta"])
def test_what_a_file_takes_besides_is_foreseen(to: str) -> None:
    job = job_of(to, budget=Budget(0.5, "fraction"))
    compressed = run(job).compressed
    besides = writer.size(compressed) - compressed.payload_bytes
    assert besides <= bare_size(job) <= besides + 6 * 4 + 40


def test_the_empty_file_names_every_module_and_holds_none() -> None:
    empty = empty_file(job_of("vblora", max_error=0.5))
    assert (empty.method, empty.modules) == ("vblora", tuple(SOURCE.modules))
    assert empty.payload_bytes == 0


def test_what_a_method_knows_is_not_fitted() -> None:
    request = Request(to="vblora", device="cpu", budget=Budget(0.5, "fraction"))
    source = load_source(SOURCE, request)
    report = compare(source, request, ["vblora"])
    job = prepare_job(source, request)
    proposed = {(c.bytes, c.error): c for c in candidates(job)}
    assert report.forecasts
    known = [f for f in report.forecasts if not f.ranks]
    assert known
    for forecast in known:
        own = proposed[forecast.bytes - bare_size(job), forecast.relative_error]
        assert forecast.parameters == own.parameters
        assert forecast.bytes <= source.bytes // 2
    errors = [forecast.relative_error for forecast in report.forecasts]
    assert errors == sorted(errors)


def test_a_forecast_counts_what_is_shared_and_every_rank() -> None:
    """With an embedded basis, its numbers count too."""
    request = Request(to="lora-xs", device="cpu", max_error=0.5, embed_basis=True, basis=build_basis([SOURCE]))
    source = load_source(SOURCE, request)
    forecast = foresee(source, request).best
    job = with_ranks(prepare_job(source, request))
    fitted = fit_candidate(job, candidates(job)[0])
    assert fitted.shared_numbers > 0
    own = sum(fitted.numbers(name, rank) for name, rank in forecast.ranks.items())
    assert own > 0
    assert forecast.parameters == fitted.shared_numbers + own


def test_ranks_that_are_set_cut_the_survey_of_methods_that_fit_them_at_once() -> None:
    ranks = {"layers.0.q": 3, "layers.1.q": 1}
    job = with_ranks(job_of("vblora", max_error=0.9, ranks=ranks))
    assert job.survey is not None
    assert {name: len(values) for name, values in job.survey.singular.items()} == {
        name: ranks.get(name, 0) for name in SOURCE.modules
    }
    assert job.context.ranks == {name: ranks.get(name, 0) for name in SOURCE.modules}
    whole = job_of("vblora", max_error=0.9).survey
    assert whole is not None
    assert np.array_equal(job.survey.singular["layers.0.q"], whole.singular["layers.0.q"][:3])
    plain = job_of("svd", max_error=0.9, ranks=ranks)
    assert with_ranks(plain) is plain


@pytest.mark.parametrize("allocate", ["uniform", "energy", "increlora"])
def test_an_allocation_cuts_every_module_to_its_rank(allocate: str) -> None:
    job = with_ranks(job_of("vblora", budget=Budget(0.3, "fraction"), allocate=allocate))
    assert job.survey is not None
    assert job.context.ranks is not None
    assert {n: len(v) for n, v in job.survey.singular.items()} == job.context.ranks
    assert all(1 <= rank <= 8 for rank in job.context.ranks.values())
    again = with_ranks(replace(job, request=replace(job.request, allocate=None)))
    assert again.context.ranks == job.context.ranks


class Asked:
    """A method that gives what a function of the ranks says, and keeps what it was asked."""

    name = "asked"
    fixed_ranks = True
    roles = ("rows",)
    shared_roles = ()

    def __init__(self, give: Callable[[int], tuple[int, float]] = lambda _: (100, 0.5)) -> None:
        self.allowances: list[Allowance] = []
        self.give = give

    def candidates(self, survey: Survey, config: Any, allowance: Allowance) -> list[Candidate[Any]]:
        self.allowances.append(allowance)
        size, error = self.give(max(map(len, survey.singular.values())))
        return [Candidate(config, size, 10, error)]


def asking(method: Asked, singular: dict[str, list[float]] | None = None, **request: Any) -> Job:
    job = job_of("vblora", **request)
    spectra = {name: np.array(values) for name, values in (singular or {}).items()}
    survey = job.survey if singular is None else Survey(dict.fromkeys(spectra, Site(9, 9)), spectra)
    return replace(job, method=cast("Any", method), survey=survey)


def test_a_method_is_told_what_settings_may_cost() -> None:
    method = Asked()
    job = asking(method, max_error=0.6)
    candidates(job)
    candidates(job, 0.5)
    smallest(job)
    assert method.allowances == [Allowance(None, None, error) for error in (0.6, 0.3, 0.6)]


def test_a_budget_is_told_less_what_a_file_takes_besides() -> None:
    method = Asked()
    job = asking(method, budget=Budget(9000, "bytes"))
    candidates(job)
    smallest(job)
    assert method.allowances == [Allowance(None, 9000 - bare_size(job), None), Allowance(None, 1, None)]
    job = asking(method, budget=Budget(10, "bytes"))
    candidates(job)
    assert method.allowances[-1].bytes == 1
    candidates(asking(method, budget=Budget(700, "parameters")))
    assert method.allowances[-1] == Allowance(700, None, None)


@pytest.mark.parametrize(
    ("errors", "rank"),
    [
        ((0.1, 0.4), 2),  # 0.3 + 0.7 * 0.01 = 0.307; 0.1 + 0.9 * 0.16 = 0.244
        ((0.1, 0.6), 1),  # 0.1 + 0.9 * 0.36 = 0.424
    ],
)
def test_an_allocation_weighs_what_is_cut_against_what_is_coded_worse(errors: tuple[float, float], rank: int) -> None:
    """Of energies 7, 2 and 1 the first unit loses 0.3, the first two 0.1; all three are made hopeless."""
    spectrum = [7**0.5, 2**0.5, 1.0]
    method = Asked(lambda units: (100, (*errors, 0.9)[units - 1]))
    job = with_ranks(asking(method, {"m": spectrum}, budget=Budget(10**6, "bytes"), allocate="uniform"))
    assert job.context.ranks == {"m": rank}


def test_an_allocation_for_an_error_is_the_one_of_fewest_bytes() -> None:
    sizes = {1: 300, 2: 200, 3: 250}
    method = Asked(lambda units: (sizes[units], 0.5))
    job = with_ranks(asking(method, {"m": [3.0, 2.0, 1.0]}, max_error=0.9, allocate="uniform"))
    assert job.context.ranks == {"m": 2}


def test_an_allocation_that_does_not_fit_is_none() -> None:
    method = Asked(lambda units: (10**units, 0.5))
    budget = Budget(bare_size(job_of("vblora", max_error=0.5)) + 500, "bytes")
    job = with_ranks(asking(method, {"m": [3.0, 2.0, 1.0]}, budget=budget, allocate="uniform"))
    assert job.context.ranks == {"m": 2}
