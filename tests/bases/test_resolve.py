"""Which basis is taken, and that only the very same one reconstructs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from adaptzip.bases.artefact import read_basis, round_basis, write_basis
from adaptzip.bases.resolve import basis_for_compress, basis_for_reconstruct
from adaptzip.bases.updates import build_basis
from adaptzip.bases.weights import basis_from_base
from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.core.basis import Basis
from adaptzip.core.compressed import Site
from adaptzip.errors import FormatError, RefusedError
from adaptzip.models.folder import BaseModel
from adaptzip.testing.adapters import adapter

SHAPES = {"a.0.q": (40, 24, 4), "a.0.v": (12, 24, 4)}
SITES = {name: Site(out, width) for name, (out, width, _) in SHAPES.items()}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return make_base(tmp_path / "base", 0)


def make_base(folder: Path, seed: int) -> Path:
    folder.mkdir()
    generator = torch.Generator().manual_seed(seed)
    weights = {f"{n}.weight": torch.randn(out, width, generator=generator) for n, (out, width, _) in SHAPES.items()}
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({}))
    return folder


@pytest.fixture
def team(tmp_path: Path) -> Path:
    write_basis(build_basis([adapter(SHAPES), adapter(SHAPES, seed=7)]), tmp_path / "team.basis")
    return tmp_path / "team.basis"


def assert_same(one: Basis, other: Basis) -> None:
    assert one.reference == other.reference
    assert one.modules.keys() == other.modules.keys()
    for name, module in one.modules.items():
        assert torch.equal(module.U, other.modules[name].U)
        assert torch.equal(module.V, other.modules[name].V)


def test_base_weights_where_the_method_stands_on_them(base: Path) -> None:
    found = basis_for_compress("base", adapter(SHAPES), base=base, basis=None, size=None)
    assert_same(found, basis_from_base(BaseModel.open(base), SITES, 4))
    assert_same(basis_for_reconstruct(found.reference, SITES, base=base), found)
    smaller = basis_for_compress("base", adapter(SHAPES), base=base, basis=None, size=2)
    assert smaller.reference.size == 2
    with pytest.raises(RefusedError, match="no base model was given") as caught:
        basis_for_compress("base", adapter(SHAPES), base=None, basis=None, size=None)
    assert "`base=" in (caught.value.hint or "")
    assert "`basis=" in (caught.value.hint or "")


def test_the_adapters_own_directions_are_embedded_as_float16() -> None:
    found = basis_for_compress("update", adapter(SHAPES), base=None, basis=None, size=None)
    assert found.reference.source == "embedded"
    assert_same(round_basis(found, torch.float16), found)
    stored = Basis(found.modules, found.reference)
    assert_same(basis_for_reconstruct(found.reference, SITES, embedded=stored), found)
    with pytest.raises(FormatError, match="holds none"):
        basis_for_reconstruct(found.reference, SITES)


def test_a_given_basis_counts_whatever_the_default(base: Path, team: Path) -> None:
    for default in ("base", "update"):
        found = basis_for_compress(default, adapter(SHAPES), base=base, basis=team, size=None)
        assert_same(found, read_basis(team))
    assert_same(basis_for_reconstruct(found.reference, SITES, basis=team), found)
    assert_same(basis_for_reconstruct(found.reference, SITES, basis=read_basis(team)), found)


def test_any_basis_can_be_embedded(base: Path, team: Path) -> None:
    for basis in (None, team):
        found = basis_for_compress("base", adapter(SHAPES), base=base, basis=basis, size=None, embed=True)
        assert (found.reference.source, found.reference.hash) == ("embedded", "")
        assert_same(round_basis(found, torch.float16), found)
    cut = basis_for_compress("base", adapter(SHAPES), base=base, basis=team, size=3, embed=True)
    assert {module.size for module in cut.modules.values()} == {cut.reference.size} == {3}


def test_another_base_is_refused_by_both_hashes(tmp_path: Path, base: Path) -> None:
    found = basis_for_compress("base", adapter(SHAPES), base=base, basis=None, size=None)
    other = make_base(tmp_path / "other", 1)
    with pytest.raises(RefusedError) as caught:
        basis_for_reconstruct(found.reference, SITES, base=other)
    theirs = basis_from_base(BaseModel.open(other), SITES, 4).reference.hash
    assert found.reference.hash[:8] in str(caught.value)
    assert theirs[:8] in str(caught.value)
    assert caught.value.exit_code == 3
    with pytest.raises(RefusedError, match="no base model was given"):
        basis_for_reconstruct(found.reference, SITES)


def test_another_artefact_is_refused(tmp_path: Path, team: Path) -> None:
    reference = read_basis(team).reference
    write_basis(build_basis([adapter(SHAPES)]), tmp_path / "other.basis")
    with pytest.raises(RefusedError, match=rf"other.basis: has hash .*{reference.hash[:8]}"):
        basis_for_reconstruct(reference, SITES, basis=tmp_path / "other.basis")
    with pytest.raises(RefusedError, match=r"shared basis \(updates of 2 adapters\)") as caught:
        basis_for_reconstruct(reference, SITES)
    assert "`basis=" in (caught.value.hint or "")


def test_modules_that_the_basis_lacks(team: Path) -> None:
    zero = LoraFactors(torch.ones(2, 9), torch.zeros(5, 2))
    source = adapter(SHAPES)
    found = basis_for_compress("base", Adapter({**source.modules, "z": zero}), base=None, basis=team, size=None)
    assert (found.modules["z"].U.shape, found.modules["z"].V.shape) == ((5, 0), (9, 0))
    sites = {**SITES, "z": Site(5, 9)}
    assert basis_for_reconstruct(found.reference, sites, basis=team).modules["z"].size == 0
    with pytest.raises(RefusedError, match="module b is not in the basis"):
        basis_for_compress("base", adapter({"b": (5, 9, 2)}), base=None, basis=team, size=None)
    with pytest.raises(FormatError, match="module a.0.q is 41 x 24, but its basis is for 40 x 24"):
        basis_for_reconstruct(found.reference, {"a.0.q": Site(41, 24)}, basis=team)


def test_only_the_modules_wanted_are_computed(base: Path) -> None:
    found = basis_for_compress("base", adapter(SHAPES), base=base, basis=None, size=None)
    part = basis_for_reconstruct(found.reference, SITES, base=base, only=["a.0.v"])
    assert part.modules["a.0.q"].size == 0
    assert torch.equal(part.modules["a.0.v"].U, found.modules["a.0.v"].U)
