"""What a made-up fleet takes from a trained one: spectra of modules, and shares of the mean and of directions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import numpy as np

from adaptzip.core.linalg import factored_values
from benchmarks.fleet import shares
from benchmarks.fleet.entries import Entry

PROFILE = Path(__file__).parent / "profile.json"
"""What was measured of a trained fleet."""
SHARED = 16
"""Directions, beside the mean."""
SPECTRA = 100
"""Most spectra that are kept, evenly chosen among the sorted ones."""


@dataclass(frozen=True)
class Profile:
    """What a fleet is like.

    Attributes:
        mean: share of |dW|^2 in the mean.
        shared: share of |dW|^2 in `SHARED` directions on either side, beside the mean.
        spectra: singular values of modules' updates, each adapter at |dW| = 1 over its modules.
    """

    mean: float
    shared: float
    spectra: tuple[tuple[float, ...], ...]

    @classmethod
    def read(cls, path: Path) -> Profile:
        row = json.loads(path.read_text(encoding="utf-8"))
        return cls(row["mean"], row["shared"], tuple(tuple(values) for values in row["spectra"]))


def measured(kinds: Mapping[str, Sequence[Entry]], rank: int) -> Profile:
    """Means over the kinds of what members hold of those left out, and the first `rank` values of members' modules."""
    found, spectra = [], []
    for entries in kinds.values():
        adapters = [(entry, shares.normalised(entry.adapter())) for entry in entries]
        members = [adapter for entry, adapter in adapters if not entry.left_out]
        others = [adapter for entry, adapter in adapters if entry.left_out]
        found.append(shares.shares(shares.of_all(members), others, [SHARED]))
        for adapter in members:
            values = [factored_values(m.A[None], m.B[None], m.scaling)[0, :rank] for m in adapter.modules.values()]
            spectra += [tuple(round(float(value), 5) for value in one) for one in values]
    kept = np.linspace(0, len(spectra) - 1, min(SPECTRA, len(spectra))).astype(int)
    chosen = [sorted(spectra)[place] for place in kept]
    average = max(0.0, mean(one.mean for one in found))
    return Profile(round(average, 4), round(mean(one.shared[SHARED] for one in found), 4), tuple(chosen))
