"""The difference of two adapters against dense float64 arithmetic."""

from __future__ import annotations

import json
import math
import time
from dataclasses import replace
from math import sqrt
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.core.comparing import diff, weighted_error
from adaptzip.core.sensitivity import Sensitivity
from adaptzip.errors import UsageError
from adaptzip.testing.adapters import adapter as small


def factors(out: int, width: int, rank: int, seed: int = 0, scaling: float = 0.5) -> LoraFactors:
    generator = torch.Generator().manual_seed(seed)
    return LoraFactors(
        torch.randn(rank, width, generator=generator), torch.randn(out, rank, generator=generator), scaling
    )


def dense(module: LoraFactors) -> torch.Tensor:
    return (module.B.double() @ module.A.double()) * module.scaling


@settings(deadline=None, max_examples=50)
@given(
    st.integers(1, 20), st.integers(1, 20), st.integers(0, 24), st.integers(0, 24), st.floats(0.01, 3),
    st.integers(0, 99),
)  # fmt: skip
def test_the_error_is_that_of_the_dense_difference(
    out: int, width: int, rank_a: int, rank_b: int, scaling: float, seed: int
) -> None:
    a, b = factors(out, width, rank_a, seed), factors(out, width, rank_b, seed + 1, scaling)
    (module,) = diff(Adapter({"m": a}), Adapter({"m": b})).modules
    assert math.isclose(module.error, float((dense(a) - dense(b)).norm()), rel_tol=1e-12, abs_tol=1e-12)
    assert math.isclose(module.norm, float(dense(a).norm()), rel_tol=1e-12, abs_tol=1e-12)


@pytest.mark.parametrize("size", [1e-3, 1e-6, 1e-9, 1e-12])
def test_a_small_error_is_not_lost_to_cancellation(size: float) -> None:
    a = factors(200, 300, 8)
    a = replace(a, A=a.A.double(), B=a.B.double())
    noise = factors(200, 8, 8, seed=1).B.double()
    b = replace(a, B=a.B + size * noise)
    expected = float((noise @ a.A).norm() * size / (a.B @ a.A).norm())
    error = diff(Adapter({"m": a}), Adapter({"m": b})).relative_error
    assert error == pytest.approx(expected, rel=1e-3)


def test_the_same_update_in_other_factors_has_no_error() -> None:
    a = factors(50, 60, 4)
    gauge = torch.diag(torch.tensor([2.0, -4.0, 0.5, 1.0]))
    b = replace(a, A=gauge @ a.A, B=a.B @ torch.linalg.inv(gauge))
    error = diff(Adapter({"m": a}), Adapter({"m": b})).relative_error
    assert error is not None
    assert error < 1e-15


def test_the_total_weighs_modules_by_their_energy_and_counts_missing_ones() -> None:
    a = Adapter({"big": factors(30, 30, 4, scaling=10), "gone": factors(8, 9, 2)})
    b = Adapter({"big": factors(30, 30, 4, scaling=9), "new": factors(8, 9, 2)})
    report = diff(a, b)
    assert [m.name for m in report.only_in_a] == ["gone"]
    assert [m.name for m in report.only_in_b] == ["new"]
    norms = {n: float(dense(m).norm()) for n, m in a.modules.items()}
    new = float(dense(b.modules["new"]).norm())
    error2 = (norms["big"] / 10) ** 2 + norms["gone"] ** 2 + new**2
    expected = math.sqrt(error2 / (norms["big"] ** 2 + norms["gone"] ** 2))
    assert report.relative_error == pytest.approx(expected, rel=1e-12)
    assert not report.same


def test_zero_updates_divide_by_nothing() -> None:
    zero = replace(factors(5, 6, 2), B=torch.zeros(5, 2))
    assert diff(Adapter({"m": zero}), Adapter({"m": zero})).relative_error == 0.0
    report = diff(Adapter({"m": zero}), Adapter({"m": factors(5, 6, 2)}))
    assert report.relative_error is None
    assert report.modules[0].relative_error is None
    assert diff(Adapter({}), Adapter({})).relative_error == 0.0


def test_extras_are_compared_bit_for_bit() -> None:
    same = torch.tensor([1.0, math.nan])
    a = Adapter({}, {"same": same, "other": torch.zeros(2), "a": same, "dtype": torch.zeros(2)})
    b = Adapter({}, {"same": same.clone(), "other": -torch.zeros(2), "b": same, "dtype": torch.zeros(2).half()})
    report = diff(a, b)
    assert report.extras_equal == ("same",)
    assert report.extras_different == ("a", "b", "dtype", "other")
    assert diff(a, a).same


def test_magnitude_and_bias_of_a_module_count_as_extras() -> None:
    module = replace(factors(5, 6, 2), magnitude=torch.ones(5), bias=torch.ones(5))
    changed = replace(module, bias=torch.zeros(5))
    report = diff(Adapter({"m": module}), Adapter({"m": changed}))
    assert (report.extras_equal, report.extras_different) == (("m.magnitude",), ("m.bias",))
    assert report.relative_error == 0
    assert not report.same


def test_other_shapes_are_refused_by_name() -> None:
    with pytest.raises(UsageError, match="module m is .5, 6. .* .5, 7.") as error:
        diff(Adapter({"m": factors(5, 6, 2)}), Adapter({"m": factors(5, 7, 2)}))
    assert error.value.hint


def test_the_report_is_json() -> None:
    report = diff(Adapter({"m": factors(5, 6, 2)}), Adapter({"m": factors(5, 6, 3, seed=1)}, {"x": torch.ones(1)}))
    values = json.loads(json.dumps(report.as_dict(), allow_nan=False))
    assert set(values) == {
        "relative_error", "weighted_error", "same", "modules", "only_in_a", "only_in_b", "extras_equal",
        "extras_different",
    }  # fmt: skip
    assert values["modules"][0]["relative_error"] == report.modules[0].relative_error


def test_a_weighted_error_is_that_of_the_outputs() -> None:
    """Of two inputs, only the one that the module sees counts."""
    a, b = (Adapter({"m": LoraFactors(torch.tensor([row]), torch.tensor([[1.0]]))}) for row in ([3.0, 4.0], [3.0, 5.0]))
    seen = Sensitivity(2.0, torch.diag(torch.tensor([2.0, 0.0])))
    other = Sensitivity(2.0, torch.diag(torch.tensor([0.0, 2.0])))
    assert diff(a, b, {"m": seen}).weighted_error == 0
    assert diff(a, b, {"m": other}).weighted_error == pytest.approx(1 / 4)
    assert diff(a, b, {"m": other}).relative_error == pytest.approx(1 / 5)
    assert diff(a, b).weighted_error is None


def test_the_norms_of_modules_that_only_one_has() -> None:
    a, b = factors(8, 9, 2), factors(6, 5, 3, seed=1)
    report = diff(Adapter({"a": a}), Adapter({"b": b}))
    (gone,), (new,) = report.only_in_a, report.only_in_b
    assert gone.norm == gone.error == pytest.approx(float(dense(a).norm()))
    assert new.norm == 0
    assert new.error == pytest.approx(float(dense(b).norm()))
    assert not report.modules
    assert not report.same


def test_equal_factors_have_their_norm_and_an_error_of_exactly_nothing() -> None:
    a = factors(8, 9, 2, scaling=3.0)
    (module,) = diff(Adapter({"m": a}), Adapter({"m": replace(a, A=a.A.clone())})).modules
    assert module.norm == pytest.approx(float(dense(a).norm()), rel=1e-12)
    assert module.error == module.relative_error == 0


@pytest.mark.parametrize("change", [{"scaling": 0.6}, {"A": torch.ones(2, 9)}, {"B": torch.ones(8, 2)}])
def test_each_part_of_a_module_counts(change: dict[str, Any]) -> None:
    a = factors(8, 9, 2)
    b = replace(a, **change)
    report = diff(Adapter({"m": a}), Adapter({"m": b}))
    assert report.modules[0].error == pytest.approx(float((dense(a) - dense(b)).norm()), rel=1e-9)
    assert not report.same


def test_adapters_without_any_difference_are_the_same() -> None:
    a = Adapter({"m": factors(5, 6, 2)}, {"x": torch.ones(2)})
    assert diff(a, a).same
    assert diff(Adapter({}), Adapter({})).same
    assert not diff(a, replace(a, extras={})).same
    assert not diff(replace(a, extras={}), a).same


def test_a_bias_counts_with_the_modules_scaling() -> None:
    """Half the bias at twice the scaling adds the same to the base bias."""
    zero = replace(factors(5, 6, 2), B=torch.zeros(5, 2))
    a = replace(zero, scaling=1.0, bias=torch.full((5,), 3.0))
    b = replace(zero, scaling=2.0, bias=torch.full((5,), 1.5).half())
    assert diff(Adapter({"m": a}), Adapter({"m": b})).extras_equal == ("m.bias",)
    assert diff(Adapter({"m": a}), Adapter({"m": replace(b, scaling=4.0)})).extras_different == ("m.bias",)


def test_a_weighted_error_counts_every_module_of_the_first() -> None:
    """|dW|^2 is 25 and 4; of the first a fifth is lost, the second is missing; weights are 3 and, unsaid, 1."""
    a = Adapter({"m": row(3.0, 4.0), "gone": row(2.0, 0.0)})
    b = Adapter({"m": row(3.0, 5.0), "new": row(9.0, 9.0)})
    found = diff(a, b, {"m": Sensitivity(3.0)}).weighted_error
    assert found == pytest.approx(math.sqrt((3 * 1 + 4) / (3 * 25 + 4)))


def test_a_weighted_error_counts_both_scalings() -> None:
    a, b = Adapter({"m": row(3.0, 4.0)}), Adapter({"m": replace(row(3.0, 4.0), scaling=0.75)})
    assert diff(a, b, {}).weighted_error == pytest.approx(0.25)
    assert diff(b, a, {}).weighted_error == pytest.approx(1 / 3)


def test_a_weighted_error_sees_inputs_that_go_together() -> None:
    """E tr = 2 * 1 + 2 * 0.5 * 1 * 1 for an error of (1, 1) on inputs correlated by a half."""
    a, b = Adapter({"m": row(1.0, 0.0)}), Adapter({"m": row(0.0, -1.0)})
    moments = torch.tensor([[1.0, 0.5], [0.5, 1.0]])
    assert diff(a, b, {"m": Sensitivity(1.0, moments)}).weighted_error == pytest.approx(math.sqrt(3))


def test_no_weighted_error_of_zero_updates() -> None:
    zero, some = Adapter({"m": row(0.0, 0.0)}), Adapter({"m": row(1.0, 0.0)})
    assert diff(zero, some, {}).weighted_error == 0


def row(*numbers: float) -> LoraFactors:
    return LoraFactors(torch.tensor([numbers]), torch.tensor([[1.0]]))


def test_a_large_adapter_takes_seconds() -> None:
    modules = {f"layers.{i}": factors(4096, 4096, 16, seed=i) for i in range(8)}
    others = {name: replace(m, scaling=0.6) for name, m in modules.items()}
    start = time.monotonic()
    assert diff(Adapter(modules), Adapter(others)).relative_error == pytest.approx(0.2)
    assert time.monotonic() - start < 10


def test_weighted_error_is_the_dense_one() -> None:
    teacher, student = small([(6, 5, 3), (4, 7, 2)]), small([(6, 5, 3), (4, 7, 2)], seed=9)
    root = torch.randn(5, 5, generator=torch.Generator().manual_seed(1))
    weights = {"m.0": Sensitivity(2.5, root @ root.T), "m.1": Sensitivity(0.5)}
    error = energy = 0.0
    for name, s in weights.items():
        full, other = (a.modules[name].delta().double() for a in (teacher, student))
        M = torch.eye(full.shape[1]).double() if s.moments is None else s.moments.double()
        error += s.weight * float(((full - other) @ M @ (full - other).T).trace())
        energy += s.weight * float((full @ M @ full.T).trace())
    assert weighted_error(teacher, student, weights) == pytest.approx(sqrt(error / energy), rel=1e-6)


def test_weighted_error_of_missing_modules_and_small_differences() -> None:
    teacher = small([(60, 50, 4), (40, 70, 4)])
    assert weighted_error(teacher, Adapter({}), {}) == pytest.approx(1.0)
    near = replace(teacher, modules={n: replace(m, B=m.B * (1 + 2**-20)) for n, m in teacher.modules.items()})
    assert weighted_error(teacher, near, {}) == pytest.approx(2**-20, rel=0.1)
