"""What a budget makes is not left as small as least squares makes it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

import adaptzip
from adaptzip import LoraFactors
from adaptzip.adz.container import writer
from adaptzip.core.comparing import diff, products
from adaptzip.core.compressed import Compressed
from adaptzip.core.sensitivity import Sensitivity
from adaptzip.fitting.shrinkage import LEAST_ERROR, MOST, WEIGHT, Agreement
from adaptzip.methods import fittable, load_fittable
from adaptzip.testing.adapters import adapter, factors

GROWING = [name for name in fittable() if load_fittable(name).degree and not load_fittable(name).needs_basis]
SOURCE = adapter({f"m{n}": (96, 64, 8) for n in range(4)})


def along(made: Compressed) -> float:
    """<dW, dW'> / |dW|^2."""
    energy, product, _ = products(SOURCE, adaptzip.reconstruct(made))
    return product / energy


def dense(module: LoraFactors) -> Tensor:
    return module.scaling * module.B.double() @ module.A.double()


@pytest.mark.parametrize(("p", "q"), [(0.9, 0.9), (0.75, 0.77), (0.6, 0.52), (0.99, 0.98)])
def test_the_factor_is_the_best_of_all(p: float, q: float) -> None:
    grid = np.linspace(1, MOST, 5001)
    loss = WEIGHT * (1 - grid * p) ** 2 + grid**2 * (q - p**2)
    assert Agreement(p, q).factor == pytest.approx(grid[loss.argmin()], abs=2e-4)


@pytest.mark.parametrize("along", [-0.1, 0.0, 1e-9, 0.2, 1.0, 1.2])
def test_the_factor_has_bounds(along: float) -> None:
    assert 1 <= Agreement(along, 0.5).factor <= MOST


@pytest.mark.parametrize("error", [0.2, 0.5, 0.9])
def test_a_fit_that_is_made_larger_stays_nearer_than_nothing(error: float) -> None:
    found = Agreement.fitted(error)
    assert found.error(1.0) == pytest.approx(error)
    assert error < found.error(found.factor) < 1


@pytest.mark.parametrize(("p", "q"), [(0.1, 0.14), (0.3, 0.6), (0.05, 0.05), (0.9, 0.95)])
def test_what_is_nearer_than_nothing_stays_so(p: float, q: float) -> None:
    found = Agreement(p, q)
    assert found.error(found.factor) < 1 or found.factor == 1


@pytest.mark.parametrize("weighed", [False, True])
def test_products_are_those_of_dense_updates(weighed: bool) -> None:
    student = replace(SOURCE, modules={f"m{n}": factors(96, 64, 3, seed=9 + n) for n in range(3)})
    given = {}
    if weighed:
        root = torch.randn(64, 64, generator=torch.Generator().manual_seed(1))
        given = {"m0": Sensitivity(3.0, root @ root.T / 64), "m3": Sensitivity(0.5)}
    expected = [0.0, 0.0, 0.0]
    for name, module in SOURCE.modules.items():
        sensitivity = given.get(name, Sensitivity())
        moments = torch.eye(64).double() if sensitivity.moments is None else sensitivity.moments.double()
        one = dense(module)
        other = dense(student.modules[name]) if name in student.modules else torch.zeros_like(one)
        for place, (left, right) in enumerate(((one, one), (one, other), (other, other))):
            expected[place] += sensitivity.weight * float((left @ moments * right).sum())
    assert products(SOURCE, student, given) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("method", GROWING)
def test_a_budget_is_made_larger_and_an_error_is_met_as_near_as_can_be(method: str) -> None:
    fit = adaptzip.compress(SOURCE, to=method, max_error=0.5)
    made = adaptzip.compress(SOURCE, to=method, budget=f"{writer.size(fit)}B")
    assert along(made) > along(fit) + 0.05
    assert writer.size(made) <= writer.size(fit)
    for one in (fit, made):
        stated = one.provenance.relative_error
        assert stated == pytest.approx(diff(SOURCE, adaptzip.reconstruct(one)).relative_error, rel=1e-5)
    assert fit.provenance.relative_error <= 0.5


def test_the_reference_beside_an_error_to_meet_is_the_nearest_too() -> None:
    from adaptzip.fitting.choosing import reference_at
    from adaptzip.fitting.loading import load_source
    from adaptzip.fitting.requests import Request

    size = writer.size(adaptzip.compress(SOURCE, max_error=0.4))
    for request in (Request(max_error=0.4), Request()):
        beside = reference_at(load_source(SOURCE, request), size, request)
        assert beside is not None
        shrunk = along(beside.compressed) == pytest.approx(1 - beside.error**2, abs=0.02)
        assert shrunk == (request.max_error is not None)


def test_fine_files_are_left_alone() -> None:
    size = writer.size(adaptzip.compress(SOURCE, max_error=LEAST_ERROR * 0.9))
    made = adaptzip.compress(SOURCE, budget=f"{size}B")
    assert made.provenance.relative_error < LEAST_ERROR
    assert along(made) < 1


@pytest.mark.parametrize("error", [0.3, 0.6])
def test_a_plan_foresees_it(error: float) -> None:
    size = writer.size(adaptzip.compress(SOURCE, max_error=error))
    planned = adaptzip.plan(SOURCE, methods=["svd"], budget=f"{size}B").best.relative_error
    assert planned == pytest.approx(adaptzip.compress(SOURCE, budget=f"{size}B").provenance.relative_error, rel=0.1)


def test_a_method_without_a_degree_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    size = writer.size(adaptzip.compress(SOURCE, max_error=0.5))
    monkeypatch.setattr(type(load_fittable("svd")), "degree", None)
    made = adaptzip.compress(SOURCE, budget=f"{size}B")
    assert along(made) == pytest.approx(1 - made.provenance.relative_error**2, abs=0.02)
