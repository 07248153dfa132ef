"""Finding which random numbers an adapter's A began with, from the adapter alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import torch

from adaptzip.bases.starts.candidates import Candidate, candidates, likely_first
from adaptzip.bases.starts.correlating import LONGEST, Spectrum
from adaptzip.bases.starts.found import POPULAR, FoundStart
from adaptzip.bases.starts.generators import MLX, NORMAL, UNIFORM, Place, matrices, within_limits
from adaptzip.bases.starts.keys import place_keys
from adaptzip.bases.starts.placing import AT_ONCE, SURE, furthest, place_all, score, strongest
from adaptzip.bases.starts.streams import CHUNK, Stream
from adaptzip.core.adapter import LoraFactors
from adaptzip.core.workers import on_one_core, parallel_map

LEAST_CORRELATION = 0.15
"""Modules that are less like their first values are left out: knowing these saves nothing."""
_LOOKED_AT = 3 * AT_ONCE
_MOST_POPULAR = 4
"""Seeds in whose streams all of these modules are looked for; in those of others, as many as go into one look."""


_WINDOW = CHUNK // 4
"""Numbers of a stream that are looked through together, few enough for little memory."""
_ALONE = 2
"""Seeds that are tried one after another; the rest are tried side by side."""


@on_one_core()
def find_start(
    modules: Mapping[str, LoraFactors], seeds: Sequence[int] = POPULAR, draws: int = CHUNK
) -> FoundStart | None:
    """The start of an adapter, if its generator was seeded with one of some seeds and had drawn little before.

    Takes 20 ms of processor time for each seed and million draws, and nothing where no A looks like a start.

    Args:
        modules: of an adapter; those that are too wide or small, zero, or alike no start are left out.
        seeds: to try, in this order; the first that fits is taken.
        draws: numbers of the stream among which the first modules are looked for.

    Returns:
        The start and where each module is in it; None if it was not found.
    """
    found = candidates(modules)
    first = likely_first(found, _LOOKED_AT)
    looks = {generator: [one for one in first if generator in one.looks()] for generator in (UNIFORM, NORMAL)}
    if not any(looks.values()):
        return None
    few = {generator: likely[:AT_ONCE] for generator, likely in looks.items()}

    def hit(one: tuple[int, int]) -> _Hit | None:
        return _hit(one[1], looks if one[0] < _MOST_POPULAR else few, draws)

    ranked = list(enumerate(seeds))
    # Most adapters that have a start have one of the first seeds', which are not worth looking further meanwhile.
    for one in chain(map(hit, ranked[:_ALONE]), parallel_map(hit, ranked[_ALONE:])):
        if one is not None:
            kind = _kind(one.stream, one.module, one.at)
            placed = place_all(one.seed, one.stream, kind, found, one.module, one.at)
            return _judged(modules, kind, one.seed, placed)
    if looks[UNIFORM] and (keyed := place_keys(found, looks[UNIFORM], seeds)) is not None:
        return _judged(modules, MLX, *keyed)
    return None


def start_at(modules: Mapping[str, LoraFactors], seed: int, offset: int) -> FoundStart | None:
    """The start of an adapter of which some module begins at a number of a seed's stream, and the others by it.

    Args:
        offset: numbers before the A of any one module, as `Place` counts them in MT19937's stream.

    Returns:
        As `find_start`; None also where the offset is further on than any reader goes.
    """
    found = candidates(modules)
    if offset > furthest(found):
        return None
    for generator in (UNIFORM, NORMAL):
        stream = Stream(seed)
        scores = [score(stream, generator, one, offset, len(one.probe)) for one in found]
        best = max(range(len(found)), key=lambda k: scores[k], default=None)
        if best is not None and scores[best] > SURE:
            kind = _kind(stream, found[best], offset)
            return _judged(modules, kind, seed, place_all(seed, stream, kind, found, found[best], offset))
    return None


def measured(
    modules: Mapping[str, LoraFactors], generator: str, seed: int, places: Mapping[str, Place]
) -> FoundStart | None:
    """A start with every module's correlation; None if no module is left.

    Modules that have hardly any are left out, and those that are too far on for a reader.

    Args:
        places: of modules that there are, and of the shapes of their A.

    Raises:
        FormatError: as `check_start`, but for what is too far on.
    """
    correlations = {}
    for name, numbers in matrices(generator, seed, within_limits(generator, places)):
        A, whole = modules[name].A.detach().to("cpu", torch.float32), torch.from_numpy(numbers).float()
        lengths = torch.linalg.norm(A) * torch.linalg.norm(whole)
        correlation = abs(float((A * whole).sum(dtype=torch.float64) / lengths))
        correlations[name] = min(correlation, 1.0)  # NaN, of an A of zeros, stays one.
    alike = sorted(name for name, value in correlations.items() if value >= LEAST_CORRELATION)
    kept = within_limits(generator, {name: places[name] for name in alike})
    return FoundStart(generator, seed, kept, {name: correlations[name] for name in kept}) if kept else None


def _judged(
    modules: Mapping[str, LoraFactors], generator: str, seed: int, placed: Mapping[Candidate, int]
) -> FoundStart | None:
    places = {name: Place(offset, *one.A.shape) for one, offset in placed.items() for name in one.names}
    return measured(modules, generator, seed, places)


@dataclass(frozen=True, eq=False)
class _Hit:
    """A module in a seed's stream, and where it is."""

    seed: int
    stream: Stream
    module: Candidate
    at: int


def _hit(seed: int, looks: Mapping[str, Sequence[Candidate]], draws: int) -> _Hit | None:
    """Any module among the first numbers of a seed's stream, by the generators that each may have begun with."""
    stream = Stream(seed, draws)
    for generator, likely in looks.items():
        if (found := _first_hit(stream, generator, likely, draws)) is not None:
            return _Hit(seed, stream, *found)
    return None


def _first_hit(stream: Stream, generator: str, likely: Sequence[Candidate], draws: int) -> tuple[Candidate, int] | None:
    """Any module among the first numbers of a stream, and where it is."""
    for first in range(0, draws, _WINDOW) if likely else ():
        # Beyond the last number nothing is drawn.
        signal = stream.signal(generator, first, min(_WINDOW + LONGEST, draws - first))
        if signal is None:
            return None
        spectrum = Spectrum(signal)
        for group in _groups(likely):
            if (hit := strongest(stream, generator, group, spectrum, first)) is not None:
                return hit
    return None


def _kind(stream: Stream, one: Candidate, at: int) -> str:
    """The generator that fits better there: uniform and normal numbers from the same outputs go together by half."""
    return max((UNIFORM, NORMAL), key=lambda generator: score(stream, generator, one, at, len(one.probe)))


def _groups(likely: Sequence[Candidate]) -> Iterator[Sequence[Candidate]]:
    for start in range(0, len(likely), AT_ONCE):
        yield likely[start : start + AT_ONCE]
