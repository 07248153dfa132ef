"""The simple ways to store factors are measured as a comparison of the adapters would measure them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import adaptzip
from adaptzip.core.comparing import diff
from adaptzip.core.linalg import factored_svd, factored_values
from adaptzip.reports.describing import describe
from adaptzip.reports.yardsticks import yardsticks


def adapter(out: int, width: int, rank: int) -> adaptzip.Adapter:
    generator = torch.Generator().manual_seed(rank)
    A, B = torch.randn(rank, width, generator=generator), torch.randn(out, rank, generator=generator)
    return adaptzip.Adapter({"a": adaptzip.LoraFactors(A, B, 0.5), "b": adaptzip.LoraFactors(-A, B, 2.0)})


@pytest.mark.parametrize("rank", [2, 30, 70])
def test_errors_are_those_of_the_updates(rank: int) -> None:
    given = adapter(40, 64, rank)
    halves = {n: replace(m, A=m.A.half(), B=m.B.half()) for n, m in given.modules.items()}
    wanted = diff(given, adaptzip.Adapter(halves)).relative_error
    half, coarse = yardsticks(given)
    assert half.relative_error == pytest.approx(wanted, rel=1e-3)
    assert coarse.relative_error == pytest.approx(0.13, abs=0.05)


def test_what_is_kept_exactly_has_no_error() -> None:
    given = adapter(8, 8, 2)
    halves = {n: replace(m, A=m.A.half(), B=m.B.half()) for n, m in given.modules.items()}
    assert yardsticks(adaptzip.Adapter(halves))[0].relative_error == 0
    zero = {n: replace(m, B=m.B * 0) for n, m in given.modules.items()}
    assert [row.relative_error for row in yardsticks(adaptzip.Adapter(zero))] == [0, 0]


@pytest.mark.parametrize("rank", [2, 70])
def test_values_alone_are_those_of_the_decomposition(rank: int) -> None:
    (module, _) = adapter(40, 64, rank).modules.values()
    A, B = module.A[None], module.B[None]
    _, S, _ = factored_svd(A, B, 0.5, dtype=torch.float64)
    assert torch.allclose(factored_values(A, B, 0.5), S, atol=1e-9)


def test_progress_is_told_of_every_module() -> None:
    said: list[float] = []
    describe(adapter(8, 8, 2), lambda _, done, total: said.append(done / total))
    assert said[-1] == 1.0
