"""Adapters that share directions, coded in a basis on both sides: bytes, choices, and what a reader needs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import adaptzip
from adaptzip import Adapter
from adaptzip.bases.artefact import read_basis, write_basis
from adaptzip.bases.frames import affordable, check_sizes
from adaptzip.bases.updates import build_basis
from adaptzip.core.adapter import LoraFactors
from adaptzip.core.comparing import diff, same_bits
from adaptzip.core.compressed import Site
from adaptzip.errors import FormatError, RefusedError, UsageError
from benchmarks.shared_frames import Fleet

FLEET = Fleet(0.97, width=128, shared=16, modules=4, rank=6)


@pytest.fixture(scope="module")
def fleet() -> list[Adapter]:
    return list(FLEET.adapters(13))


@pytest.fixture(scope="module")
def team(fleet: list[Adapter], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fleet") / "team.basis"
    write_basis(build_basis(fleet[:12], 24), path, dtype="float16")
    return path


def size(adapter: Adapter, **given: Any) -> int:
    return adaptzip.compress(adapter, **{"max_error": 0.3, **given}).bytes


def test_both_sides_take_fewer_bytes_than_one(fleet: list[Adapter], team: Path) -> None:
    plain, one, both = (size(fleet[-1], **way) for way in ({}, {"basis": team, "sides": 1}, {"basis": team}))
    assert one < 0.8 * plain
    assert both < 0.6 * one


@pytest.mark.parametrize("limit", [{"max_error": 0.3}, {"budget": "1kB"}, {"budget": "2kB"}])
def test_files_decode_as_they_say(fleet: list[Adapter], team: Path, limit: dict[str, Any], tmp_path: Path) -> None:
    small = adaptzip.compress(fleet[-1], tmp_path / "a.adz", basis=team, **limit)
    assert small.config == {"sides": 2}
    back = adaptzip.reconstruct(tmp_path / "a.adz", basis=team)
    assert diff(fleet[-1], back).relative_error == pytest.approx(small.provenance.relative_error, rel=1e-3)
    if "budget" in limit:
        asked = 1000 * int(limit["budget"][0])
        assert 0.98 * asked < small.bytes <= asked
    else:
        assert 0.29 < small.provenance.relative_error <= 0.3
    assert adaptzip.compress(fleet[-1], basis=team, **limit).to_bytes() == small.to_bytes()
    assert adaptzip.compress(fleet[-1], start=team, **limit).to_bytes() == small.to_bytes()
    one = sorted(back.modules)[1]
    alone = adaptzip.reconstruct(tmp_path / "a.adz", basis=read_basis(team), modules=[one]).modules[one]
    assert same_bits(alone.A, back.modules[one].A)
    assert same_bits(alone.B, back.modules[one].B)


def test_sizes_are_foreseen(fleet: list[Adapter], team: Path) -> None:
    for error in (0.2, 0.5):
        made = adaptzip.compress(fleet[-1], max_error=error, basis=team)
        report = adaptzip.plan(fleet[-1], methods=["svd"], max_error=error, basis=team)
        assert report.forecasts[0].bytes == pytest.approx(made.bytes, rel=0.1)


def test_no_more_directions_than_pay(fleet: list[Adapter], tmp_path: Path) -> None:
    write_basis(build_basis(fleet[:12]), tmp_path / "large.basis")
    found = adaptzip.compress(fleet[-1], max_error=0.3, basis=tmp_path / "large.basis")
    assert read_basis(tmp_path / "large.basis").reference.size == 72
    assert set(found.basis_sizes) <= {16, 32}
    assert found.basis is not None
    assert found.basis.size == max(found.basis_sizes)


def strange(adapter: Adapter) -> Adapter:
    """An adapter of the same shapes that has nothing of the others'."""
    generator = torch.Generator().manual_seed(99)

    def like(factor: Tensor) -> Tensor:
        noise = torch.randn(factor.shape, generator=generator)
        return noise * (float(factor.norm()) / float(noise.norm()))

    return Adapter({name: LoraFactors(like(m.A), like(m.B)) for name, m in adapter.modules.items()})


def test_what_has_nothing_in_the_basis_costs_next_to_nothing_more(fleet: list[Adapter], team: Path) -> None:
    other = strange(fleet[-1])
    assert size(other, basis=team) == size(other)
    name = min(other.modules)
    mixed = replace(fleet[-1], modules={**fleet[-1].modules, name: other.modules[name]})
    found = adaptzip.compress(mixed, max_error=0.3, basis=team)
    assert found.basis_sizes[0] == 0 < min(found.basis_sizes[1:])
    # Forced into frames of no use, it takes a little more.
    assert size(other, basis=team, sides=2) <= 1.02 * size(other)


def test_another_basis_is_refused(fleet: list[Adapter], team: Path, tmp_path: Path) -> None:
    small = adaptzip.compress(fleet[-1], tmp_path / "a.adz", max_error=0.3, basis=team)
    assert small.basis is not None
    with pytest.raises(RefusedError, match=rf"hash {small.basis.hash[:8]}\.\.\., which was not given"):
        adaptzip.reconstruct(tmp_path / "a.adz")
    write_basis(build_basis(fleet[:11], 24), tmp_path / "wrong.basis", dtype="float16")
    with pytest.raises(RefusedError, match=rf"compressed with {small.basis.hash[:8]}"):
        adaptzip.reconstruct(tmp_path / "a.adz", basis=tmp_path / "wrong.basis")


def test_a_start_has_no_directions_of_outputs(fleet: list[Adapter], tmp_path: Path) -> None:
    adaptzip.compress(fleet[0], tmp_path / "a.adz", max_error=0.1)
    with pytest.raises(UsageError, match="sides is 2, and its frame has directions of inputs alone"):
        adaptzip.compress(fleet[0], max_error=0.3, start=tmp_path / "a.adz", sides=2)


def test_hostile_sizes_are_refused() -> None:
    sites = {"m": Site(20, 40), "n": Site(40, 40)}
    check_sizes([0, 40], sites, 0, "file", 2)
    with pytest.raises(FormatError, match="'m', 20 x 40, cannot have a frame of 21 directions"):
        check_sizes([21, 0], sites, 0, "file", 2)
    check_sizes([21, 0], sites, 0, "file", 1)
    with pytest.raises(FormatError, match="of outputs as well, which no reference has"):
        check_sizes([4, 4], sites, 0, "reference", 2)
    wide = {"m": Site(2**18, 2**15)}
    assert not affordable([1024], wide, 0, "file", 2)
    assert affordable([1024], wide, 0, "file", 1)
    assert affordable([1024], wide, 2**10, "file", 2)
    with pytest.raises(FormatError, match="too much work for blocks of 0 bytes"):
        check_sizes([1024], wide, 0, "file", 2)
