"""What `inspect` says a method would cost: one fit for all errors, and no error beyond the one asked for."""

from __future__ import annotations

import pytest
import torch

import adaptzip
from adaptzip.core.progress import silent
from adaptzip.fitting.choosing import forecast
from adaptzip.fitting.forecasts import foresee_errors
from adaptzip.fitting.loading import load_source
from adaptzip.fitting.requests import Request

ERRORS = (0.1, 0.2, 0.316)


def adapter(modules: int, rank: int) -> adaptzip.Adapter:
    generator = torch.Generator().manual_seed(modules + rank)

    def factors() -> adaptzip.LoraFactors:
        A, B = torch.randn(rank, 24, generator=generator), torch.randn(32, rank, generator=generator)
        return adaptzip.LoraFactors(A, B * 0.6 ** torch.arange(rank))

    return adaptzip.Adapter({f"layer.{n}": factors() for n in range(modules)})


# Of few components the error jumps by much where one of them goes.
@pytest.mark.parametrize(("modules", "rank"), [(1, 2), (2, 3), (1, 8), (5, 4)])
def test_no_estimate_has_more_error_than_was_asked_for(modules: int, rank: int) -> None:
    given = adapter(modules, rank)
    source = load_source(given, Request())

    found = foresee_errors(source, Request(), ERRORS, silent)

    for error, foreseen in zip(ERRORS, found, strict=True):
        assert foreseen.relative_error <= error
        assert foreseen == forecast(given, Request(max_error=error))


def test_progress_is_told_to_the_end() -> None:
    said: list[tuple[str, float, float]] = []
    foresee_errors(load_source(adapter(2, 3), Request()), Request(), ERRORS, lambda *told: said.append(told))
    assert said[-1] == ("estimating", len(ERRORS), len(ERRORS))
