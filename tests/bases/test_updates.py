"""The joint basis of several adapters: equal updates give equal bases, whatever their factors."""

from __future__ import annotations

import pytest
import torch

from adaptzip.bases.updates import build_basis
from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.core.basis import Basis
from adaptzip.core.projection import captured_energy
from adaptzip.errors import RefusedError, UsageError
from adaptzip.testing.adapters import adapter, factors

SHAPES = {"a.0.q": (40, 24, 4), "a.0.v": (12, 24, 4), "a.1.q": (40, 24, 2)}


def in_other_factors(source: Adapter, seed: int) -> Adapter:
    """The same updates with A -> G A and B -> B G^-1, other scales and another sign."""
    generator = torch.Generator().manual_seed(seed)
    modules = {}
    for name, module in source.modules.items():
        gauge, _ = torch.linalg.qr(torch.randn(module.rank, module.rank, generator=generator, dtype=torch.float64))
        gauge = gauge @ torch.diag(torch.rand(module.rank, generator=generator, dtype=torch.float64) + 0.5)
        A, B = gauge @ module.A.double(), module.B.double() @ torch.linalg.inv(gauge)
        modules[name] = LoraFactors((-2 * A).float(), (-B).float(), module.scaling / 2)
    return Adapter(modules)


def assert_equal(one: Basis, other: Basis, tolerance: float) -> None:
    assert one.modules.keys() == other.modules.keys()
    for name, module in one.modules.items():
        assert torch.allclose(module.U, other.modules[name].U, atol=tolerance, rtol=0)
        assert torch.allclose(module.V, other.modules[name].V, atol=tolerance, rtol=0)


def test_equal_updates_in_other_factors_give_the_same_basis() -> None:
    source = adapter(SHAPES)
    assert_equal(build_basis([source], 4), build_basis([in_other_factors(source, 1)], 4), 1e-5)


def test_six_copies_of_one_adapter_need_its_own_rank() -> None:
    source = adapter({name: (out, width, 4) for name, (out, width, _) in SHAPES.items()})
    copies = [in_other_factors(source, seed) for seed in range(6)]
    basis = build_basis(copies, 4)
    assert {module.size for module in basis.modules.values()} == {4}
    for copy in [source, *copies]:
        assert captured_energy(copy.modules, basis).error < 1e-6
    assert captured_energy(source.modules, build_basis(copies, 3)).error > 0.01


def test_two_adapters_need_the_sum_of_their_ranks_and_no_more() -> None:
    pair = [adapter(SHAPES, seed=1), adapter(SHAPES, seed=9)]
    basis = build_basis(pair)
    assert [basis.modules[name].size for name in SHAPES] == [8, 8, 4]
    assert basis.reference.size == 8
    assert all(captured_energy(each.modules, basis).error < 1e-6 for each in pair)


def test_directions_are_orthonormal_and_the_first_hold_most() -> None:
    pair = [adapter(SHAPES, seed=1), adapter(SHAPES, seed=9)]
    whole, part = build_basis(pair), build_basis(pair, 3)
    for name, module in whole.modules.items():
        eye = torch.eye(module.size)
        assert torch.allclose(module.U.T @ module.U, eye, atol=1e-6)
        assert torch.allclose(module.V.T @ module.V, eye, atol=1e-6)
        assert torch.equal(part.modules[name].U, module.U[:, :3])
    shares = [captured_energy(pair[0].modules, build_basis(pair, size)).overall for size in (1, 2, 4, 8)]
    assert shares == sorted(shares)


def test_a_strong_adapter_does_not_dominate_unless_asked_to() -> None:
    weak = adapter(SHAPES, seed=1)
    strong = adapter(SHAPES, seed=9)
    strong = Adapter({n: LoraFactors(m.A, m.B, 1000.0) for n, m in strong.modules.items()})
    even, raw = build_basis([weak, strong], 4), build_basis([weak, strong], 4, normalised=False)
    assert captured_energy(weak.modules, even).overall > 2 * captured_energy(weak.modules, raw).overall
    assert captured_energy(strong.modules, raw).overall > 0.99


def test_a_narrow_module_may_have_more_directions_on_its_long_side() -> None:
    pair = [adapter({"head": (2, 24, 2)}, seed=s) for s in (1, 9)]
    basis = build_basis(pair)
    U, V = basis.modules["head"].U, basis.modules["head"].V
    assert (U.shape, V.shape) == ((2, 4), (24, 4))
    assert torch.equal(U[:, 2:], torch.zeros(2, 2))
    assert all(captured_energy(each.modules, basis).error < 1e-6 for each in pair)


def test_a_basis_holds_modules_of_any_adapter_and_none_that_is_zero() -> None:
    zero = LoraFactors(torch.ones(2, 24), torch.zeros(40, 2))
    one = Adapter({"only.one": factors(40, 24, 2), "zero": zero})
    two = Adapter({"only.two": factors(40, 24, 2, seed=5)})
    basis = build_basis([one, two])
    assert list(basis.modules) == ["only.one", "only.two"]
    shares = captured_energy(one.modules, basis)
    assert shares.modules.keys() == {"only.one"}
    assert captured_energy({"strange": factors(40, 24, 2)}, basis).overall == 0


def test_what_makes_no_basis_is_refused() -> None:
    with pytest.raises(UsageError, match="size 0 was asked for"):
        build_basis([adapter(SHAPES)], 0)
    with pytest.raises(UsageError, match="no adapter was given"):
        build_basis([])
    with pytest.raises(UsageError, match=r"module a.0.q is \[40, 24\] and \[40, 32\]"):
        build_basis([adapter(SHAPES), adapter({"a.0.q": (40, 32, 2)})])
    with pytest.raises(RefusedError, match="every update is zero"):
        build_basis([Adapter({"a": LoraFactors(torch.ones(2, 24), torch.zeros(40, 2))})])
