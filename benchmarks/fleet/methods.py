"""The ways to store a fleet, and their settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import sqrt
from pathlib import Path
from typing import Any

import torch

from adaptzip.bases.artefact import read_basis, write_basis
from adaptzip.bases.updates import build_basis
from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.core.projection import captured_energy
from adaptzip.errors import RefusedError
from adaptzip.fitting.loading import load_source
from adaptzip.fitting.requests import Request
from benchmarks.fleet import peers
from benchmarks.fleet.made import Among, Made, compressed, of_files, plain
from benchmarks.peers.environments import Environments

PLAIN = "svd"
ERRORS = (0.1, 0.3, 0.5, 0.7, 0.85, 0.95)
"""Of plain files."""
CORES = tuple((size, error) for size in (16, 64) for error in (0.3, 0.7))
"""Directions of a shared basis, and the error of cores of what it captures."""
MEAN_RANKS = (1, 4)
MEAN_ERROR = 0.05
"""Of the mean's file, beside what its rank leaves out."""


@dataclass(frozen=True)
class Method:
    """One way.

    Attributes:
        make: what it makes of adapters at a setting, in an empty folder.
        told: a setting in words.
    """

    name: str
    settings: Sequence[Any]
    make: Callable[[Among, Any, Path], Made]
    told: Callable[[Any], str]


def methods(environments: Environments) -> Mapping[str, Method]:
    """All, by name; plain files first, which others stand beside."""
    found = [
        Method(PLAIN, ERRORS, lambda among, error, folder: plain(among.all, error, folder), lambda e: f"error {e:g}"),
        Method("mean alone", MEAN_RANKS, mean_alone, lambda rank: f"rank {rank}"),
        Method("shared basis", CORES, shared_basis, lambda core: f"{core[0]} directions, error {core[1]:g}"),
        Method("vlora-dev", peers.VLORA_SETTINGS, partial(peers.vlora, environments), peers.told_of_vlora),
        Method("lorashare", peers.LORASHARE_SETTINGS, partial(peers.lorashare, environments), peers.told_of_lorashare),
    ]
    return {one.name: one for one in found}


def mean_alone(among: Among, rank: int, folder: Path) -> Made:
    """One file that stands for every adapter: the mean of the members' updates, cut to a rank."""
    source = load_source(mean_of(among.adapters, rank), Request(start="none"))
    stand_in, size = compressed(source, folder / "mean.adz", Request(max_error=MEAN_ERROR))
    return Made(dict.fromkeys(among.all, stand_in), size)


def mean_of(adapters: Sequence[Adapter], rank: int) -> Adapter:
    """The mean of adapters' updates, each module cut to a rank."""
    first = adapters[0]
    modules = {}
    for name in first.modules:
        mean = torch.stack([one.modules[name].delta() for one in adapters]).mean(0)
        U, S, Vt = torch.linalg.svd(mean, full_matrices=False)
        root = S[:rank].sqrt()
        modules[name] = LoraFactors(root[:, None] * Vt[:rank], U[:, :rank] * root, 1.0)
    return replace(first, modules=modules)


def shared_basis(among: Among, setting: tuple[int, float], folder: Path) -> Made:
    """Cores within the members' joint basis, which is a file of its own; adapters that it refuses are not held."""
    size, error = setting
    path = basis_of(among.adapters, size, folder)
    basis = read_basis(path)
    found: dict[str, tuple[Adapter, int]] = {}
    for name, one in among.all.items():
        left = captured_energy(one.adapter.modules, basis).error
        request = Request(to="lora-sb", basis=path, max_error=sqrt(left**2 + error**2 * (1 - left**2)))
        try:
            found[name] = compressed(replace(one, frames=None), folder / "core.adz", request, path)
        except RefusedError:
            continue
    return of_files(found, path.stat().st_size)


def basis_of(members: Sequence[Adapter], size: int, folder: Path) -> Path:
    """The file of a shared basis, in float16."""
    path = folder / "shared.basis"
    write_basis(build_basis(members, size), path, dtype="float16")
    return path
