"""Which rank, vector length, bank size and mixture to fit: a table of predictions, and the best of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import ceil, gcd, inf, log2, sqrt

import numpy as np
from numpy.typing import NDArray

from adaptzip.core.compressed import Site
from adaptzip.core.survey import Survey
from adaptzip.errors import CheckFailedError
from adaptzip.methods._banks.codes import piece_count
from adaptzip.methods._banks.prediction import Clouds, clouds, fine_error, relative_error

Array = NDArray[np.float64]

KEPT = 12
"""Settings that are returned."""
_LENGTHS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 40, 48, 64, 80, 96, 128, 160, 192, 256)
_LEAST_DIVISOR = 4
"""Where all widths share a divisor of at least this, lengths divide all widths."""
_MIXED = (1, 2)
"""Larger mixtures are taken only when asked for: they cost more indices than they save."""
_RANKS = (*range(1, 17), 20, 24, 32, 40, 48, 64, 80, 96, 128)
_FLOORS = 24
_SIZES = 4
"""Bank sizes tried per octave where bytes count."""
_LARGEST = 2**20
_LOGIT_BYTES = 4
_PRODUCTS = 3e7
"""Pieces times vectors that a search for mixtures is taken on by itself; an explicit top_k is taken at its word."""
_BANK_ERROR = 1.25
"""What quantising the bank at `_bank_bits` does to its error."""
_ROW_BITS = 8.0
_DEFAULT_ERROR = 0.1
_SLACK = 1.3
"""Predicted errors up to this multiple of the limit are worth a fit."""


@dataclass(frozen=True)
class Setting:
    """A setting; None is open. With a floor, ranks differ between modules.

    Attributes:
        rank, length, vectors, top_k, floor: as the options of `vblora`.
        bytes, parameters, error: as predicted; error is relative, not squared.
        logits: bytes of dense logits that PEFT would need.
    """

    rank: int | None = None
    length: int | None = None
    vectors: int | None = None
    top_k: int | None = None
    floor: float | None = None
    bytes: int = 0
    parameters: int = 0
    error: float = 0.0
    logits: float = 0.0


@dataclass(frozen=True)
class Search:
    """What a setting must keep to.

    Attributes:
        parameters, bytes, error: as in `Allowance`.
        memory: bytes of dense logits.
        levels: of weights.
        uniform: whether all modules have one rank.
    """

    parameters: int | None
    bytes: int | None
    error: float | None
    memory: float
    levels: int
    uniform: bool


@dataclass(frozen=True, eq=False)
class _Ranks:
    """One choice of ranks, and what follows from it.

    Attributes:
        sites: shape and rank of every module that keeps any.
        clouds: of the components that are kept.
        kept: their share of |dW|^2.
    """

    rank: int
    floor: float | None
    sites: tuple[tuple[Site, int], ...]
    clouds: Clouds
    kept: float

    def pieces(self, length: int) -> int:
        return sum(
            rank * (piece_count(site.out, length) + piece_count(site.width, length)) for site, rank in self.sites
        )


def search(survey: Survey, wanted: Setting, floor: float | None, limits: Search) -> list[Setting]:
    """Up to `KEPT` settings within the limits, best first.

    Raises:
        CheckFailedError: if there is none; it says whether parameters, bytes, memory or the error are in the way.
    """
    sites = {name: site for name, site in survey.sites.items() if len(survey.singular[name])}
    found: list[Setting] = []
    lacking: list[Setting] = []
    for ranks in _rank_choices(survey, sites, wanted.rank, floor, limits.uniform):
        for length in (wanted.length,) if wanted.length else _lengths(sites, limits.uniform):
            fine = fine_error(ranks.clouds, length)
            for k in (wanted.top_k,) if wanted.top_k else _MIXED:
                for setting in _sizes(ranks, length, k, wanted, limits):
                    (found if _fits(setting, limits) else lacking).append(_predicted(setting, ranks, fine, limits))
    if not found:
        raise _nothing(lacking, limits)
    return _best(found, limits)


def _rank_choices(
    survey: Survey, sites: Mapping[str, Site], rank: int | None, floor: float | None, uniform: bool
) -> Iterator[_Ranks]:
    most = max(len(survey.singular[name]) for name in sites)
    if uniform:
        for one in (rank,) if rank else [r for r in _RANKS if r <= most]:
            yield _ranks(survey, sites, one, None)
        return
    cap = rank or most
    scores = np.sort(np.concatenate([_scores(survey, name, sites[name])[:cap] for name in sites]))
    places = np.unique(np.geomspace(1, len(scores), _FLOORS).round().astype(int))
    for least in (floor,) if floor is not None else scores[-places]:
        # A hair less, so that rounding never drops the component that the floor was taken from.
        yield _ranks(survey, sites, cap, float(least) * (1 - 1e-6))


def _scores(survey: Survey, name: str, site: Site) -> Array:
    """Share of |dW|^2 of each component, per number of its two rows."""
    scores: Array = np.square(survey.singular[name]) / (survey.energy * (site.out + site.width))
    return scores


def _ranks(survey: Survey, sites: Mapping[str, Site], rank: int, floor: float | None) -> _Ranks:
    kept: list[tuple[Site, int]] = []
    singular, out, width = [], [], []
    for name, site in sites.items():
        own = rank if floor is None else min(rank, int((_scores(survey, name, site) >= floor).sum()))
        if own:
            values = survey.singular[name][:own]
            kept.append((site, own))
            singular.append(values)
            out.append(np.full(len(values), float(site.out)))
            width.append(np.full(len(values), float(site.width)))
    values = np.concatenate(singular)
    found = clouds(values, np.concatenate(out), np.concatenate(width))
    share = float(np.square(values).sum()) / survey.energy
    largest = max(own for _, own in kept)
    return _Ranks(largest if floor is not None else rank, floor, tuple(kept), found, share)


def _lengths(sites: Mapping[str, Site], uniform: bool) -> list[int]:
    """Lengths that divide every width where that leaves a choice, since PEFT needs it; else all."""
    common = 0
    for site in sites.values():
        common = gcd(common, site.out, site.width)
    if uniform and common >= _LEAST_DIVISOR:
        return [length for length in _LENGTHS if common % length == 0]
    widest = max(max(site.out, site.width) for site in sites.values())
    return [length for length in _LENGTHS if length <= widest]


def _sizes(ranks: _Ranks, length: int, k: int, wanted: Setting, limits: Search) -> Iterator[Setting]:
    """Settings of one rank, length and mixture: all bank sizes worth a thought."""
    pieces = ranks.pieces(length)
    setting = Setting(ranks.rank, length, None, k, ranks.floor)
    if wanted.vectors is not None:
        sizes = {wanted.vectors} if wanted.vectors >= k else set()
    else:
        most = min(pieces, _LARGEST, int(limits.memory / (_LOGIT_BYTES * pieces)))
        if k > 1 and wanted.top_k is None:
            most = min(most, int(_PRODUCTS / pieces))
        if limits.parameters is not None:
            most = min(most, (limits.parameters - pieces * (2 * k - 1)) // length)
        least = max(2, k)
        octaves = np.arange(ceil(log2(least) * _SIZES), int(log2(max(most, 1)) * _SIZES) + 1) / _SIZES
        sizes = {max(least, most)}
        if limits.parameters is None:
            sizes |= {min(max(least, round(2**octave)), max(least, most)) for octave in octaves}
    for h in sorted(sizes):
        yield replace(
            setting,
            vectors=h,
            parameters=pieces * (2 * k - 1) + h * length,
            logits=float(_LOGIT_BYTES) * pieces * h,
        )


def _predicted(setting: Setting, ranks: _Ranks, fine: float, limits: Search) -> Setting:
    """The setting with its expected error and bytes."""
    h, length, k = setting.vectors or 1, setting.length or 1, setting.top_k or 1
    pieces = ranks.pieces(length)
    share = relative_error(fine, pieces, h, length, k)
    bits = pieces * (k * log2(h) + (k - 1) * log2(limits.levels // 2 + 1)) + h * (
        length * _bank_bits(share) + _ROW_BITS
    )
    share = min(1.0, share * _BANK_ERROR)
    squared = 1 - ranks.kept * (1 - share) ** 2
    return replace(setting, bytes=ceil(bits / 8), error=sqrt(max(squared, 0.0)))


def piece_bits(h: int, k: int, levels: int) -> float:
    """Bits of one piece's indices and weights."""
    return k * log2(h) + (k - 1) * log2(levels // 2 + 1)


def _bank_bits(share: float) -> float:
    """Bits of a number in the bank whose quantisation adds a quarter to a bank's own relative error."""
    return 1.1 + max(0.0, 0.5 * log2(1 / max(share, 1e-9)))


def _fits(setting: Setting, limits: Search) -> bool:
    return (
        setting.logits <= limits.memory
        and (limits.parameters is None or setting.parameters <= limits.parameters)
        and (setting.vectors or 0) >= (setting.top_k or 1)
    )


def _best(found: list[Setting], limits: Search) -> list[Setting]:
    """The best size of each rank, length and mixture, best first."""
    if limits.bytes is not None:
        # What is foretold of small banks is rough: whether the smallest fits shows when it is fitted.
        found = [s for s in found if s.bytes <= limits.bytes] or [min(found, key=lambda s: (s.bytes, s.error))]
    error = limits.error
    if error is None and limits.bytes is None and limits.parameters is None:
        error = max(_DEFAULT_ERROR, min(s.error for s in found))
    by_size = error is not None and min(s.error for s in found) <= error
    if error is not None:
        found = [s for s in found if s.error <= error] if by_size else _close(found, error, limits)
    best: dict[tuple[object, ...], Setting] = {}
    for setting in sorted(found, key=lambda s: (s.bytes, s.error) if by_size else (s.error, s.bytes)):
        best.setdefault((setting.rank, setting.floor, setting.length, setting.top_k), setting)
    return list(best.values())[:KEPT]


def _close(found: list[Setting], error: float, limits: Search) -> list[Setting]:
    """The settings that come nearest to an error which none is expected to reach."""
    least = min(setting.error for setting in found)
    if least > _SLACK * error:
        within = "" if limits.bytes is None and limits.parameters is None else " within the budget"
        raise CheckFailedError(
            f"relative error {error:g} cannot be reached by a bank{within}: the best setting leaves about {least:.2g}",
            hint=f"allow a larger error{' or budget' if within else ''}, leave more settings open, or use `to='svd'`",
        )
    return [setting for setting in found if setting.error <= _SLACK * error]


def _nothing(lacking: list[Setting], limits: Search) -> CheckFailedError:
    """Why no setting fits."""
    small = min((s.parameters for s in lacking), default=inf)
    if limits.parameters is not None and small > limits.parameters:
        return CheckFailedError(
            f"{limits.parameters} parameters leave no room for a bank and its indices: the smallest setting stores "
            f"{small}",
            hint=f"allow at least {small} parameters",
        )
    logits = min((s.logits for s in lacking), default=inf) / 2**30
    return CheckFailedError(
        f"PEFT would need {logits:.3g} GiB for the dense logits of the smallest setting, more than the "
        f"{limits.memory / 2**30:.3g} GiB of the option memory",
        hint=f"use a smaller rank or fewer vectors, or allow it with "
        f"`options={{'memory': {ceil(logits * 100) / 100:g}}}`",
    )
