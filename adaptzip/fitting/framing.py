"""Which modules are coded in their frames: those that it is expected to make smaller at the step that is foreseen.

Of a basis that adapters share each module takes the first directions, as many as are expected to pay, and all modules
take them on one side or on both.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from adaptzip.bases.frames import affordable
from adaptzip.core.basis import Basis
from adaptzip.core.method import FrameShape, Profile
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
_TIMES = 2
"""Frames change the step that is foreseen, and the step which of them pay."""
_UNSURE = 0.5
"""A file may come out smaller than foreseen, by this factor."""


@dataclass(frozen=True)
class _Frames:
    """What modules are coded in: on how many sides, how many directions each, and the bytes that this saves."""

    sides: int
    sizes: Mapping[str, int]
    saved: float


def fit_framed(job: Job, candidate: AnyCandidate, progress: Progress | None = None) -> list[FittedAdapter]:
    """One setting of a method, fitted: in the frames that pay, without any, or both where that is not clear."""
    basis = job.context.basis
    if not job.method.takes_frame or basis is None:
        return [fit_candidate(job, candidate, progress)]
    whole = fit_candidate(job, _on_sides(job, candidate, 2 if _of_outputs(basis) else 1), progress)
    plain = replace(job, context=replace(job.context, basis=None))
    if not whole.profiles:
        # Zeros have no use for a frame.
        return [fit_candidate(plain, candidate, progress)]
    if job.request.budget is not None and job.request.budget.unit == "parameters":
        # Coordinates in a frame are numbers too, however few bits they take.
        return [whole, fit_candidate(plain, candidate, progress)]
    frames, fitted, step = _Frames(0, {}, 0.0), whole, 0.0
    for _ in range(_TIMES):
        try:
            control, limits = control_of(job, fitted, progress)
            step, _ = control.foresee(limits)
        except CheckFailedError:
            return [fitted, fit_candidate(plain, candidate, progress)]
        before, frames = frames, _best_frames(job, candidate, whole, basis, step)
        if not frames.sizes:
            return [fit_candidate(plain, candidate, progress)]
        if (frames.sides, frames.sizes) == (before.sides, before.sizes):
            break
        fitted = _in(frames, job, candidate, whole, progress)
    size = fitted.foresee(step)[0]
    if frames.saved < -_NEAR * size or not _affordable(fitted, basis, size):
        return [fit_candidate(plain, candidate, progress)]
    return [fitted] if frames.saved > _NEAR * size else [fitted, fit_candidate(plain, candidate, progress)]


def _in(
    frames: _Frames, job: Job, candidate: AnyCandidate, whole: FittedAdapter, progress: Progress | None
) -> FittedAdapter:
    """A setting fitted in these frames, of those that `whole` was fitted in."""
    basis = whole.coder.basis
    assert basis is not None
    sizes = {name: module.size for name, module in basis.modules.items()}
    if (frames.sides, frames.sizes) == (whole.method.frame_sides(whole.config), sizes):
        return whole
    narrowed = replace(job, context=replace(job.context, basis=basis.cut(frames.sizes)))
    return fit_candidate(narrowed, _on_sides(job, candidate, frames.sides), progress)


def _on_sides(job: Job, candidate: AnyCandidate, sides: int) -> AnyCandidate:
    return replace(candidate, config=job.method.with_sides(candidate.config, sides))


def _of_outputs(basis: Basis) -> bool:
    """Whether directions of outputs are known."""
    return all(module.both for module in basis.modules.values())


def _best_frames(job: Job, candidate: AnyCandidate, fitted: FittedAdapter, basis: Basis, step: float) -> _Frames:
    """The frames of modules that are expected to save most at a step."""
    names: list[str] = []
    shapes: list[FrameShape] = []
    profiles: list[Profile] = []
    for name, profile in fitted.profiles.items():
        size = fitted.sites[name].frame
        for shape, one in job.method.narrower(profile, size).items() if size else ():
            # Only an artefact's directions come in the order of what they are worth.
            if shape.size == size or basis.reference.source == "file":
                names.append(name)
                shapes.append(shape)
                profiles.append(one)
    gains = (job.method.foresight(profiles).frame_gains(step) / 8).tolist()
    best: dict[int, dict[str, tuple[float, int]]] = {}
    for name, shape, gain in zip(names, shapes, gains, strict=True):
        of = best.setdefault(shape.sides, {})
        if gain > of.get(name, (_PLACED_BYTES, 0))[0]:
            of[name] = gain, shape.size
    found = [
        _Frames(sides, {n: size for n, (_, size) in of.items()}, _saved([gain for gain, _ in of.values()]))
        for sides, of in best.items()
        if job.method.frame_sides(_on_sides(job, candidate, sides).config) == sides
    ]
    return max(found, key=lambda frames: frames.saved, default=_Frames(1, {}, 0.0))


def foreseen_saving(fitted: FittedAdapter, step: float, ranks: Mapping[str, int]) -> int | None:
    """Bytes that a fit's frames are expected to save at a step and ranks, against none; None without frames."""
    # Of fits that keep little nothing can be foreseen of what training makes of them.
    kept = fitted.method.takes_frame and not fitted.method.fits_little
    framed = kept and any(site.frame for site in fitted.sites.values())
    return max(0, round(_saved(fitted.frame_gains(step, ranks).values()))) if framed else None


def _saved(gains: Collection[float]) -> float:
    """What modules save, less what it takes to name the start and their places in it."""
    return sum(gains) - _NAMED_BYTES - _PLACED_BYTES * len(gains)


def _affordable(fitted: FittedAdapter, frames: Basis, size: float) -> bool:
    sizes = [site.frame for site in fitted.sites.values()]
    sides = fitted.method.frame_sides(fitted.config)
    return affordable(sizes, fitted.sites, round(_UNSURE * size), frames.reference.source, sides)
