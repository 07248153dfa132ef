"""An adapter out of two checkpoints: what a tuned model is more than its base, matrix by matrix."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from adaptzip.checkpoints import resolved
from adaptzip.checkpoints._base_name import check_name
from adaptzip.core.adapter import Adapter
from adaptzip.core.calling import public
from adaptzip.core.layouts import TURNED
from adaptzip.core.progress import Progress, silent
from adaptzip.core.resizing import resized
from adaptzip.core.truncating import Truncated, is_few, truncated
from adaptzip.core.workers import on_one_core, parallel_map
from adaptzip.errors import CheckFailedError, UsageError
from adaptzip.files.hub_cache import named_by_cache
from adaptzip.models.folder import BaseModel
from adaptzip.models.hub import base_path
from adaptzip.models.names import Location
from adaptzip.restoring.exporting import DTYPES
from adaptzip.restoring.extracting.building import built, changed_wholes, factors_of
from adaptzip.restoring.extracting.differences import difference, differs, streamed
from adaptzip.restoring.extracting.pairing import Pairing, pair
from adaptzip.restoring.extracting.parts import Part
from adaptzip.restoring.extracting.pipelines import ALONE, joined, matched, with_differences
from adaptzip.restoring.extracting.telling import warn_of_missing, warn_of_narrower, warn_of_shared

Embeddings = Literal["update", "whole"]
Rank = int | Literal["full"] | None
RANK = 32
"""Most directions of a module where no limit is given."""
SPARED = 8
"""How many times smaller than the error that is allowed is what is left out before ranks are chosen for all modules."""
SHARE = 4
"""How many times the rank of equal ranks a module may have under a budget."""
_LARGE = 1 << 26
"""Numbers of a matrix that is worked on alone."""
_STREAMED = 1 << 22
"""Numbers of a matrix above which it is not kept in memory, where few of its directions are wanted."""


@dataclass(frozen=True)
class Extraction:
    """What `extraction` found.

    Attributes:
        adapter: the adapter, of PEFT's dialect, with its effects.
        error: |dW - dW'| / |dW| over all modules, measured; 0 without modules. What is kept whole has none.
        unchanged: how many tensors of the tuned model are the base's.
        missing: tensors that the base has and the tuned model lacks.
        approximate: how many modules were taken from a Krylov space and not from a whole SVD.
    """

    adapter: Adapter
    error: float
    unchanged: int
    missing: tuple[str, ...] = ()
    approximate: int = 0


@public
def extract(
    base: str | Path,
    tuned: str | Path,
    *,
    rank: Rank = None,
    max_error: float | None = None,
    embeddings: Embeddings = "update",
    dtype: Literal["float32", "float16", "bfloat16"] | None = None,
    base_name: str | None = None,
    progress: Progress = silent,
) -> Adapter:
    """The adapter that makes one model of another: what fine-tuning changed, in few directions.

    Both are read tensor by tensor. The difference of each matrix is cut to its first singular directions: by an exact
    SVD, or where few directions of a large matrix are wanted, from a Krylov space that is grown until its error is the
    SVD's within 1e-5 of it. Of two pipelines each component that a LoRA can change is compared, for one adapter
    in diffusers' names. What is no matrix, a new head, and an embedding of another vocabulary are kept as extras;
    what is the same in both is left out. Added to the base with `merge`, `rank="full"` gives the tuned model within
    rounding.

    Args:
        base: the folder of the model that was tuned, or of a pipeline.
        tuned: the folder of what became of it, with the same architecture; it may have a new head.
        rank: most directions of a module, or "full"; None is 32, or with `max_error` no limit.
        max_error: upper limit of the relative error over all modules, |dW - dW'| / |dW|, in (0, 1); ranks are chosen
            for all modules together.
        embeddings: "update" treats embeddings as other matrices, "whole" keeps changed ones as they are.
        dtype: of the factors; None is float32, float64 where a model is.
        base_name: what the adapter calls its base model; None leaves it out, but for a base of the Hub.
        progress: told how far it is (`adaptzip.core.progress.Progress`).

    Raises:
        BaseModelError: if a model cannot be read, holds NaN or infinity, or has another architecture than the other,
            naming the tensor and the nearest name.
        RefusedError: if a model is quantised, or experts are stored in a way that cannot be told apart.
        UsageError: if an argument is out of range.
        CheckFailedError: if the models are the same, or `rank` leaves more error than `max_error`.

    Warns with an AdaptzipWarning of what the base has and the tuned model lacks, of updates of embeddings that are one
    parameter, and of a tuned model in a narrower dtype.

    Example:
        >>> merged = adaptzip.merge("my-adapter", "base-model", "tuned").path
        >>> again = adaptzip.extract("base-model", merged, rank=3)
        >>> adaptzip.read("my-adapter").modules.keys() <= again.modules.keys()
        True
    """
    if max_error is not None and not 0 < max_error < 1:
        raise UsageError(f"a max_error of {max_error} was asked for, expected a number between 0 and 1")
    if rank is None and max_error is not None:
        rank = "full"
    spared = None if max_error is None else max_error / SPARED
    how: dict[str, Any] = {"embeddings": embeddings, "dtype": dtype, "base_name": base_name, "progress": progress}
    found = extraction(base, tuned, rank=rank, spared=spared, **how)
    if max_error is None:
        return found.adapter
    return resolved(resized(found.adapter, max_error=left_of(max_error, found.error)).adapter)


def left_of(max_error: float, error: float) -> float:
    """The error that may still be added to another, as their squares add up, relative to what the other left.

    Raises:
        CheckFailedError: if there is none.
    """
    if error >= max_error:
        raise CheckFailedError(
            f"the relative error is {error:.3g}, more than the {max_error:g} that were asked for",
            hint="allow a higher rank",
        )
    return math.sqrt((max_error**2 - error**2) / (1 - error**2))


def both(error: float, further: float) -> float:
    """The error of two cuts one after another, the further one relative to what the first left."""
    return math.sqrt(error**2 + further**2 * (1 - error**2))


@on_one_core()
def extraction(
    base: str | Path,
    tuned: str | Path,
    *,
    rank: Rank = None,
    spared: float | None = None,
    numbers: float | None = None,
    embeddings: Embeddings = "update",
    dtype: Literal["float32", "float16", "bfloat16"] | None = None,
    base_name: str | None = None,
    progress: Progress = silent,
) -> Extraction:
    """As `extract`, with what there is to say of it.

    Args:
        spared: relative error of each module for which it gets fewer directions than `rank`.
        numbers: how many numbers all factors will have together, where `rank` is None: no module gets more than four
            times the rank that each would have if all had the same.

    Raises:
        BaseModelError, RefusedError, UsageError, CheckFailedError: as `extract`.
    """
    limit = _limit(rank)
    if dtype is not None and dtype not in DTYPES:
        raise UsageError(f"there is no dtype {dtype!r} for factors", hint=f"known: {', '.join(DTYPES)}")
    if base_name is not None:
        check_name(base_name)
    base, tuned = base_path(base), base_path(tuned)
    if base_name is None:
        base_name = next(iter(named_by_cache(base) or ()), None)
    models = matched(base, tuned)
    pairings = {name: pair(*two, whole_embeddings=embeddings == "whole") for name, two in models.items()}
    if rank is None and numbers is not None:
        sizes = sum(sum(part.shape) for pairing in pairings.values() for part, _ in pairing.parts)
        limit = max(1, int(SHARE * numbers / max(1, sizes)))
    how = _How(limit, spared or 0.0, DTYPES.get(dtype or ""), base_name)
    found: dict[str, _Found] = {}
    total, done = sum(map(_size, pairings.values())), 0
    for name, two in models.items():
        found[name] = _found(*two, pairings[name], how, partial(_report, progress, done, total))
        done += _size(pairings[name])
    adapters = {
        name: one.adapter if name == ALONE else with_differences(one.adapter, models[name][0], pairings[name])
        for name, one in found.items()
        if one.adapter is not None
    }
    if not adapters:
        raise CheckFailedError(
            f"{tuned}: is the same model as {base}, so that there is nothing to extract",
            hint="give the base model with `base=`, and what became of it with `tuned=`",
        )
    cut = [one for each in found.values() for one in each.cut]
    energy = sum(one.energy for one in cut)
    return Extraction(
        joined(adapters, base_name),
        math.sqrt(sum(one.lost for one in cut) / energy) if energy else 0.0,
        sum(each.unchanged for each in found.values()),
        tuple(f"{name}.{tensor}".lstrip(".") for name in found for tensor in pairings[name].missing),
        sum(not one.exact for one in cut),
    )


@dataclass(frozen=True)
class _How:
    """How each model is extracted: most directions, the error that spares some, the factors' dtype, the base's name."""

    limit: int | None
    spared: float
    dtype: torch.dtype | None
    base_name: str | None


@dataclass(frozen=True, eq=False)
class _Found:
    """What one model gave: its adapter, None where it is the base; the cuts; and how many tensors are the base's."""

    adapter: Adapter | None
    cut: tuple[Truncated, ...]
    unchanged: int


def _found(base: BaseModel, tuned: BaseModel, pairing: Pairing, how: _How, report: Callable[[int], None]) -> _Found:
    warn_of_narrower(base, tuned, pairing)
    cut = dict(_cuts(base, tuned, pairing, how, report))
    modules = factors_of(pairing, cut)
    wholes = changed_wholes(base, tuned, pairing)
    changed = {part.place.tensor for part, _ in pairing.parts if part.name in cut} | wholes.keys()
    unchanged = len(tuned.tensors.keys() - changed)
    if not modules and not wholes:
        return _Found(None, (), unchanged)
    adapter = built(tuned, pairing, modules, wholes, how.base_name)
    warn_of_missing(pairing)
    warn_of_shared(base, pairing, adapter)
    return _Found(adapter, tuple(cut.values()), unchanged)


def _report(progress: Progress, before: int, total: int, numbers: int) -> None:
    progress("extracting", before + numbers, total)


def _size(pairing: Pairing) -> int:
    """Numbers of all modules."""
    return sum(part.size for part, _ in pairing.parts)


def _limit(rank: Rank) -> int | None:
    if rank == "full":
        return None
    if rank is not None and rank < 1:
        raise UsageError(f"a rank of {rank} was asked for, expected at least 1, or full")
    return RANK if rank is None else rank


def _cuts(
    base: BaseModel, tuned: BaseModel, pairing: Pairing, how: _How, report: Callable[[int], None]
) -> Iterator[tuple[str, Truncated]]:
    """The changed modules, the largest first and alone, so that as little as possible is in memory.

    `report` is called with how many numbers are done.
    """
    rank, spared, dtype = how.limit, how.spared, how.dtype

    def cut(item: tuple[Part, tuple[Location, ...]]) -> Truncated | None:
        part, places = item
        rows = streamed(tuned, base, *item) if part.size > _STREAMED and is_few(rank, part.shape) else None
        if rows is not None:
            if not differs(tuned, base, part, places[0], rows):
                return None
            found = truncated(rows, rank, most_lost=spared, dtype=dtype or rows.dtype)
            return found.turned() if part.layout in TURNED else found
        delta = difference(tuned, base, *item)
        return None if delta is None else truncated(delta, rank, most_lost=spared, dtype=dtype or delta.dtype)

    parts = sorted(pairing.parts, key=lambda item: -item[0].size)
    large = sum(part.size > _LARGE for part, _ in parts)
    done = 0
    for some, most in ((parts[:large], 1), (parts[large:], None)):
        for (part, _), found in zip(some, parallel_map(cut, some, most=most), strict=True):
            done += part.size
            report(done)
            if found is not None:
                yield part.name, found
