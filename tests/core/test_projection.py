"""Shares of energy in a basis, by hand; least squares against dense arithmetic stands in tests/bases."""

from __future__ import annotations

import pytest
import torch

from adaptzip.core.adapter import LoraFactors
from adaptzip.core.basis import Basis, BasisReference, ModuleBasis
from adaptzip.core.projection import CapturedEnergy, captured_energy, leading, module_basis, project
from adaptzip.errors import RefusedError

REFERENCE = BasisReference("file", 1, description="made by hand")
FIRST = ModuleBasis(torch.tensor([[1.0], [0.0]]), torch.tensor([[1.0], [0.0], [0.0]]))
"""The first output and the first input."""


def of(matrix: list[list[float]], scaling: float = 1.0) -> LoraFactors:
    """An update as its own factor."""
    return LoraFactors(torch.tensor(matrix), torch.eye(2), scaling)


UPDATE = of([[3.0, 4.0, 0.0], [0.0, 12.0, 0.0]])


def test_what_a_basis_holds_and_what_it_leaves() -> None:
    found = project(UPDATE, FIRST)
    assert found.core.tolist() == [[3.0]]
    assert (found.captured, found.outside, found.energy) == (9, 16 + 144, 169)
    assert found.distance(torch.tensor([[5.0]])) == 4


def test_the_scaling_counts() -> None:
    found = project(of([[3.0, 4.0, 0.0], [0.0, 12.0, 0.0]], -2.0), FIRST)
    assert found.core.tolist() == [[-6.0]]
    assert found.energy == 4 * 169


def test_a_basis_need_not_be_of_length_one() -> None:
    found = project(UPDATE, ModuleBasis(FIRST.U * 2, FIRST.V * 0.5))
    assert found.core.tolist() == [[3.0]]
    assert (found.captured, found.outside) == (9, 160)


def test_zero_directions_hold_nothing() -> None:
    padded = ModuleBasis(torch.tensor([[1.0, 0.0], [0.0, 0.0]]), torch.eye(3)[:, :2])
    found = project(UPDATE, padded)
    assert found.core.tolist() == [[3.0, 4.0], [0.0, 0.0]]
    assert (found.captured, found.outside) == (25, 144)


def test_shares_by_module_and_of_all_together() -> None:
    modules = {"a": UPDATE, "b": of([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]), "zero": of([[0.0] * 3] * 2)}
    found = captured_energy(modules, Basis(dict.fromkeys(modules, FIRST), REFERENCE))
    assert found.modules == {"a": pytest.approx(9 / 169), "b": 1}
    assert found.missed == pytest.approx(160 / 170)
    assert found.overall == pytest.approx(10 / 170)
    assert found.error == pytest.approx((160 / 170) ** 0.5)


def test_a_module_that_the_basis_lacks_is_missed_whole() -> None:
    found = captured_energy({"a": UPDATE}, Basis({}, REFERENCE))
    assert (found.modules, found.missed) == ({"a": 0}, 1)


def test_nothing_is_missed_of_updates_of_zero() -> None:
    zero = captured_energy({"zero": of([[0.0] * 3] * 2)}, Basis({"zero": FIRST}, REFERENCE))
    assert zero == CapturedEnergy(0.0, {})
    assert (zero.overall, zero.error) == (1, 0)


def test_directions_are_looked_up_with_their_shape() -> None:
    basis = Basis({"a": FIRST}, REFERENCE)
    assert module_basis(basis, "a", (2, 3)) is FIRST
    for shape in ((3, 2), (2, 4), (1, 3), (3, 3)):
        with pytest.raises(RefusedError, match=r"the basis was made for \[2, 3\]"):
            module_basis(basis, "a", shape)
    with pytest.raises(RefusedError, match=r"module b is not in the basis \(made by hand\)"):
        module_basis(basis, "b", (2, 3))
    with pytest.raises(RefusedError, match="of unknown origin"):
        module_basis(Basis({}, BasisReference("file", 1)), "b", (2, 3))


def test_leading_directions_of_both_sides() -> None:
    basis = ModuleBasis(torch.eye(4)[:, :3], torch.eye(5)[:, :3])
    assert basis.size == 3
    assert leading(basis, 3) is basis
    cut = leading(basis, 2)
    assert (cut.size, cut.U.shape, cut.V.shape) == (2, (4, 2), (5, 2))
    assert torch.equal(cut.U, basis.U[:, :2])
    assert leading(basis, 0).size == 0


def test_a_basis_moves_whole_to_a_device() -> None:
    moved = Basis({"a": FIRST}, REFERENCE).to(torch.device("meta"))
    assert (moved.modules["a"].U.device.type, moved.modules["a"].V.device.type) == ("meta", "meta")
    assert moved.reference is REFERENCE
