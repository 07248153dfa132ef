"""The basis of a group: that of `build_basis`, whoever made it, with the mean, and measured on what it has not seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from adaptzip.bases.artefact import read_basis
from adaptzip.bases.streaming import ModuleSketch
from adaptzip.bases.updates import build_basis
from adaptzip.core.basis import Basis
from adaptzip.core.projection import captured_energy, error_of_mean
from adaptzip.errors import CheckFailedError, UsageError
from adaptzip.fleet.jobs import build_fleet_basis
from adaptzip.fleet.shared_bases import sizes_for
from adaptzip.restoring.reading import read
from tests.cases.fleets import MODULES, WIDTH, make_fleet

OPTIONS: dict[str, Any] = {"size": 12, "share": 0.99, "hold_out": 0.2, "dtype": "float32"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return make_fleet(tmp_path_factory.mktemp("fleet") / "fleet", 10)


@pytest.fixture(scope="module")
def built(folders: list[Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Basis]:
    store = tmp_path_factory.mktemp("store")
    found = build_fleet_basis(folders, store, **OPTIONS)
    (group,) = found.values["groups"]
    return group, read_basis(store / group["file"])


def test_it_is_the_basis_of_its_members(built: tuple[dict[str, Any], Basis], folders: list[Path]) -> None:
    group, basis = built
    members = [read(path) for number, path in enumerate(folders) if number % 5 != 2]
    assert (group["members"], group["held_out"]) == (len(members), 2)
    whole = build_basis(members, OPTIONS["size"])
    for name, module in basis.modules.items():
        assert torch.equal(module.U, whole.modules[name].U[:, : module.size])
        assert torch.equal(module.V, whole.modules[name].V[:, : module.size])


def test_its_mean_is_the_members_mean(built: tuple[dict[str, Any], Basis], folders: list[Path]) -> None:
    basis = built[1]
    members = [read(path) for number, path in enumerate(folders) if number % 5 != 2]
    for name, module in basis.modules.items():
        mean = torch.stack([one.modules[name].delta() for one in members]).double().mean(0)
        expected = module.U.double().T @ mean @ module.V.double()
        torch.testing.assert_close(module.mean, expected.float(), rtol=1e-5, atol=1e-6)


def test_what_it_holds_is_told(built: tuple[dict[str, Any], Basis], folders: list[Path]) -> None:
    group, basis = built
    assert group["kept"] >= 0.99
    assert group["directions"] < 12
    shares = [captured_energy(read(folders[number]).modules, basis).overall for number in (2, 7)]
    assert group["of_held_out"]["least_captured"] == pytest.approx(min(shares), abs=1e-6)
    means = [error_of_mean(read(folders[number]).modules, basis) for number in (2, 7)]
    assert group["of_held_out"]["mean_error"] == pytest.approx(sum(filter(None, means)) / 2, abs=1e-6)
    assert group["of_members"]["adapters"] == 8
    assert group["of_members"]["shared_bytes"] < group["of_members"]["alone_bytes"]
    assert group["mean_bytes"] > 0


def test_a_mean_can_be_left_out(folders: list[Path], tmp_path: Path) -> None:
    found = build_fleet_basis(folders, tmp_path, **OPTIONS, mean=False)
    (group,) = found.values["groups"]
    assert all(module.mean is None for module in read_basis(tmp_path / group["file"]).modules.values())
    assert group["mean_bytes"] is None
    assert group["of_members"]["mean_error"] is None


def test_a_group_of_none_is_told(folders: list[Path], tmp_path: Path) -> None:
    with pytest.raises(CheckFailedError, match="no group has the 4 adapters"):
        build_fleet_basis(folders[:3], tmp_path)


@pytest.mark.parametrize(
    ("options", "why"),
    [({"share": 1.5}, "share is 1.5"), ({"hold_out": 0.9}, "hold_out is 0.9"), ({"size": 0}, "size is 0")],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], why: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=why):
        build_fleet_basis([tmp_path], tmp_path / "store", **options)


def test_directions_go_where_they_hold_most() -> None:
    told = {
        "few": {"energy": 10.0, "captured": [9.0, 9.5, 9.6, 9.6]},
        "many": {"energy": 10.0, "captured": [3.0, 6.0, 9.0, 9.9]},
        "nothing": {"energy": 0.0, "captured": [0.0, 0.0, 0.0, 0.0]},
    }
    sizes, kept = sizes_for(told, dict.fromkeys(told, (8, 8)), 0.9)
    assert sizes == {"few": 1, "many": 3, "nothing": 1}
    assert kept == pytest.approx(0.9)


def updates(count: int, seed: int = 0) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    draw = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(count):
        U, S, Vt = torch.linalg.svd(torch.randn(24, 20, generator=draw, dtype=torch.float64))
        found.append((U[:, :3], S[:3], Vt[:3].T))
    return found


def test_a_sketch_of_few_updates_loses_nothing() -> None:
    some = updates(5)
    sketch = ModuleSketch(4)
    for one in some:
        sketch.add(one)
    left, _, _ = torch.linalg.svd(torch.cat([U * S for U, S, _ in some], 1))
    found = sketch.directions().U.double()
    assert float((found.T @ left[:, 4:]).abs().max()) < 1e-6


def test_a_sketch_of_many_holds_what_the_whole_does() -> None:
    many = [(U, S * torch.tensor([1.0, 0.1, 0.01]), V) for U, S, V in updates(60)]
    sketch, whole = ModuleSketch(6), ModuleSketch(None)
    for one in many:
        sketch.add(one)
        whole.add(one)
    columns = torch.cat([U * S for U, S, _ in many], 1)

    def held(vectors: torch.Tensor) -> float:
        return float((vectors.double().T @ columns).square().sum())

    assert held(sketch.directions().U) > 0.98 * held(whole.directions().U[:, :6])


def test_the_sizes_are_those_of_the_adapters(built: tuple[dict[str, Any], Basis]) -> None:
    assert len(built[1].modules) == MODULES
    assert {module.U.shape[0] for module in built[1].modules.values()} == {WIDTH}
