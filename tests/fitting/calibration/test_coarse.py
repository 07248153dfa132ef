"""Coarse copies against the update that they stand for."""

from __future__ import annotations

from math import e, log2, pi, sqrt

import pytest
import torch

from adaptzip.core.adapter import LoraFactors
from adaptzip.core.rates import BIT_WEIGHT
from adaptzip.core.sensitivity import Sensitivity
from adaptzip.fitting.calibration.coarse import Coordinates, change, coordinates, copy_of_error, copy_of_size
from adaptzip.testing.adapters import factors

MODULES = {"a": factors(40, 30, 5), "b": factors(20, 50, 4, seed=1, scaling=2.0)}


def size_of(tensor: torch.Tensor) -> float:
    return sqrt(float(tensor.double().square().sum()))


def test_coordinates_hold_the_update_times_its_gain() -> None:
    module = MODULES["b"]
    found = coordinates(module, Sensitivity(9.0))
    assert found.gain == 3
    torch.testing.assert_close(found.U @ found.rows, 3 * module.delta(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.U.T @ found.U, torch.eye(4), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.rows.norm(dim=1), found.S, rtol=1e-4, atol=1e-5)


def test_sizes_are_those_under_the_moments() -> None:
    """Inputs of variance 4 make every row twice as large as it is; the rows themselves stay."""
    module = MODULES["a"]
    plain, seen = coordinates(module, Sensitivity()), coordinates(module, Sensitivity(1.0, 4 * torch.eye(30)))
    torch.testing.assert_close(seen.S, 2 * plain.S, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(seen.U @ seen.rows, module.delta(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("weight", [1.0, 16.0])
def test_a_fine_copy_is_close_and_carries_no_gain(weight: float) -> None:
    module = MODULES["a"]
    B, A = coordinates(module, Sensitivity(weight)).copy(1e-4)
    assert size_of(B @ A - module.delta()) < 2e-3 * size_of(module.delta())
    assert size_of(change(module, (B, A))) == pytest.approx(size_of(B @ A - module.delta()))


def test_a_copy_is_made_of_whole_steps() -> None:
    found = coordinates(MODULES["a"], Sensitivity(4.0))
    B, A = found.copy(0.05)
    torch.testing.assert_close(B.norm(dim=0), torch.ones(B.shape[1]))
    steps = A * 2 / 0.05
    torch.testing.assert_close(steps, steps.round(), rtol=0, atol=1e-3)


def test_a_step_beyond_the_update_leaves_nothing() -> None:
    found = coordinates(MODULES["a"], Sensitivity())
    B, A = found.copy(1e3)
    assert (B.shape, A.shape) == ((40, 0), (0, 30))
    assert found.bits(1e3) == 0


def test_bits_are_those_of_gaussian_rows() -> None:
    """One component, of length 8 in 4 outputs and 16 inputs: half a width times log2(1 + 2 pi e l^2 / width)."""
    column, row = torch.ones(4, 1) * 4, torch.ones(1, 16) / 4
    found = coordinates(LoraFactors(row, column), Sensitivity())
    wanted = 20 + 4 / 2 * log2(1 + 2 * pi * e * 64 / 4) + 16 / 2 * log2(1 + 2 * pi * e * 64 / 16)
    assert found.bits(1.0) == pytest.approx(wanted, rel=1e-5)


def test_a_component_is_worth_its_bits_in_units_of_the_step() -> None:
    """Of length 80 in 4 outputs and 16 inputs: of 5 steps it is worth some 70 bits, of 2 steps it is not worth 50."""
    found = coordinates(LoraFactors(torch.ones(1, 16) / 4, torch.ones(4, 1) * 40), Sensitivity())
    wanted = 20 + 4 / 2 * log2(1 + 2 * pi * e * 25 / 4) + 16 / 2 * log2(1 + 2 * pi * e * 25 / 16)
    assert BIT_WEIGHT * wanted < 25
    assert found.bits(16.0) == pytest.approx(wanted, rel=1e-5)
    assert found.bits(40.0) == 0


def test_bits_fall_with_the_step() -> None:
    found = coordinates(MODULES["a"], Sensitivity())
    bits = [found.bits(step) for step in (1e-3, 1e-2, 1e-1, 1.0)]
    assert bits == sorted(bits, reverse=True)
    assert bits[0] > bits[2]


def test_a_copy_of_an_error_just_keeps_to_it() -> None:
    found = {name: coordinates(module, Sensitivity()) for name, module in MODULES.items()}
    energy = sum(size_of(module.delta()) ** 2 for module in MODULES.values())
    for error in (0.1, 0.3):
        copies, bits = copy_of_error(MODULES, found, error)
        lost = sum(size_of(change(MODULES[name], copies[name])) ** 2 for name in MODULES)
        assert 0.7 * error < (lost / energy) ** 0.5 <= error
        assert bits > 0


def test_a_copy_of_a_size_just_keeps_to_it() -> None:
    found = {name: coordinates(module, Sensitivity()) for name, module in MODULES.items()}
    _, bits = copy_of_error(MODULES, found, 0.1)
    copies = copy_of_size(found, bits)
    again, _ = copy_of_error(MODULES, found, 0.1)
    for name in MODULES:
        torch.testing.assert_close(torch.matmul(*copies[name]), torch.matmul(*again[name]), rtol=0.2, atol=0.02)
    assert all(B.shape[1] == 0 for B, _ in copy_of_size(found, 0.0).values())


def test_nothing_is_copied_of_nothing() -> None:
    zero = {"z": LoraFactors(torch.zeros(2, 5), torch.zeros(4, 2))}
    found = {"z": coordinates(zero["z"], Sensitivity())}
    copies, bits = copy_of_error(zero, found, 0.1)
    assert bits == 0
    assert not torch.matmul(*copies["z"]).any()


@pytest.mark.parametrize("width", [1, 4, 64, 4096])
def test_a_component_of_which_every_number_rounds_to_zero_is_left_out(width: int) -> None:
    """Half a step is rounded to the even level, which is zero."""
    column = torch.full((width, 1), width**-0.5)
    found = Coordinates(column, torch.tensor([0.5 * width**0.5]), torch.full((1, 3), 0.5), 1.0)
    B, A = found.copy(step=1.0)
    assert B.shape == (width, 0)
    assert A.shape == (0, 3)
