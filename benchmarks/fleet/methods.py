"""The ways to store a fleet, and their settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

import adaptzip
from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.files.trees import tree_at
from adaptzip.fitting.loading import load_source
from adaptzip.fitting.requests import Request
from adaptzip.fleet.store.index import read_rows
from adaptzip.fleet.store.layout import INDEX, artefact_of
from adaptzip.fleet.variants import Sharing
from adaptzip.restoring.reading import read
from benchmarks.fleet import peers
from benchmarks.fleet.made import Among, Made, compressed, of_files, plain
from benchmarks.peers.environments import Environments

PLAIN = "svd"
ERRORS = (0.1, 0.3, 0.5, 0.7, 0.85, 0.95)
"""Of plain files."""
SHARES: tuple[tuple[Sharing, float], ...] = (("auto", 0.3), ("auto", 0.7), ("always", 0.3), ("always", 0.7))
"""Whether a basis is used where it pays, or wherever it can be; and the error of each adapter."""
BANK_SHARES: tuple[tuple[Sharing, float], ...] = (("auto", 0.7), ("always", 0.7), ("always", 0.85))
"""The same of a bank, which leaves larger errors."""
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
        Method("shared basis", SHARES, shared_basis, lambda one: f"{one[0]}, error {one[1]:g}"),
        Method("shared bank", BANK_SHARES, shared_bank, lambda one: f"{one[0]}, error {one[1]:g}"),
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


def shared_basis(among: Among, setting: tuple[Sharing, float], folder: Path) -> Made:
    """What `adaptzip fleet basis` makes of the members, and `adaptzip fleet compress` of all."""
    adaptzip.build_fleet_basis(_members(among), folder / "store")
    return in_store(among, setting, folder / "store")


def shared_bank(among: Among, setting: tuple[Sharing, float], folder: Path) -> Made:
    """What `adaptzip fleet bank` makes of the members, and `adaptzip fleet compress` of all."""
    adaptzip.build_fleet_bank(_members(among), folder / "store")
    return in_store(among, setting, folder / "store")


def _members(among: Among) -> list[Path]:
    return [among.paths[name] for name in among.members]


def in_store(among: Among, setting: tuple[Sharing, float], store: Path) -> Made:
    """All adapters in a store, its index included, where what is shared is for members and others alike.

    Each file is read back with what its row in the index names; what none names does not count.
    """
    share, error = setting
    adaptzip.compress_fleet(list(among.paths.values()), store, max_error=error, share=share, effort="default")
    # A store calls an adapter by its folder.
    names = {path.name: name for name, path in among.paths.items()}
    found, needed = {}, set((store / INDEX).iterdir())
    tree = tree_at(store)
    for called, row in read_rows(tree).items():
        path = store / f"{called}.adz"
        found[names[called]] = read(path), path.stat().st_size
        artefact = None if row.shared is None else artefact_of(tree, row.shared)
        needed |= set() if artefact is None else {store / artefact}
    return of_files(found, sum(path.stat().st_size for path in needed))
