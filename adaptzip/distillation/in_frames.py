"""Students in frames: components whose in-vectors are coordinates among known directions, and nothing else.

What a method stores of in-vectors outside a module's frame is moved everywhere by training, and each number of it costs
bits. Where bytes are few, it does better to leave that part at zero: many more components then take as many numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from heapq import heapify, heappop, heappush

import torch
from torch import Tensor

from adaptzip.adz.coding.coders import AnyCoder
from adaptzip.bases.frames import affordable
from adaptzip.core.survey import AnyCandidate, Candidate
from adaptzip.distillation.tensors import Place, Tensors
from adaptzip.distillation.trainable import as_trainable
from adaptzip.fitting.candidates import candidates, fit_candidate
from adaptzip.fitting.fits import FittedAdapter
from adaptzip.fitting.requests import Job

_BITS = 1.0
"""What a number takes, about (measured: 0.6 and 1.1 are nearly as good as each other)."""
_SHARE = 0.6
"""Frames are kept to where the numbers are fewer than this share of one component of every module (measured: at 0.4 it
does better than leaving them, at 0.9 worse)."""
_UNSURE = 0.7
"""Blocks may come out smaller than the room for them, by this factor."""


@dataclass(frozen=True, eq=False)
class InFrames:
    """A fit in frames, and the ranks that fill a room there."""

    fitted: FittedAdapter
    ranks: dict[str, int]


def as_fitted(job: Job, fitted: FittedAdapter) -> tuple[Job, AnyCandidate]:
    """What students in frames are fitted by: of a basis that adapters share what a fit took, else all that is known.

    Modules that the fit left out take as many directions as any that it did not.
    """
    basis, taken = job.context.basis, fitted.coder.basis
    if basis is None or basis.reference.source != "file":
        return job, candidates(job)[0]
    if taken is not None:
        sizes = {name: min(module.size, taken.reference.size) for name, module in basis.modules.items()}
        taken = basis.cut(sizes | {name: module.size for name, module in taken.modules.items()})
    return replace(job, context=replace(job.context, basis=taken)), Candidate(fitted.config)


def in_frames(job: Job, candidate: AnyCandidate, room: int) -> InFrames | None:
    """A fit whose components are chosen by what they keep within their frames.

    None where there are no frames, nothing is stored outside them anyway, or so much room that leaving them pays.

    Args:
        room: bytes for blocks.
    """
    basis = job.context.basis
    if (
        not as_trainable(job.method).rests(candidate.config)
        or basis is None
        or job.request.allocate is not None
        or job.request.ranks is not None
    ):
        return None
    whole = fit_candidate(job, candidate)
    numbers = 8 * room / _BITS
    if numbers > _SHARE * sum(_cost(whole, name) for name in whole.profiles):
        return None
    ranks = best_within(whole, numbers)
    sizes = [site.frame if name in ranks else 0 for name, site in whole.sites.items()]
    sides, source = whole.method.frame_sides(whole.config), basis.reference.source
    if not any(sizes) or not affordable(sizes, whole.sites, round(_UNSURE * room), source, sides):
        return None
    narrowed = replace(job, context=replace(job.context, basis=basis.of(ranks)))
    return InFrames(fit_candidate(narrowed, candidate), ranks)


def best_within(fitted: FittedAdapter, numbers: float) -> dict[str, int]:
    """The ranks of components that keep most energy per stored number, of so many numbers at most.

    A component of a module without a frame counts whole, with all of its numbers.
    """
    kept = {name: fitted.method.kept_in_frame(profile) for name, profile in fitted.profiles.items()}
    costs = {name: _cost(fitted, name) for name in kept}
    ranks = dict.fromkeys(kept, 0)
    queue = [(-energies[0] / costs[name], name) for name, energies in kept.items() if energies]
    heapify(queue)
    while queue:
        _, name = heappop(queue)
        if costs[name] > numbers:
            continue
        numbers -= costs[name]
        ranks[name] += 1
        if ranks[name] < len(kept[name]):
            heappush(queue, (-kept[name][ranks[name]] / costs[name], name))
    return {name: rank for name, rank in ranks.items() if rank}


def _cost(fitted: FittedAdapter, name: str) -> int:
    """Numbers of one component that is not outside the frame."""
    site = fitted.sites[name]
    rests = as_trainable(fitted.method).rests(fitted.config) if site.frame else ()
    return sum(spec.numbers for spec in fitted.method.layout(site, 1, fitted.config) if spec.role not in rests)


def held_in_frames(coder: AnyCoder, tensors: Tensors) -> Tensors:
    """The tensors with zero outside the frames, where they stay so."""
    zeros = {place: torch.zeros_like(tensor) for place, tensor in _outside(coder, tensors)}
    return replace(tensors.replaced(zeros), held=frozenset(zeros))


def still_in_frames(coder: AnyCoder, tensors: Tensors) -> Tensors:
    """A file's tensors; those outside a frame that are all zero stay so."""
    return replace(tensors, held=frozenset(place for place, tensor in _outside(coder, tensors) if not tensor.any()))


def _outside(coder: AnyCoder, tensors: Tensors) -> list[tuple[Place, Tensor]]:
    rests = as_trainable(coder.method).rests(coder.config)
    return [(p, t) for p, t in tensors.items() if p[1] in rests and p[0] and coder.sites[p[0]].frame]
