"""The first look at a fleet: what each adapter changes, how strongly, and a sketch of where its update lies."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adaptzip.bases.streaming import Components
from adaptzip.bases.updates import components, energies_of, weight_of
from adaptzip.core.adapter import Adapter
from adaptzip.core.workers import on_one_core
from adaptzip.errors import AdaptzipError
from adaptzip.fitting.loading import load_source
from adaptzip.fitting.requests import Request
from adaptzip.fleet.runs import Json, Run, Stage
from adaptzip.fleet.sources import Source
from adaptzip.restoring.reading import read

STAGE = "scan"
BATCH = 32
"""Adapters of a task."""
_MODULES = 8
"""Modules that a sketch looks at, evenly spread over the sorted names."""
_WIDTH = 6
"""Random signs' vectors that each side of a module is multiplied with."""


def stage(run: Run) -> Stage:
    """Look at every adapter."""
    return Stage(STAGE, f"{__name__}:scan", batches(len(run.plan.sources), BATCH))


def batches(count: int, size: int) -> list[dict[str, int]]:
    """The payloads of tasks that take so many adapters each."""
    return [{"first": first, "last": min(first + size, count)} for first in range(0, count, size)]


@on_one_core()
def scan(run: Run, payload: Json) -> Json:
    """The rows of a batch of adapters: {"error": ...} for one that cannot be read, and of any other its base, shapes,
    |dW|^2 by module, what it is multiplied by to have |dW| = 1, and its sketch."""
    return {"rows": [_row(run, source) for source in run.plan.sources[payload["first"] : payload["last"]]]}


def rows_of(run: Run) -> Iterator[Json]:
    """The rows of all adapters, in the order of the sources."""
    for number in range(len(batches(len(run.plan.sources), BATCH))):
        yield from run.fresh(STAGE, number)["rows"]


def failures_in(run: Run) -> dict[int, Json]:
    """What is wrong with adapters that cannot be read, by their places."""
    return {place: row["error"] for place, row in enumerate(rows_of(run)) if "error" in row}


def read_source(run: Run, source: Source) -> Adapter:
    """An adapter of the fleet.

    Raises:
        AdaptzipError, OSError: if it cannot be read.
    """
    return read(source.path, base=run.plan.settings["base"])


def sketch_of(row: Json) -> NDArray[np.float64]:
    """The sketch in a row: numbers whose products tell how far two adapters' updates lie in common directions."""
    return np.frombuffer(base64.b64decode(row["sketch"]), "<f2").astype(np.float64)


def failure_of(error: Exception) -> dict[str, Any]:
    """What went wrong with one adapter, as JSON values."""
    hint = error.hint if isinstance(error, AdaptzipError) else None
    code = error.exit_code if isinstance(error, AdaptzipError) else 2
    return {"message": str(error), "hint": hint, "exit_code": code, "kind": type(error).__name__}


def _row(run: Run, source: Source) -> Json:
    try:
        # What could not be compressed takes no part.
        adapter = load_source(source.path, Request(effort="fast", base=run.plan.settings["base"])).adapter
    except (AdaptzipError, OSError) as error:
        return {"error": failure_of(error)}
    found = components(adapter.modules)
    energies = energies_of(found)
    return {
        "base": adapter.meta.base_model,
        "shapes": {name: list(module.shape) for name, module in sorted(adapter.modules.items())},
        "energies": energies,
        "weight": weight_of(energies),
        "sketch": base64.b64encode(_sketch(adapter, found, weight_of(energies)).astype("<f2").tobytes()).decode(),
    }


def _sketch(adapter: Adapter, updates: Mapping[str, Components], weight: float) -> NDArray[np.float64]:
    """For some modules and both sides, S^T X X^T S without its diagonal's mean, for X the update of an adapter of
    |dW| = 1 and S random signs: products of two such are, but for chance, those of X X^T."""
    parts = []
    for name in _spread(sorted(adapter.modules)):
        for place, side in ((0, "U"), (2, "V")):
            gram = np.zeros((_WIDTH, _WIDTH))
            if name in updates:
                vectors = updates[name][place] * (updates[name][1] * weight)
                seen = vectors.T.numpy() @ _signs(f"{side} {name}", len(vectors))
                gram = seen.T @ seen
                gram -= np.eye(_WIDTH) * gram.trace() / _WIDTH
            parts.append(gram[np.triu_indices(_WIDTH)])
    return np.concatenate(parts) if parts else np.zeros(0)


def _spread(names: Sequence[str]) -> list[str]:
    places = np.linspace(0, len(names) - 1, min(_MODULES, len(names))).round().astype(int)
    return [names[place] for place in places]


def _signs(what: str, length: int) -> NDArray[np.float64]:
    """Signs (length, `_WIDTH`) that are the same wherever the same is asked for."""
    seed = int.from_bytes(hashlib.sha256(what.encode()).digest()[:8], "little")
    signs: NDArray[np.float64] = np.random.Generator(np.random.PCG64(seed)).choice([-1.0, 1.0], (length, _WIDTH))
    return signs
