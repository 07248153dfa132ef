"""The best core, and what a basis leaves out."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptzip.bases.updates import build_basis
from adaptzip.core.basis import Basis, BasisReference, ModuleBasis
from adaptzip.core.projection import captured_energy, leading, project
from adaptzip.errors import RefusedError
from adaptzip.testing.adapters import adapter, factors


def random_basis(out: int, width: int, size: int, seed: int = 0) -> ModuleBasis:
    generator = torch.Generator().manual_seed(seed)
    U, _ = torch.linalg.qr(torch.randn(out, size, generator=generator, dtype=torch.float64))
    V, _ = torch.linalg.qr(torch.randn(width, size, generator=generator, dtype=torch.float64))
    return ModuleBasis(U.float(), V.float())


@settings(max_examples=40, deadline=None)
@given(
    out=st.integers(1, 30), width=st.integers(1, 30), rank=st.integers(1, 8), size=st.integers(1, 8), half=st.booleans()
)
def test_core_and_remainder_are_those_of_dense_least_squares(
    out: int, width: int, rank: int, size: int, half: bool
) -> None:
    size = min(size, out, width)
    module, basis = factors(out, width, rank, scaling=0.5), random_basis(out, width, size)
    if half:
        basis = ModuleBasis(basis.U.half().float(), basis.V.half().float())
    found = project(module, basis)
    delta = module.B.double() @ module.A.double() * 0.5
    U, V = basis.U.double(), basis.V.double()
    wanted = torch.linalg.pinv(U) @ delta @ torch.linalg.pinv(V).T
    rest = delta - U @ wanted @ V.T
    total = float(delta.square().sum())
    assert torch.allclose(found.core, wanted, atol=1e-9 * total**0.5 + 1e-12)
    assert found.outside == pytest.approx(float(rest.square().sum()), rel=1e-6, abs=1e-12 * total)
    assert found.energy == pytest.approx(total, rel=1e-9)
    other = torch.randn(size, size, dtype=torch.float64)
    distance = float((delta - U @ other @ V.T).square().sum())
    assert found.outside + found.distance(other) == pytest.approx(distance, rel=1e-9)


def test_a_tiny_remainder_keeps_its_digits() -> None:
    module = factors(40, 24, 4)
    U, _, Vt = module.svd()
    found = project(module, ModuleBasis(U, Vt.T))
    assert 0 <= found.outside / found.energy < 1e-12


def test_leading_directions() -> None:
    basis = random_basis(10, 8, 5)
    assert leading(basis, None) is basis
    assert leading(basis, 9) is basis
    assert torch.equal(leading(basis, 2).V, basis.V[:, :2])


def test_captured_energy_by_module_and_over_all() -> None:
    source = adapter({"a": (20, 16, 3), "b": (20, 16, 3)})
    basis = build_basis([source])
    half = Basis({"a": basis.modules["a"]}, basis.reference)
    found = captured_energy(source.modules, half)
    energy = {name: float(module.delta().square().sum()) for name, module in source.modules.items()}
    assert found.modules == {"a": pytest.approx(1), "b": 0}
    assert found.overall == pytest.approx(energy["a"] / (energy["a"] + energy["b"]))
    assert found.error == pytest.approx((1 - found.overall) ** 0.5)


def test_another_shape_is_refused() -> None:
    basis = Basis({"a": random_basis(10, 8, 2)}, BasisReference("file", 2))
    with pytest.raises(RefusedError, match=r"module a is \[20, 8\], but the basis was made for \[10, 8\]"):
        captured_energy({"a": factors(20, 8, 2)}, basis)
