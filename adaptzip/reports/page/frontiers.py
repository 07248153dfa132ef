"""The frontier of error over bytes that a page's files lie on, or above."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from adaptzip.adz.coding.packing import ExtrasMode
from adaptzip.core.adapter import Adapter
from adaptzip.core.progress import Progress
from adaptzip.fitting.requests import Request
from adaptzip.methods import REFERENCE
from adaptzip.reports.bench_results import Bench
from adaptzip.reports.benching import bench_of
from adaptzip.reports.page.subjects import Subject

_AROUND = 3.0
"""How many times smaller and larger than the files the frontier reaches."""
_SIZES = 5


@dataclass(frozen=True)
class Frontier:
    """Benches around some files.

    Attributes:
        benches: by how extras are kept, as the files keep them.
        rivals: error of the reference method at the bytes of each file, by the file's name; None where it makes none.
    """

    benches: Mapping[ExtrasMode, Bench]
    rivals: Mapping[str, float | None]


def frontier_of(
    source: str | Path | Adapter,
    request: Request,
    methods: Sequence[str],
    subjects: Sequence[Subject],
    progress: Progress,
) -> Frontier:
    """Compress a source to sizes around those of the files and to each of these, the extras kept as the files do."""
    packed = [one for one in subjects if one.source_bytes is not None]
    modes: dict[ExtrasMode, list[Subject]] = {one.extras: [] for one in packed} or {"lossless": []}
    for one in packed:
        modes[one.extras].append(one)
    benches: dict[ExtrasMode, Bench] = {}
    rivals: dict[str, float | None] = {}
    for mode, files in modes.items():
        found = bench_of(
            source,
            replace(request, extras=mode),
            # The reference stands beside whatever was asked for.
            methods=list(dict.fromkeys([REFERENCE, *methods])),
            sizes=_sizes(files),
            progress=progress,
        )
        benches[mode] = found
        errors = {point.budget: point.relative_error for point in found.points if point.method == REFERENCE}
        rivals |= {one.name: errors.get(one.bytes) for one in files}
    return Frontier(benches, rivals)


def _sizes(files: Sequence[Subject]) -> list[str]:
    """The sizes of files, and others around them; none for the usual ones."""
    if not files:
        return []
    sizes = [one.bytes for one in files]
    around = np.geomspace(min(sizes) / _AROUND, max(sizes) * _AROUND, _SIZES)
    return [f"{size}B" for size in dict.fromkeys([*sizes, *map(round, around)])]
