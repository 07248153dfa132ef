"""Modules as finding looks at them: whether A looks like a start at all, and probes cut from it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adaptzip.bases.starts.correlating import LONGEST
from adaptzip.bases.starts.generators import BLOCK, NORMAL, UNIFORM
from adaptzip.core.adapter import LoraFactors
from adaptzip.core.frames import MOST_ROWS, MOST_WIDTH

LEAST_NUMBERS = 256
"""Smaller A are told from chance by nothing."""
_CLIP = 3.0
_UNIFORM_BELOW = -0.04
_NORMAL_BETWEEN = (-0.5, 1.0)
_NEAR = (0.75, 2.5)


@dataclass(frozen=True, eq=False)
class Candidate:
    """An A, and the modules that have it: one, or several that share it.

    Attributes:
        names: of the modules, the first one's in natural order first.
        A: (rank, width) as stored.
        out: rows of B.
        probe: see `robust`.
        kurtosis: excess kurtosis of the first rows, each to its deviation: -1.2 where they are uniform, 0 where they
            are normal.
    """

    names: tuple[str, ...]
    A: Tensor
    out: int
    probe: Tensor
    kurtosis: float

    @property
    def size(self) -> int:
        """Numbers in A."""
        return self.A.numel()

    def looks(self) -> set[str]:
        """The generators that it may have begun with, as far as the numbers' distribution and deviation tell."""
        deviation = float(self.A[:64].float().std())
        rank, width = self.A.shape
        found = set()
        if self.kurtosis < _UNIFORM_BELOW or _NEAR[0] < deviation * (3 * width) ** 0.5 < _NEAR[1]:
            found.add(UNIFORM)
        if _NORMAL_BETWEEN[0] < self.kurtosis < _NORMAL_BETWEEN[1]:
            found.add(NORMAL)
        return found

    def signal_probe(self, generator: str) -> Tensor:
        """What goes with `Stream.signal`: the probe, or the signs of the second half of each block, the sines."""
        if generator == UNIFORM:
            return self.probe
        signs = self.probe.sign().reshape(-1, 2, BLOCK // 2).clone()
        signs[:, 0] = 0
        return signs.reshape(-1)


def candidates(modules: Mapping[str, LoraFactors]) -> list[Candidate]:
    """The A of modules that may have a known start, equal ones once, in natural order of the modules' names."""
    seen: dict[tuple[object, ...], list[str]] = {}
    for name in sorted(modules, key=natural):
        A = modules[name].A
        rank, width = A.shape
        fits = 1 <= rank <= min(width, MOST_ROWS) and width <= MOST_WIDTH and A.numel() >= LEAST_NUMBERS
        if fits and A.is_floating_point() and bool(A.isfinite().all()) and bool(A.any()):
            head = A[0, :32].float()
            seen.setdefault((rank, width, *head.tolist()), []).append(name)
    found = []
    for names in seen.values():
        first = modules[names[0]]
        same = [name for name in names if torch.equal(modules[name].A, first.A)]
        for group in (same, *([name] for name in names if name not in same)):
            A = modules[group[0]].A.detach().cpu()
            found.append(Candidate(tuple(group), A, modules[group[0]].B.shape[0], robust(A), excess_kurtosis(A)))
    return found


def robust(A: Tensor) -> Tensor:
    """The first numbers of A, whole blocks of them, each row to its median magnitude, without outliers."""
    rows = _first_rows(A)
    scale = rows.abs().median(dim=1, keepdim=True).values
    flat = (rows / scale.clamp(min=1e-30)).clamp(-_CLIP, _CLIP).reshape(-1)
    return flat[: min(LONGEST, A.numel() // BLOCK * BLOCK)]


def excess_kurtosis(A: Tensor) -> float:
    """That of the first rows, each to its deviation: 0 for normal numbers, -1.2 for uniform ones."""
    rows = _first_rows(A)
    rows = rows / rows.square().mean(dim=1, keepdim=True).sqrt().clamp(min=1e-30)
    return float((rows**4).mean() / rows.square().mean() ** 2 - 3)


def _first_rows(A: Tensor) -> Tensor:
    return A[: -(-LONGEST // A.shape[1])].float()


def likely_first(found: Sequence[Candidate], most: int) -> list[Candidate]:
    """Those that may stand early in the stream: `first_of_kinds`, and the others after them."""
    firsts = first_of_kinds(found)
    return (firsts + [one for one in found if one not in firsts])[:most]


def first_of_kinds(found: Sequence[Candidate]) -> list[Candidate]:
    """Of each kind of module the first layer's, the most alike a start first.

    Which kind comes first is not known, as the order of names is not that of modules in the model.
    """
    kinds: dict[str, Candidate] = {}
    for one in found:
        kinds.setdefault(re.sub(r"\d+", "#", one.names[0]), one)
    return sorted(kinds.values(), key=lambda one: one.kurtosis)


def natural(name: str) -> list[tuple[int, str]]:
    """The order of names in which layer 10 follows layer 9."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
