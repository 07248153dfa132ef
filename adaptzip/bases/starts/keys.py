"""Finding starts that MLX drew: which of a seed's keys each module has."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adaptzip.bases.starts import threefry
from adaptzip.bases.starts.candidates import Candidate
from adaptzip.bases.starts.placing import MAYBE, SURE

KEYS = 2048
"""Keys looked at: a base model takes one for each of its layers, two where it is quantised, and an adapter two each."""
_HASHES = 128
_SEEDS = 6
_SHAPES = 2


def place_keys(
    found: Sequence[Candidate], likely: Sequence[Candidate], seeds: Sequence[int]
) -> tuple[int, dict[Candidate, int]] | None:
    """The seed, and the key of each module that has one of its first keys; None if none of the likely ones has."""
    shapes: dict[tuple[int, ...], list[Candidate]] = {}
    for one in likely:
        shapes.setdefault(tuple(one.A.shape), []).append(one)
    tried = seeds[:_SEEDS]
    first = np.array([threefry.first_key(seed) for seed in tried], np.uint32).reshape(-1, 2)
    drawn = threefry.first_keys(first, KEYS)
    for seed, keys in zip(tried, drawn, strict=True):
        for group in list(shapes.values())[:_SHAPES]:
            if _among(keys, group):
                return seed, _all(keys, found)
    return None


def _all(keys: NDArray[np.uint32], found: Sequence[Candidate]) -> dict[Candidate, int]:
    shapes: dict[tuple[int, ...], list[Candidate]] = {}
    for one in found:
        shapes.setdefault(tuple(one.A.shape), []).append(one)
    placed: dict[Candidate, int] = {}
    for group in shapes.values():
        placed |= _among(keys, group)
    return placed


def _among(keys: NDArray[np.uint32], group: Sequence[Candidate]) -> dict[Candidate, int]:
    """The keys of modules of one shape, as far as they have one of these."""
    rank, width = group[0].A.shape
    places, words = threefry.some_bits(keys, rank * width, min(_HASHES, rank * width // 2))
    numbers = torch.from_numpy((words >> np.uint32(8)).astype(np.float32)) - float(1 << 23)
    chosen = torch.stack([_drawn(one)[torch.from_numpy(places)] for one in group])
    scores = (_unit(chosen) @ _unit(numbers).T * len(places) ** 0.5).abs()
    best = scores.argmax(dim=1).tolist()
    return {
        one: key
        for one, key, value in zip(group, best, scores.amax(dim=1).tolist(), strict=True)
        if value > MAYBE and _whole(one, keys[key]) > SURE
    }


def _whole(one: Candidate, key: NDArray[np.uint32]) -> float:
    """Deviations above chance of a whole module."""
    words = threefry.bits((int(key[0]), int(key[1])), one.size)
    numbers = torch.from_numpy((words >> np.uint32(8)).astype(np.float32)) - float(1 << 23)
    return abs(float(_unit(_drawn(one)[None]) @ _unit(numbers[None])[0])) * math.sqrt(one.size)


def _drawn(one: Candidate) -> Tensor:
    """A's numbers in the order in which MLX drew them: a tensor (width, rank)."""
    return one.A.float().T.reshape(-1)


def _unit(rows: Tensor) -> Tensor:
    unit: Tensor = rows / torch.linalg.norm(rows, dim=1, keepdim=True).clamp(min=1e-30)
    return unit
