"""`lora-xs` and `lora-sb`: cores between frozen directions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

import adaptzip
from adaptzip.adz.container import writer
from adaptzip.bases.artefact import write_basis
from adaptzip.bases.updates import build_basis
from adaptzip.core.basis import Basis, BasisReference, ModuleBasis
from adaptzip.core.compressed import Site
from adaptzip.core.family import BASIS_U, BASIS_V
from adaptzip.core.method import FitContext
from adaptzip.errors import RefusedError
from adaptzip.methods import load_fittable
from adaptzip.methods._lora_core import Config, CoreProfile
from adaptzip.testing.adapters import adapter, factors, relative_error

METHOD = load_fittable("lora-sb")
SHAPES = {"a.0.q": (40, 24, 4), "a.0.v": (12, 24, 4)}


def orthonormal(rows: int, columns: int, seed: int) -> torch.Tensor:
    Q, _ = torch.linalg.qr(torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)))
    found: torch.Tensor = Q
    return found


def basis_of(out: int, width: int, size: int) -> Basis:
    module = ModuleBasis(orthonormal(out, size, 1), orthonormal(width, size, 2))
    return Basis({"m": module}, BasisReference("file", size, "x" * 22, "a test"))


def tensors_of(fitted: object, rank: int, basis: Basis, config: Config = Config()) -> dict[str, torch.Tensor]:  # noqa: B008
    """The tensors of a module of `rank`, not quantised."""
    site = Site(len(basis.modules["m"].U), len(basis.modules["m"].V))
    tensors = {BASIS_U: basis.modules["m"].U, BASIS_V: basis.modules["m"].V}
    for spec in METHOD.layout(site, rank, config):
        tensors[spec.role] = METHOD.target(fitted, spec.role, rank, tensors)
        assert tensors[spec.role].shape == (spec.rows, spec.width)
    return tensors


@settings(max_examples=40, deadline=None)
@given(out=st.integers(1, 40), width=st.integers(1, 40), size=st.integers(1, 24), rank=st.integers(1, 24))
def test_a_core_is_the_best_one_and_comes_back(out: int, width: int, size: int, rank: int) -> None:
    size = min(size, out, width)
    rank = min(rank, size)
    basis, module = basis_of(out, width, size), factors(out, width, 4)
    context = FitContext(basis=basis)
    fitted = METHOD.fit({"m": module}, Config(), None, context)["m"]
    site = Site(out, width)
    assert sum(spec.numbers for spec in METHOD.layout(site, rank, Config())) == rank * rank
    tensors = tensors_of(fitted, rank, basis)
    A, B = METHOD.reconstruct(tensors, site, Config())
    U, V = basis.modules["m"].U[:, :rank].double(), basis.modules["m"].V[:, :rank].double()
    delta = module.delta().double()
    scale = float(delta.norm())
    assert torch.allclose((B @ A).double(), U @ U.T @ delta @ V @ V.T, atol=1e-5 * scale)
    error = float((delta - B.double() @ A.double()).square().sum())
    assert METHOD.squared_error(fitted, tensors) == pytest.approx(error, rel=1e-3, abs=1e-9 * scale**2)


def test_an_error_in_the_core_is_the_same_error_in_the_update() -> None:
    basis, module = basis_of(40, 24, 8), factors(40, 24, 4)
    fitted = METHOD.fit({"m": module}, Config(), None, FitContext(basis=basis))["m"]
    tensors = tensors_of(fitted, 8, basis)
    before = METHOD.squared_error(fitted, tensors)
    noise = {role: 0.01 * torch.randn(tensors[role].shape) for role in METHOD.roles}
    after = METHOD.squared_error(fitted, tensors | {role: tensors[role] + n for role, n in noise.items()})
    assert after - before == pytest.approx(sum(float(n.square().sum()) for n in noise.values()), rel=1e-3)


def test_reconstruct_is_differentiable_in_the_core() -> None:
    basis = basis_of(6, 5, 3)
    given_tensors = {BASIS_U: basis.modules["m"].U.double(), BASIS_V: basis.modules["m"].V.double()}

    def product(D: torch.Tensor, C: torch.Tensor) -> torch.Tensor:
        A, B = METHOD.reconstruct({**given_tensors, "D": D, "C": C}, Site(6, 5), Config())
        return B @ A

    D = torch.randn(1, 3, dtype=torch.float64, requires_grad=True)
    C = torch.randn(1, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(product, (D, C))


def test_profile_and_prediction() -> None:
    basis, module = basis_of(40, 24, 8), factors(40, 24, 4)
    fitted = METHOD.fit({"m": module}, Config(), None, FitContext(basis=basis))["m"]
    profile = METHOD.profile(fitted)
    assert profile.energy == pytest.approx(float(module.delta().double().square().sum()), rel=1e-6)
    for rank in (1, 3, 8):
        _, error = METHOD.predict(profile, rank, 1e-9)
        assert error == pytest.approx(METHOD.squared_error(fitted, tensors_of(fitted, rank, basis)), rel=1e-4)
    assert METHOD.rank(profile, 1e-6) == 8
    assert METHOD.rank(profile, 1e3) == 0
    ranks = [METHOD.rank(profile, step) for step in np.geomspace(1e-4, 1, 20)]
    assert ranks == sorted(ranks, reverse=True)


def test_scores_fall_and_add_up() -> None:
    generator = np.random.default_rng(0)
    profile = CoreProfile(generator.random(9), generator.random(9), 1.0)
    scores = profile.scores
    assert scores == sorted(scores, reverse=True)
    sizes = 2 * np.arange(9) + 1
    assert float(np.dot(scores, sizes)) == pytest.approx(profile.by_rank.sum())


def test_a_smaller_rank_leaves_the_rest_outside() -> None:
    source = adapter(SHAPES)
    basis = build_basis([source])
    made = adaptzip.compress(source, to="lora-sb", basis=basis, rank=2, max_error=0.9)
    assert made.max_rank <= 2
    assert all(len(m.A) <= 2 for m in adaptzip.reconstruct(made).modules.values())
    with pytest.raises(adaptzip.AdaptzipError, match="rank is 0"):
        adaptzip.compress(source, to="lora-sb", basis=basis, rank=0)


def test_a_corrupt_rank_beyond_the_basis_is_refused() -> None:
    basis = basis_of(40, 24, 2)
    tensors = {BASIS_U: basis.modules["m"].U, BASIS_V: basis.modules["m"].V}
    with pytest.raises(adaptzip.AdaptzipError, match="rank 3 stands on a basis of 2"):
        METHOD.reconstruct(tensors | {"D": torch.ones(1, 3), "C": torch.ones(1, 6)}, Site(40, 24), Config())


@pytest.mark.parametrize("error", [0.3, 0.1, 0.01])
def test_a_shared_basis_leaves_cores_alone(tmp_path: Path, error: float) -> None:
    pair = [adapter(SHAPES), adapter(SHAPES, seed=7)]
    write_basis(build_basis(pair), tmp_path / "team.basis")
    sizes = {}
    for number, source in enumerate(pair):
        made = adaptzip.compress(
            source, tmp_path / f"{number}.adz", to="lora-sb", basis=tmp_path / "team.basis", max_error=error
        )
        again = adaptzip.reconstruct(tmp_path / f"{number}.adz", basis=tmp_path / "team.basis")
        assert relative_error(source, again) == pytest.approx(made.provenance.relative_error, rel=1e-3)
        assert error * 0.5 < made.provenance.relative_error <= error
        sizes[number] = made.payload_bytes
        assert made.basis is not None
        assert made.basis.source == "file"
        assert made.payload_bytes < adaptzip.compress(source, max_error=error).payload_bytes / 2
        with pytest.raises(adaptzip.AdaptzipError, match="shared basis"):
            adaptzip.reconstruct(tmp_path / f"{number}.adz")
    assert max(sizes.values()) < 250


def test_without_a_basis_the_adapters_own_is_stored_with_it(tmp_path: Path) -> None:
    source = adapter(SHAPES)
    made = adaptzip.compress(source, tmp_path / "own.adz", to="lora-sb", max_error=0.05)
    assert made.basis is not None
    assert made.basis.source == "embedded"
    again = adaptzip.reconstruct(tmp_path / "own.adz")
    assert relative_error(source, again) == pytest.approx(made.provenance.relative_error, rel=1e-3)
    assert writer.size(made) > sum(2 * 4 * (out + width) for out, width, _ in SHAPES.values())


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A base model in whose leading directions the adapter lies half."""
    folder = tmp_path / "base"
    folder.mkdir()
    weights = {}
    for seed, (name, (out, width, _)) in enumerate(SHAPES.items()):
        spectrum = torch.diag(10 * 0.8 ** torch.arange(12.0))
        weights[f"{name}.weight"] = orthonormal(out, 12, seed) @ spectrum @ orthonormal(width, 12, seed + 9).T
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({}))
    return folder


def test_lora_xs_stands_on_the_base_weights(tmp_path: Path, base: Path) -> None:
    source = adapter(SHAPES)
    made = adaptzip.compress(source, tmp_path / "xs.adz", to="lora-xs", base=base, rank=6, min_energy=0.0, budget="50")
    assert made.basis is not None
    assert (made.basis.source, made.basis.size) == ("base", 6)
    assert made.provenance.parameters <= 50
    again = adaptzip.reconstruct(tmp_path / "xs.adz", base=base)
    assert relative_error(source, again) == pytest.approx(made.provenance.relative_error, rel=1e-3)
    with pytest.raises(adaptzip.AdaptzipError, match="no base model was given"):
        adaptzip.reconstruct(tmp_path / "xs.adz")
    basis_numbers = 6 * sum(out + width for out, width, _ in SHAPES.values())
    embedded = adaptzip.compress(
        source, to="lora-xs", base=base, rank=6, min_energy=0.0, budget=f"{basis_numbers + 50}", embed_basis=True
    )
    alone = adaptzip.reconstruct(embedded)
    assert relative_error(again, alone) < 0.05


def test_too_little_energy_is_refused_with_the_two_ways_on(base: Path) -> None:
    with pytest.raises(adaptzip.AdaptzipError) as caught:
        adaptzip.compress(adapter(SHAPES), to="lora-xs", base=base, rank=2, max_error=0.5)
    assert caught.value.exit_code == 3
    assert "can't represent this adapter" in str(caught.value)
    assert "% of the update's energy, less than 50 %" in str(caught.value)
    hint = caught.value.hint or ""
    assert "adaptzip distill" in hint
    assert "adaptzip basis build" in hint


def test_min_energy_is_a_share(base: Path) -> None:
    with pytest.raises(adaptzip.AdaptzipError, match="min_energy is 50, expected a share"):
        adaptzip.compress(adapter(SHAPES), to="lora-xs", base=base, min_energy=50.0)


def test_a_basis_is_needed() -> None:
    with pytest.raises(adaptzip.AdaptzipError, match="needs a basis"):
        METHOD.prepare({}, Config(), FitContext())


def test_the_two_methods_differ_in_their_basis_alone() -> None:
    xs = load_fittable("lora-xs")
    assert (xs.default_basis, METHOD.default_basis) == ("base", "update")
    assert (xs.name, METHOD.name) == ("lora-xs", "lora-sb")
    assert xs.layout(Site(9, 9), 5, Config()) == METHOD.layout(Site(9, 9), 5, Config())


def fleet_with_a_mean(size: int = 6) -> tuple[list[adaptzip.Adapter], Basis]:
    """Adapters that are mostly the same update, and their basis with the mean."""
    shapes = {"a.0.q": (30, 24, 4), "a.0.v": (12, 24, 4)}
    common = adapter(shapes, seed=100)
    adapters = []
    for seed in range(6):
        own = adapter(shapes, seed=seed)
        modules = {}
        for name, module in common.modules.items():
            A = torch.cat([module.A, 0.5 * own.modules[name].A])
            B = torch.cat([module.B, 0.5 * own.modules[name].B], dim=1)
            modules[name] = adaptzip.LoraFactors(A, B, module.scaling)
        adapters.append(adaptzip.Adapter(modules))
    basis = build_basis(adapters, size)
    means = {name: torch.stack([one.modules[name].delta() for one in adapters]).mean(0) for name in basis.modules}
    modules = {name: ModuleBasis(m.U, m.V, m.U.T @ means[name] @ m.V) for name, m in basis.modules.items()}
    return adapters, Basis(modules, basis.reference)


def test_cores_on_a_mean_are_smaller(tmp_path: Path) -> None:
    adapters, basis = fleet_with_a_mean()
    write_basis(basis, tmp_path / "mean.basis")
    asked = {"to": "lora-sb", "basis": tmp_path / "mean.basis", "max_error": 0.3}
    for one in adapters:
        with_mean = adaptzip.compress(one, tmp_path / "x.adz", **asked, force=True)
        without = adaptzip.compress(one, **asked, mean=False)
        assert with_mean.config["mean"] is True
        assert not without.config.get("mean")
        assert with_mean.payload_bytes < without.payload_bytes
        again = adaptzip.reconstruct(tmp_path / "x.adz", basis=tmp_path / "mean.basis")
        assert relative_error(one, again) == pytest.approx(with_mean.provenance.relative_error, rel=1e-4)
        assert {module.rank for module in again.modules.values()} == {6}


def test_a_mean_that_does_not_help_is_left_out(tmp_path: Path) -> None:
    adapters, basis = fleet_with_a_mean()
    write_basis(basis, tmp_path / "mean.basis")
    opposite = adaptzip.Adapter(
        {name: adaptzip.LoraFactors(m.A, -m.B, m.scaling) for name, m in adapters[0].modules.items()}
    )
    found = adaptzip.compress(opposite, to="lora-sb", basis=tmp_path / "mean.basis", max_error=0.3)
    assert not found.config.get("mean")


def test_a_mean_stays_out_of_the_file(tmp_path: Path) -> None:
    adapters, basis = fleet_with_a_mean()
    write_basis(basis, tmp_path / "mean.basis")
    adaptzip.compress(
        adapters[0], tmp_path / "x.adz", to="lora-sb", basis=tmp_path / "mean.basis", embed_basis=True, max_error=0.3
    )
    assert relative_error(adapters[0], adaptzip.reconstruct(tmp_path / "x.adz")) < 0.301


def test_a_mean_that_is_not_there_is_refused(tmp_path: Path) -> None:
    adapters, basis = fleet_with_a_mean()
    bare = {name: ModuleBasis(module.U, module.V) for name, module in basis.modules.items()}
    write_basis(Basis(bare, basis.reference), tmp_path / "bare.basis")
    with pytest.raises(RefusedError, match="holds no mean"):
        adaptzip.compress(adapters[0], to="lora-sb", basis=tmp_path / "bare.basis", mean=True, max_error=0.3)
