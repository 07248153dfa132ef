"""Rows of svd in frames on both sides: factors against float64, sums in their order, and shares outside of prefixes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from adaptzip.adz.coding.coders import Coder, numbered
from adaptzip.adz.coding.modules import code_modules
from adaptzip.core.adapter import LoraFactors
from adaptzip.core.basis import Basis, BasisReference, ModuleBasis
from adaptzip.core.compressed import Site
from adaptzip.core.family import BASIS_U, BASIS_V
from adaptzip.core.method import FitContext, FrameShape
from adaptzip.errors import UsageError
from adaptzip.fitting.fits import NOTHING_CODED
from adaptzip.methods._svd_frames import outside_by_size, sizes_below, unit_columns_of
from adaptzip.methods.svd import METHOD, Config

BOTH = Config(sides=2)
SITE = Site(21, 34, frame=6)


def orthonormal(length: int, count: int, seed: int) -> torch.Tensor:
    numbers = torch.randn(length, count, generator=torch.Generator().manual_seed(seed))
    directions: torch.Tensor = torch.linalg.qr(numbers).Q
    return directions


def known() -> Basis:
    module = ModuleBasis(orthonormal(SITE.out, 6, 1), orthonormal(SITE.width, 6, 2))
    return Basis({"m": module}, BasisReference("file", 6, "h"))


def stored(rank: int = 3) -> dict[str, torch.Tensor]:
    """Tensors as a file has them: whole numbers, and multiples of a step."""
    generator = torch.Generator().manual_seed(3)
    found = {}
    for spec in METHOD.layout(SITE, rank, BOTH):
        whole = torch.randint(-40, 41, (spec.rows, spec.width), generator=generator).float()
        found[spec.role] = whole if spec.directions else whole * 0.037
    module = known().modules["m"]
    return found | {BASIS_U: module.U, BASIS_V: module.V}


def test_factors_are_those_of_plain_float64() -> None:
    tensors = stored()
    A, B = METHOD.reconstruct(tensors, SITE, BOTH)
    assert (A.dtype, B.dtype, A.shape, B.shape) == (torch.float32, torch.float32, (3, 34), (21, 3))
    plain = {role: tensor.double() for role, tensor in tensors.items()}
    rows = plain["D"] @ plain[BASIS_U].T + plain["U"]
    assert torch.allclose(B.double(), (rows / rows.norm(dim=1, keepdim=True)).T, rtol=0, atol=1e-7)
    assert torch.allclose(A.double(), plain["C"] @ plain[BASIS_V].T + plain["V"], rtol=1e-6, atol=1e-6)


def test_gradients_go_through_both_frames() -> None:
    tensors = {role: t.clone().requires_grad_(not role.startswith("basis.")) for role, t in stored().items()}
    A, B = METHOD.reconstruct(tensors, SITE, BOTH)
    assert torch.allclose(B, METHOD.reconstruct(stored(), SITE, BOTH)[1], atol=1e-6)
    (B @ A).square().sum().backward()  # type: ignore[no-untyped-call]
    assert all(bool(tensors[role].grad.any()) for role in ("D", "C", "V"))  # type: ignore[union-attr]


@pytest.mark.parametrize("length", [1, 2, 21, 64, 65])
def test_squares_are_added_halves_onto_halves(length: int) -> None:
    rows = torch.randn(3, length, dtype=torch.float64, generator=torch.Generator().manual_seed(length))
    rows[1] = 0
    padded = np.zeros((3, 1 << (length - 1).bit_length()))
    padded[:, :length] = rows.numpy() ** 2
    while padded.shape[1] > 1:
        first, second = np.split(padded, 2, axis=1)
        padded = first + second
    found = unit_columns_of(rows)
    for row in (0, 2):
        assert np.array_equal(found[:, row].numpy(), rows[row].numpy() / np.sqrt(padded[row, 0]))
    assert not found[:, 1].any()


def test_shares_outside_of_the_first_directions() -> None:
    vectors, frame = torch.randn(40, 5, generator=torch.Generator().manual_seed(0)), orthonormal(40, 20, 1)
    found = outside_by_size(vectors, frame)
    assert list(found) == [*sizes_below(20), 20] == [4, 8, 16, 20]
    for size, shares in found.items():
        part = frame[:, :size].double()
        rest = vectors.double() - part @ (part.T @ vectors.double())
        assert np.allclose(shares, (rest.square().sum(0) / vectors.double().square().sum(0)).numpy(), rtol=1e-5)
    within = outside_by_size(frame @ torch.randn(20, 2), frame)[20]
    assert (within < 1e-10).all()
    assert sizes_below(4) == sizes_below(1) == []


def test_a_coded_module_is_as_far_off_as_is_said() -> None:
    module = LoraFactors(torch.randn(4, SITE.width), torch.randn(SITE.out, 4))
    fits = METHOD.fit({"m": module}, BOTH, None, FitContext(basis=known()))
    coder = Coder(METHOD, BOTH, numbered({"m": Site(21, 34)}, (6,)), 4, known())
    coded = code_modules(coder, NOTHING_CODED.shared, fits, {"m": 4}, 0.5)["m"]
    assert coded.blocks is not None
    tensors = {}
    for spec, block in zip(METHOD.layout(SITE, 4, BOTH), coded.blocks, strict=True):
        values = torch.from_numpy(block.quantised.values()).float()  # type: ignore[union-attr]
        tensors[spec.role] = values if spec.directions else values * 0.5
    A, B = METHOD.reconstruct(tensors | coder.basis_tensors("m"), SITE, BOTH)
    assert coded.squared_error == pytest.approx(float((module.delta() - B @ A).square().sum()), rel=1e-4)


def test_a_module_in_fewer_directions_or_on_one_side() -> None:
    module = LoraFactors(torch.randn(4, SITE.width), torch.randn(SITE.out, 4))
    (fitted,) = METHOD.fit({"m": module}, BOTH, None, FitContext(basis=known())).values()
    narrower = METHOD.narrower(METHOD.profile(fitted), 6)
    assert set(narrower) == {FrameShape(sides, size) for sides in (1, 2) for size in (4, 6)}
    for shape, profile in narrower.items():
        context = FitContext(basis=known().cut({"m": shape.size}))
        (again,) = METHOD.fit({"m": module}, Config(shape.sides), None, context).values()
        expected = METHOD.profile(again)
        for one, other in ((profile.outside, expected.outside), (profile.out_outside, expected.out_outside)):
            assert (one is None) == (other is None)
            assert one is None or other is None or np.allclose(one, other, atol=1e-6)
        assert METHOD.predict(profile, 3, 0.3) == pytest.approx(METHOD.predict(expected, 3, 0.3), rel=1e-4)


def test_frames_of_inputs_alone_have_one_side() -> None:
    module = known().modules["m"]
    basis = Basis({"m": ModuleBasis(module.U[:, :0], module.V)}, BasisReference("reference", 6, "h"))
    with pytest.raises(UsageError, match="'m': sides is 2, and its frame has directions of inputs alone"):
        METHOD.fit({"m": LoraFactors(torch.ones(1, 34), torch.ones(21, 1))}, BOTH, None, FitContext(basis=basis))


@pytest.mark.parametrize("sides", [0, 3, True, 2.0])
def test_sides_are_one_or_two(sides: int) -> None:
    with pytest.raises(UsageError, match=f"sides is {sides!r}, expected 1 or 2"):
        Config(sides)
