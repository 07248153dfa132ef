"""A method's settings for a job: candidates, and ranks that have to be known before the fit."""

from __future__ import annotations

from dataclasses import fields, replace
from math import inf

import numpy as np

from adaptzip.adz.container import writer
from adaptzip.core.compressed import Compressed
from adaptzip.core.progress import Progress
from adaptzip.core.survey import Allowance, AnyCandidate, Candidate, Survey
from adaptzip.errors import UsageError
from adaptzip.fitting.allocation import Ranks, paths, pick_best
from adaptzip.fitting.assembly import assemble, stored_options
from adaptzip.fitting.fit_adapter import fit_adapter
from adaptzip.fitting.fits import NOTHING_CODED, FittedAdapter
from adaptzip.fitting.requests import Job
from adaptzip.fitting.surveys import framed_sites
from adaptzip.methods import REFERENCE, load_fittable

_STEP = 0.12345678
_NUMBER = 12345
_BLOCK = 300
"""A step, a number and a block's length that take about as much room as any."""
_ROUNDING = 4
"""Bytes of a block beyond its numbers' bits: it ends on a whole word, and says its rank. Blocks without numbers are
of a group, where they take next to nothing."""


def candidates(job: Job, aim: float = 1.0) -> list[AnyCandidate]:
    """Settings worth fitting, best first; for a share `aim` of the error that the request allows."""
    if job.survey is None or _settled(job):
        return [Candidate(job.config)]
    allowance = _allowance(job)
    if allowance.error is not None:
        allowance = replace(allowance, error=allowance.error * aim)
    return list(job.method.candidates(job.survey, job.config, allowance))


def smallest(job: Job) -> list[AnyCandidate]:
    """The setting that is expected to take the fewest bytes, of methods that choose by bytes; else as `candidates`."""
    if job.survey is None or _settled(job):
        return [Candidate(job.config)]
    allowance = _allowance(job)
    least = 1 if allowance.bytes is not None else None
    return list(job.method.candidates(job.survey, job.config, replace(allowance, bytes=least)))


def _settled(job: Job) -> bool:
    """Whether nothing is to be chosen: there is no update, or a bank says it all."""
    return job.context.bank is not None or job.survey is None or not any(map(len, job.survey.singular.values()))


def with_ranks(job: Job) -> Job:
    """The job with the ranks that the request or an allocation sets, for methods that fit ranks and all at once."""
    if not job.fixed_ranks or job.survey is None:
        return job
    if job.request.ranks is not None:
        return _cut(job, job.survey, dict(job.request.ranks))
    if job.request.allocate is None:
        return job
    survey, allowance = job.survey, _allowance(job)
    energy = survey.energy
    units = {name: np.square(values).tolist() for name, values in survey.singular.items()}

    def cost(ranks: Ranks) -> float:
        cut = _cut_survey(survey, ranks)
        best = next(iter(job.method.candidates(cut, job.config, allowance)), None)
        if best is None or best.error is None or best.bytes is None:
            raise UsageError(f"method {job.method.name!r} can't allocate ranks", hint="leave `allocate=` out")
        if allowance.bytes is not None and best.bytes > allowance.bytes:
            return inf
        lost = 1 - cut.energy / energy
        return best.bytes if allowance.error is not None else lost + (1 - lost) * best.error**2

    return _cut(job, survey, pick_best(paths(job.request.allocate, units, job.source.importance), cost))


def _cut(job: Job, survey: Survey, ranks: Ranks) -> Job:
    every = {name: ranks.get(name, 0) for name in survey.sites}
    return replace(job, survey=_cut_survey(survey, every), context=replace(job.context, ranks=every))


def _cut_survey(survey: Survey, ranks: Ranks) -> Survey:
    return replace(survey, singular={name: values[: ranks.get(name, 0)] for name, values in survey.singular.items()})


def _allowance(job: Job) -> Allowance:
    limit = job.request.budget
    size = None if limit is None else limit.bytes_for(job.source.bytes)
    if size is not None:
        # Whether anything fits is certain after a fit alone.
        size = max(1, size - bare_size(job))
    parameters = int(limit.amount) if limit is not None and limit.unit == "parameters" else None
    return Allowance(parameters, size, job.request.max_error)


def bare_size(job: Job) -> int:
    """Bytes of a file besides what blocks are expected to take, before settings and ranks are known; about.

    Every open option is taken for a number that has to be written, every module that is not zero for one that is kept.
    """
    empty, survey = empty_file(job), job.survey or Survey({}, {})
    kept = sum(len(survey.singular[name]) > 0 for name in survey.sites)
    open_options = {f.name: _NUMBER for f in fields(job.config) if getattr(job.config, f.name) is None}
    file = replace(
        empty,
        config={**empty.config, **open_options},
        chunks=(),
        grouped=bytes(_BLOCK),
        shared=bytes(_BLOCK) if job.method.shared_roles and not job.outside_bank else b"",
        provenance=replace(empty.provenance, parameters=_NUMBER),
    )
    own = _ROUNDING * kept if job.method.roles else 0
    return writer.size(file) - file.payload_bytes + own


def empty_file(job: Job) -> Compressed:
    """The file without any module."""
    reference = load_fittable(REFERENCE)
    bare = fit_adapter(reference, reference.config_type(), replace(job.adapter, modules={}), job.context)
    sites = framed_sites(job.adapter, job.method, job.context)
    fitted = replace(bare, coder=replace(bare.coder, sites=sites))
    empty = assemble(job, fitted, _STEP, NOTHING_CODED, _STEP)
    return replace(empty, method=job.method.name, config=stored_options(job.config))


def fit_candidate(job: Job, candidate: AnyCandidate, progress: Progress | None = None) -> FittedAdapter:
    """Fit one setting of a method."""
    return fit_adapter(job.method, candidate.config, job.adapter, job.context, survey=job.survey, progress=progress)
