"""Directions that are kept: the same as made anew, and whatever is not what it should be is made anew."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from adaptzip.bases import kept, weights
from adaptzip.bases.directions import dense_directions
from adaptzip.bases.weights import basis_from_base
from adaptzip.core.basis import Basis
from adaptzip.core.compressed import Site
from adaptzip.errors import RefusedError
from adaptzip.models.folder import BaseModel

SITES = {"a": Site(12, 8), "b": Site(10, 8)}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache in which even the directions of small weights are kept."""
    monkeypatch.setenv("ADAPTZIP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(kept, "WORTHWHILE", 0)
    return tmp_path / "cache" / "directions"


@pytest.fixture
def base(tmp_path: Path) -> BaseModel:
    drawn = torch.Generator().manual_seed(0)
    (tmp_path / "base").mkdir()
    tensors = {f"{name}.weight": torch.randn(site.out, site.width, generator=drawn) for name, site in SITES.items()}
    save_file(tensors, tmp_path / "base" / "model.safetensors")
    (tmp_path / "base" / "config.json").write_text("{}")
    return BaseModel.open(tmp_path / "base")


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shapes of the weights whose directions were computed."""
    shapes: list[tuple[int, ...]] = []

    def counting(matrix: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        shapes.append(tuple(matrix.shape))
        return dense_directions(matrix, size)

    monkeypatch.setattr(weights, "dense_directions", counting)
    return shapes


def assert_same(one: Basis, other: Basis) -> None:
    assert one.reference == other.reference
    assert list(one.modules) == list(other.modules)
    for name, module in one.modules.items():
        assert torch.equal(module.U, other.modules[name].U)
        assert torch.equal(module.V, other.modules[name].V)


def test_a_second_time_nothing_is_computed(
    cache: Path,
    base: BaseModel,
    computed: list[tuple[int, ...]],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = basis_from_base(base, SITES, 3)
    assert sorted(computed) == [(10, 8), (12, 8)]
    assert len(list(cache.iterdir())) == 2
    computed.clear()
    with caplog.at_level(logging.INFO, "adaptzip"):
        assert_same(basis_from_base(base, SITES, 3), first)
        assert "computed before" not in caplog.text  # this process did
        monkeypatch.setattr(kept, "_told", set())
        assert_same(basis_from_base(base, SITES, 3, only=["b"]), Basis({"b": first.modules["b"]}, first.reference))
        assert_same(basis_from_base(base, SITES, 3), first)
        assert_same(basis_from_base(base, SITES, 3), first)
    assert not computed
    assert caplog.text.count("directions of 1 of 1 weights were computed before") == 1
    assert caplog.text.count("directions of 1 of 2 weights were computed before") == 1


def test_another_size_or_weight_or_computation_has_its_own(
    cache: Path, base: BaseModel, computed: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    basis_from_base(base, SITES, 3)
    computed.clear()
    basis_from_base(base, SITES, 2)
    assert len(computed) == 2
    monkeypatch.setattr(kept, "COMPUTATION", kept.COMPUTATION + 1)
    basis_from_base(base, SITES, 3)
    assert len(computed) == 4
    tensors = load_file(base.path / "model.safetensors")
    tensors["a.weight"][0, 0] += 1
    save_file(tensors, base.path / "model.safetensors")
    basis_from_base(BaseModel.open(base.path), SITES, 3)
    assert len(computed) == 5


def test_names_of_modules_do_not_matter(cache: Path, base: BaseModel, computed: list[tuple[int, ...]]) -> None:
    basis_from_base(base, SITES, 3)
    tensors = {f"other.{name}": tensor for name, tensor in load_file(base.path / "model.safetensors").items()}
    save_file(tensors, base.path / "model.safetensors")
    computed.clear()
    basis_from_base(BaseModel.open(base.path), {f"other.{name}": site for name, site in SITES.items()}, 3)
    assert not computed


def _flip(path: Path, other: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


def _cut(path: Path, other: Path) -> None:
    path.write_bytes(path.read_bytes()[:-8])


def _empty(path: Path, other: Path) -> None:
    path.write_bytes(b"")


def _swap(path: Path, other: Path) -> None:
    path.write_bytes(other.read_bytes())


def _strange(path: Path, other: Path) -> None:
    save_file({"U": torch.zeros(12, 3)}, path, metadata={"key": path.stem})


def _pickled(path: Path, other: Path) -> None:
    torch.save({"U": torch.zeros(12, 3)}, path)


def _wrong_shape(path: Path, other: Path) -> None:
    """What only another program would write: sound in itself, of another weight."""
    tensors = {"S": torch.ones(4).double(), "U": torch.zeros(5, 3), "V": torch.zeros(8, 3)}
    save_file(tensors, path, metadata={"key": path.stem, "hash": kept._content(path.stem, tensors)})


@pytest.mark.parametrize("harm", [_flip, _cut, _empty, _swap, _strange, _pickled, _wrong_shape])
def test_what_is_damaged_or_foreign_is_made_anew(
    harm: object, cache: Path, base: BaseModel, computed: list[tuple[int, ...]], caplog: pytest.LogCaptureFixture
) -> None:
    first = basis_from_base(base, SITES, 3)
    path, other = sorted(cache.iterdir())
    before = path.read_bytes()
    harm(path, other)  # type: ignore[operator]
    computed.clear()
    with caplog.at_level(logging.INFO, "adaptzip"):
        assert_same(basis_from_base(base, SITES, 3), first)
    assert len(computed) == 1
    assert f"{path} is damaged" in caplog.text
    assert path.read_bytes() == before


def test_off_means_off(cache: Path, base: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADAPTZIP_CACHE", "off")
    monkeypatch.chdir(base.path)
    basis_from_base(base, SITES, 3)
    assert not cache.exists()
    assert not (base.path / "off").exists()


def test_where_nothing_can_be_written_nothing_is_kept(
    base: BaseModel, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cache.parent.write_text("a file where the folder would be")
    with caplog.at_level(logging.INFO, "adaptzip"):
        found = basis_from_base(base, SITES, 3)
    assert caplog.text.count("directions are not kept for the next time") == 1
    monkeypatch.setenv("ADAPTZIP_CACHE", "off")
    assert_same(basis_from_base(base, SITES, 3), found)


def test_what_cannot_be_read_is_made_anew(
    cache: Path, base: BaseModel, computed: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def locked(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    first = basis_from_base(base, SITES, 3)
    monkeypatch.setattr(kept, "open_weights", locked)
    computed.clear()
    assert_same(basis_from_base(base, SITES, 3), first)
    assert len(computed) == 2


def test_what_was_used_last_stays(
    cache: Path, base: BaseModel, monkeypatch: pytest.MonkeyPatch, computed: list[tuple[int, ...]]
) -> None:
    basis_from_base(base, SITES, 3)
    stranger = cache / "notes.txt"
    stranger.write_text("somebody else's")
    for path in cache.iterdir():
        os.utime(path, (1, 1))
    basis_from_base(base, SITES, 3, only=["a"])
    monkeypatch.setattr(kept, "MOST_BYTES", sum(path.stat().st_size for path in cache.glob("*.safetensors")) + 60)
    basis_from_base(base, SITES, 2, only=["a"])
    assert stranger.is_file()
    computed.clear()
    basis_from_base(base, SITES, 3, only=["a"])
    assert not computed
    basis_from_base(base, SITES, 3, only=["b"])
    assert computed == [(10, 8)]


def test_small_weights_are_not_kept(cache: Path, base: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "WORTHWHILE", 97)
    basis_from_base(base, SITES, 3)
    assert not cache.exists()


def test_what_another_machine_would_not_find_is_refused_again(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "eye").mkdir()
    save_file({"a.weight": torch.eye(8)}, tmp_path / "eye" / "model.safetensors")
    (tmp_path / "eye" / "config.json").write_text(json.dumps({}))
    base = BaseModel.open(tmp_path / "eye")
    for _ in range(2):
        with pytest.raises(RefusedError, match="are equal"):
            basis_from_base(base, {"a": Site(8, 8)}, 2)
    assert basis_from_base(base, {"a": Site(8, 8)}, 2, reproducible=False).modules["a"].size == 2
