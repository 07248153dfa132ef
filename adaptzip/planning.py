"""What compressing would give, before anything is written: predictions, and the choice between methods."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import sqrt
from pathlib import Path
from typing import Any

from adaptzip.adapter import Adapter
from adaptzip.assembly import file_size, settled
from adaptzip.compression import Made, control_of, fit_candidate, run
from adaptzip.errors import CheckFailedError, RefusedError
from adaptzip.fitting import NOTHING_CODED, Progress
from adaptzip.jobs import Job, Request, Source, load_source, prepare_job
from adaptzip.methods import names
from adaptzip.settings import candidates, with_ranks


@dataclass(frozen=True)
class Plan:
    """What compressing would give, predicted without coding anything.

    Attributes:
        method: its name.
        options: the method's options, settled.
        bytes: of the whole file.
        parameters: stored numbers, extras not counted.
        relative_error: |dW - dW'| / |dW|, weighted where there is calibration.
        ranks: rank of each module that is kept.
    """

    method: str
    options: Mapping[str, Any]
    bytes: int
    source_bytes: int
    parameters: int
    relative_error: float
    ranks: Mapping[str, int]


def plan(source: str | Path | Adapter, request: Request, progress: Progress | None = None) -> Plan:
    """What `compress` with the same request would give, from the method's own model; nothing is coded.

    Raises:
        CheckpointError, RefusedError, UsageError, CheckFailedError: as `compress`.
    """
    job = prepare_job(load_source(source, request), request)
    return foresee(job, progress)


def foresee(job: Job, progress: Progress | None = None) -> Plan:
    """The plan of a job's best candidate."""
    job = with_ranks(job)
    fitted = fit_candidate(job, candidates(job)[0], progress)
    if not fitted.profiles:
        size = file_size(job, fitted, 0.0, NOTHING_CODED, 0.0)
        return Plan(job.method.name, settled(fitted.config), size, job.source.bytes, 0, 0.0, {})
    control, limits = control_of(job, fitted)
    step, ranks = control.foresee(limits)
    coded, error = fitted.predict(step, ranks)
    return Plan(
        method=job.method.name,
        options=settled(fitted.config),
        bytes=control.foreseen_size(coded, ranks),
        source_bytes=job.source.bytes,
        parameters=fitted.shared_numbers + sum(fitted.numbers(name, rank) for name, rank in ranks.items()),
        relative_error=sqrt(error / fitted.energy),
        ranks=ranks,
    )


def choose(source: Source, request: Request, progress: Progress | None = None) -> Made:
    """Whichever method gives the smallest error, or for an error the smallest file, at its true size.

    Raises:
        CheckFailedError: if none meets the limits.
    """
    made: list[Made] = []
    failure: CheckFailedError | None = None
    for name in names():
        try:
            made.append(run(prepare_job(source, replace(request, to=name)), progress))
        except RefusedError:
            continue
        except CheckFailedError as error:
            failure = failure or error
    if not made:
        raise failure or CheckFailedError("no method can represent this adapter", hint="`adaptzip inspect` shows why")
    by_size = request.max_error is not None
    return min(made, key=lambda m: (m.size, m.error) if by_size else (m.error, m.size))
