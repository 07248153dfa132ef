"""Gains and square roots of input moments."""

from __future__ import annotations

import pytest
import torch

from adaptzip.core.sensitivity import Sensitivity, root


def test_the_gain_is_the_root_of_the_weight() -> None:
    assert Sensitivity(9.0).gain == 3
    assert (Sensitivity().weight, Sensitivity().gain, Sensitivity().moments) == (1, 1, None)


def test_the_root_times_itself_is_the_moments_with_a_ridge_of_a_millionth_of_their_mean() -> None:
    generator = torch.Generator().manual_seed(0)
    factor = torch.randn(5, 3, generator=generator)
    moments = factor @ factor.T
    found = root(moments)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, found.T)
    wanted = moments.double() + 1e-6 * moments.double().trace() / 5 * torch.eye(5)
    torch.testing.assert_close(found.double() @ found.double(), wanted, rtol=1e-5, atol=1e-5)


def test_a_direction_never_used_keeps_a_thousandth_of_the_mean_root() -> None:
    found = root(torch.diag(torch.tensor([4.0, 0.0])))
    assert float(found[0, 0]) == pytest.approx(2, rel=1e-5)
    assert float(found[1, 1]) == pytest.approx((2e-6) ** 0.5, rel=1e-5)


def test_rounding_below_zero_counts_as_zero() -> None:
    found = root(torch.diag(torch.tensor([4.0, -1e-3])))
    assert float(found[1, 1]) == pytest.approx((2e-6) ** 0.5, rel=1e-3)
