"""Which modules are coded in their frames: those that it is expected to make smaller at the step that is foreseen."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from adaptzip.bases.frames import affordable
from adaptzip.core.progress import Progress
from adaptzip.core.survey import AnyCandidate
from adaptzip.errors import CheckFailedError
from adaptzip.fitting.candidates import fit_candidate
from adaptzip.fitting.fits import FittedAdapter
from adaptzip.fitting.job_limits import control_of
from adaptzip.fitting.requests import Job

_NEAR = 0.02
"""Frames that are expected to save less than this share are tried against none."""
_NAMED_BYTES, _PLACED_BYTES = 16, 1
"""What a file takes, about, to name a start, and to place a module in it."""
_UNSURE = 0.7
"""A file may come out smaller than foreseen, by this factor."""


def fit_framed(job: Job, candidate: AnyCandidate, progress: Progress | None = None) -> list[FittedAdapter]:
    """One setting of a method, fitted: in the frames that pay, without any, or both where that is not clear."""
    fitted = fit_candidate(job, candidate, progress)
    basis = fitted.coder.basis
    if not fitted.method.takes_frame or basis is None:
        return [fitted]
    plain = replace(job, context=replace(job.context, basis=None))
    if not fitted.profiles:
        # Zeros have no use for a frame.
        return [fit_candidate(plain, candidate, progress)]
    if job.request.budget is not None and job.request.budget.unit == "parameters":
        # Coordinates in a frame are numbers too, however few bits they take.
        return [fitted, fit_candidate(plain, candidate, progress)]
    try:
        control, limits = control_of(job, fitted, progress)
        step, ranks = control.foresee(limits)
    except CheckFailedError:
        return [fitted, fit_candidate(plain, candidate, progress)]
    useful = {name: gain for name, gain in fitted.frame_gains(step).items() if gain > _PLACED_BYTES}
    size = fitted.predict(step, ranks)[0]
    saved = _saved(useful)
    if not useful or saved < -_NEAR * size or not _affordable(fitted, useful, size - saved):
        return [fit_candidate(plain, candidate, progress)]
    if len(useful) < len(basis.modules):
        narrowed = replace(job, context=replace(job.context, basis=basis.of(useful)))
        fitted = fit_candidate(narrowed, candidate, progress)
    return [fitted] if saved > _NEAR * size else [fitted, fit_candidate(plain, candidate, progress)]


def foreseen_saving(fitted: FittedAdapter, step: float, ranks: Mapping[str, int]) -> int | None:
    """Bytes that a fit's frames are expected to save at a step and ranks, against none; None without frames."""
    # Of fits that keep little nothing can be foreseen of what training makes of them.
    kept = fitted.method.takes_frame and not fitted.method.fits_little
    framed = kept and any(site.frame for site in fitted.sites.values())
    return max(0, round(_saved(fitted.frame_gains(step, ranks)))) if framed else None


def _saved(gains: Mapping[str, float]) -> float:
    """What modules save, less what it takes to name the start and their places in it."""
    return sum(gains.values()) - _NAMED_BYTES - _PLACED_BYTES * len(gains)


def _affordable(fitted: FittedAdapter, names: Collection[str], size: float) -> bool:
    sizes = [site.frame if name in names else 0 for name, site in fitted.sites.items()]
    return affordable(sizes, fitted.sites, max(0, round(_UNSURE * size)))
