"""The descent."""

from __future__ import annotations

import pytest
import torch

from adaptzip.methods._banks.descent import descend

BENDS = torch.logspace(-1, 1, 6)


def bowl(x: torch.Tensor) -> tuple[float, torch.Tensor]:
    return float((BENDS * (x - 1).square()).sum()), 2 * BENDS * (x - 1)


def valley(x: torch.Tensor) -> tuple[float, torch.Tensor]:
    """Rosenbrock's function."""
    x = x.detach().double().requires_grad_()
    value = 100 * (x[1] - x[0].square()).square() + (1 - x[0]).square()
    return float(value.detach()), torch.autograd.grad(value, x)[0].float()


def test_a_bowl_is_left_at_its_bottom() -> None:
    found = descend(bowl, torch.zeros(6), 20, 0.5)
    assert torch.allclose(found.x, torch.ones(6), atol=1e-3)
    assert found.value < 1e-5


def test_a_bent_valley_is_followed() -> None:
    assert descend(valley, torch.tensor([-1.2, 1.0]), 60, 1e-3).value < 1e-4


@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0])
def test_no_step_leads_up(scale: float) -> None:
    values = [descend(bowl, torch.zeros(6), steps, scale).value for steps in range(6)]
    assert values[0] == bowl(torch.zeros(6))[0]
    assert values == sorted(values, reverse=True)
    assert values[-1] < values[0]


def test_at_the_bottom_it_stays() -> None:
    assert torch.equal(descend(bowl, torch.ones(6), 5, 0.5).x, torch.ones(6))


def test_where_no_step_is_low_enough_it_stays() -> None:
    def wrong(x: torch.Tensor) -> tuple[float, torch.Tensor]:
        return float(x.square().sum()), -2 * x

    start = torch.ones(3)
    assert torch.equal(descend(wrong, start, 5, 0.5).x, start)
