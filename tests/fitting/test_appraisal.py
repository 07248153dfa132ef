"""What stands beside a result, and one composition for library and command line."""

from __future__ import annotations

import pytest
import torch

import adaptzip
from adaptzip.core.budget import Budget
from adaptzip.errors import UsageError
from adaptzip.fitting.appraisal import Appraisal, Beside, appraise
from adaptzip.fitting.choosing import forecast, foresee
from adaptzip.fitting.compression import job_of, make_from
from adaptzip.fitting.loading import load_source
from adaptzip.fitting.requests import AUTO, Request
from adaptzip.methods import REFERENCE
from adaptzip.testing.adapters import adapter

SOURCE = adapter([(24, 32, 4)] * 3, extras={"head": torch.ones(5)})


def test_the_reference_stands_beside_others_at_their_size() -> None:
    request = Request(to="loretta", budget=Budget.parse("1200B"), device="cpu")
    source = load_source(SOURCE, request)
    made = make_from(source, request, job=job_of(source, request))
    beside = appraise(source, made, request).reference
    assert beside is not None
    assert beside.method == REFERENCE
    assert beside.bytes <= made.size
    assert beside.against == made.compressed.provenance.relative_error
    assert appraise(source, made, request, reference=False) == Appraisal()


@pytest.mark.parametrize("asked", [Request(device="cpu"), Request(to="loretta", lossless=True)])
def test_nothing_stands_beside_the_reference_or_what_is_lossless(asked: Request) -> None:
    source = load_source(SOURCE, asked)
    assert appraise(source, make_from(source, asked), asked) == Appraisal()


def test_the_smaller_error_wins() -> None:
    assert Beside("svd", 10, 0.1, 0.2).wins
    assert not Beside("svd", 10, 0.2, 0.1).wins


def test_a_job_is_there_where_one_method_is_named_and_something_is_left_to_choose() -> None:
    request = Request(device="cpu")
    source = load_source(SOURCE, request)
    job = job_of(source, request)
    assert job is not None
    assert job.method.name == REFERENCE
    assert job_of(source, Request(to=AUTO)) is None
    assert job_of(source, Request(lossless=True)) is None


def test_a_lossless_result_has_the_size_of_its_file() -> None:
    request = Request(lossless=True, seed=3)
    made = make_from(load_source(SOURCE, request), request)
    assert made.compressed.lossless
    assert made.error == 0.0
    assert made.ranks == {name: module.rank for name, module in SOURCE.modules.items()}
    again = adaptzip.reconstruct(made.compressed)
    assert torch.equal(again.extras["head"], SOURCE.extras["head"])
    with pytest.raises(UsageError, match="'magic' is unknown"):
        make_from(load_source(SOURCE, request), Request(to="magic", lossless=True))


def test_what_is_foreseen_of_an_open_choice_is_the_best_of_its_report() -> None:
    request = Request(to=AUTO, budget=Budget.parse("2500B"), device="cpu")
    found = foresee(load_source(SOURCE, request), request)
    assert found.report is not None
    assert found.best == found.report.best == forecast(SOURCE, request)
    assert not found.report.weighted
