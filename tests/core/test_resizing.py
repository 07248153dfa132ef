"""Lower ranks: each limit holds, with the least error that plain factors can have, and nothing else changes."""

from __future__ import annotations

import math

import pytest
import torch

from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.core.resizing import resized
from adaptzip.errors import CheckFailedError, UsageError
from adaptzip.testing.adapters import relative_error


def adapter() -> Adapter:
    generator = torch.Generator().manual_seed(0)
    modules = {}
    for number, (out, width) in enumerate(((24, 16), (8, 40), (16, 16))):
        A, B = torch.randn(6, width, generator=generator), torch.randn(out, 6, generator=generator)
        modules[f"m{number}"] = LoraFactors(A, B * 0.5 ** torch.arange(6.0), 0.5 * (number + 1))
    return Adapter(modules, {"base_model.model.head.weight": torch.ones(2)})


def test_a_rank_is_that_of_the_truncated_svd() -> None:
    given = adapter()
    found = resized(given, rank=2)
    for name, factors in given.modules.items():
        U, S, Vt = torch.linalg.svd(factors.delta(), full_matrices=False)
        best = (U[:, :2] * S[:2]) @ Vt[:2]
        assert found.adapter.modules[name].rank == 2
        assert torch.allclose(found.adapter.modules[name].delta(), best, atol=1e-4)
    assert math.isclose(found.error, relative_error(given, found.adapter), rel_tol=1e-4)
    assert found.adapter.extras == given.extras


@pytest.mark.parametrize("limit", [0.01, 0.1, 0.4])
def test_an_error_is_kept_with_the_fewest_directions(limit: float) -> None:
    given = adapter()
    found = resized(given, max_error=limit)
    assert relative_error(given, found.adapter) <= limit
    values = torch.cat([torch.linalg.svdvals(m.delta())[:6] for m in given.modules.values()])
    energies = (values.double() ** 2).sort().values
    most = int((energies.cumsum(0) <= float(energies.sum()) * limit**2).sum())
    kept = sum(m.rank for m in found.adapter.modules.values())
    assert kept - (len(energies) - most) in (0, 1)


def test_a_size_is_kept_and_used() -> None:
    given = adapter()
    size = 2000
    found = resized(given, size=size)
    used = sum(4 * (m.A.numel() + m.B.numel()) for m in found.adapter.modules.values())
    assert size - 4 * 48 < used <= size
    assert all(m.rank >= 1 for m in found.adapter.modules.values())


def test_limits_hold_together_and_what_needs_no_cut_is_untouched() -> None:
    given = adapter()
    both = resized(given, rank=3, max_error=0.9)
    with pytest.raises(CheckFailedError, match=r"more than the 0\.01"):
        resized(given, rank=1, max_error=0.01)
    assert all(m.rank <= 3 for m in both.adapter.modules.values())
    same = resized(given, rank=6)
    assert same.error == 0.0
    assert all(same.adapter.modules[name] is factors for name, factors in given.modules.items())


def test_dtypes_biases_and_magnitudes_stay() -> None:
    factors = LoraFactors(
        torch.randn(4, 8).half(), torch.randn(6, 4).bfloat16(), 2.0, bias=torch.ones(6), magnitude=torch.ones(6)
    )
    (found,) = resized(Adapter({"m": factors}), rank=2).adapter.modules.values()
    assert (found.A.dtype, found.B.dtype) == (torch.float16, torch.bfloat16)
    assert found.bias is not None
    assert torch.equal(found.bias * found.scaling, torch.full((6,), 2.0))
    assert found.magnitude is factors.magnitude


@pytest.mark.parametrize(
    "limits",
    [{"rank": 0}, {"max_error": 0.0}, {"max_error": 1.0}],
    ids=lambda limits: next(iter(limits)),
)
def test_a_limit_out_of_range_is_told(limits: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        resized(adapter(), **limits)  # type: ignore[arg-type]


def test_rounding_counts_in_the_error() -> None:
    given = adapter()
    found = resized(given, max_error=0.004, dtype=torch.bfloat16)
    assert relative_error(given, found.adapter) <= 0.004
    assert {m.A.dtype for m in found.adapter.modules.values()} == {torch.bfloat16}
    with pytest.raises(CheckFailedError):
        resized(given, max_error=1e-5, dtype=torch.bfloat16)


@pytest.mark.parametrize("dtype", [None, torch.float16, torch.bfloat16])
def test_a_size_below_rank_one_is_told(dtype: torch.dtype | None) -> None:
    with pytest.raises(CheckFailedError, match="at rank 1") as caught:
        resized(adapter(), size=100, dtype=dtype)
    assert ("`dtype='float16'`" in str(caught.value.hint)) == (dtype is None)
