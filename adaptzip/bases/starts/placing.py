"""Where every module is in a stream, once one is found: its neighbours first, where the libraries' recipes put them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adaptzip.bases.starts.candidates import Candidate
from adaptzip.bases.starts.correlating import LONGEST, Spectrum, together
from adaptzip.bases.starts.generators import BLOCK, DRAWS_EACH, FREE_DRAWS, NORMAL
from adaptzip.bases.starts.streams import CHUNK, Stream

SURE = 7.5
"""Deviations above chance at which a place is believed: 1e-13, of the 1e9 or so that are looked at."""
MAYBE = 5.6
"""And at which one is worth a closer look."""
AT_ONCE = 8
_NEIGHBOUR = 2048
_MOST_SPECTRA = 256
_MOST_SIZES = 6

Recipe = Callable[[Candidate], int]


def _layers(one: Candidate) -> int:
    return one.size + one.out * one.A.shape[0]


RECIPES: tuple[Recipe, ...] = (
    _layers,
    lambda one: 0,
    lambda one: _layers(one) + one.out,
    lambda one: _layers(one) + one.out * one.A.shape[1],
    lambda one: _layers(one) + one.out * (one.A.shape[1] + 1),
)
"""Numbers that are drawn between one module's A and the next: PEFT and LyCORIS make A and B as layers, which draw, and
then fill A; experts' A are parts of one; a bias of B draws too; and cloneofsimo makes the linear layer itself again,
without or with its bias."""


@dataclass
class Walk:
    """Modules placed and yet to place along one stream; remembers both, and how many spectra it may still take."""

    stream: Stream
    generator: str
    rest: list[Candidate]
    placed: dict[Candidate, int]
    most: int
    recipes: list[Recipe]
    spectra: int = _MOST_SPECTRA

    def end(self, one: Candidate) -> int:
        """The first number after a placed module."""
        return self.placed[one] + self.drawn(one)

    def drawn(self, one: Candidate) -> int:
        """Numbers that the tensor itself takes."""
        return one.size + (BLOCK if self.generator == NORMAL and one.size % BLOCK else 0)

    def gaps(self, recipe: Recipe) -> list[int]:
        """Numbers that modules between two others may have drawn: none, one or two that are not to be found."""
        if not self.rest:
            return []
        sizes = sorted({recipe(one) + self.drawn(one) for one in (*self.placed, *self.rest)})[:_MOST_SIZES]
        if recipe is not self.recipes[0]:
            return [0]
        return [0, *sorted({*sizes, *(a + b for a in sizes for b in sizes)})]

    def place(self, one: Candidate, at: int) -> None:
        """Note where a module is."""
        self.placed[one] = at
        self.rest.remove(one)


def place_all(
    seed: int, stream: Stream, generator: str, found: Sequence[Candidate], first: Candidate, at: int
) -> dict[Candidate, int]:
    """The offsets of all that can be placed, given that of one."""
    rest = [one for one in found if one is not first]
    walk = Walk(stream, generator, rest, {first: at}, furthest(found), list(RECIPES))
    _both_ways(walk, first)
    _onwards(walk, at + CHUNK + 5 * sum(one.size + _layers(one) for one in found) // 4)
    if walk.rest:
        # What is not there lies in a gap, or before the first: the stream is drawn again.
        _between(walk, Stream(seed))
    return walk.placed


def furthest(found: Sequence[Candidate]) -> int:
    """The number of the stream beyond which no reader would go."""
    return FREE_DRAWS + DRAWS_EACH * sum(one.size for one in found)


def _onwards(walk: Walk, most: int) -> None:
    """Look for more beyond the last that is placed, chunk by chunk."""
    reach = _reach(walk)
    while walk.rest and walk.spectra > 0 and reach < most:
        reach = _reach(walk) if _look(walk, reach) else reach + CHUNK


def _between(walk: Walk, stream: Stream) -> None:
    """Look for more before the last that is placed, in every gap that has room for one."""
    walk.stream = stream
    least = min(one.size for one in walk.rest)
    ends = [0, *sorted(walk.end(one) for one in walk.placed)]
    starts = sorted(walk.placed.values())
    for end, start in zip(ends, starts, strict=False):
        while walk.rest and walk.spectra > 0 and end + least <= start:
            if not _look(walk, end):
                end += CHUNK


def _reach(walk: Walk) -> int:
    return max(walk.end(one) for one in walk.placed)


def _look(walk: Walk, first: int) -> bool:
    """Place one that is anywhere in the chunk from `first` on, and its neighbours; whether there was one."""
    signal = walk.stream.signal(walk.generator, first, CHUNK + LONGEST)
    if signal is None:
        return False
    spectrum = Spectrum(signal)
    for start in range(0, len(walk.rest), AT_ONCE):
        if walk.spectra <= 0:
            return False
        walk.spectra -= 1
        group = walk.rest[start : start + AT_ONCE]
        if (hit := strongest(walk.stream, walk.generator, group, spectrum, first)) is not None:
            walk.place(*hit)
            _both_ways(walk, hit[0])
            return True
    return False


def score(stream: Stream, generator: str, one: Candidate, at: int, count: int) -> float:
    """Deviations above chance of the first `count` numbers of a module at a place."""
    probe = one.probe[: count // BLOCK * BLOCK]
    numbers = stream.numbers(generator, at, len(probe), one.size + BLOCK)
    return 0.0 if numbers is None else abs(float(_scores(probe[None], numbers)[0]))


def _scores(probes: Tensor, numbers: Tensor) -> Tensor:
    lengths = torch.linalg.norm(probes, dim=1) * torch.linalg.norm(numbers)
    scores: Tensor = probes @ numbers / lengths.clamp(min=1e-30) * len(numbers) ** 0.5
    return scores


def _both_ways(walk: Walk, one: Candidate) -> None:
    for step in (_next, _previous):
        here: Candidate | None = one
        while here is not None:
            here = step(walk, here)


def _next(walk: Walk, here: Candidate) -> Candidate | None:
    """The module that follows, placed; the recipe that told is tried first from then on."""
    for recipe in list(walk.recipes):
        for gap in walk.gaps(recipe):
            end = walk.end(here) + gap
            for before in sorted({recipe(one) for one in walk.rest}):
                alike = [one for one in walk.rest if recipe(one) == before]
                if (found := _best(walk, alike, end + before)) is not None:
                    _prefer(walk, recipe)
                    return found
    return None


def _previous(walk: Walk, here: Candidate) -> Candidate | None:
    for recipe in list(walk.recipes):
        for gap in walk.gaps(recipe):
            end = walk.placed[here] - recipe(here) - gap
            for size in sorted({walk.drawn(one) for one in walk.rest}):
                alike = [one for one in walk.rest if walk.drawn(one) == size]
                if (found := _best(walk, alike, end - size)) is not None:
                    _prefer(walk, recipe)
                    return found
    return None


def _prefer(walk: Walk, recipe: Recipe) -> None:
    walk.recipes.remove(recipe)
    walk.recipes.insert(0, recipe)


def _best(walk: Walk, alike: Sequence[Candidate], at: int) -> Candidate | None:
    """The one of these that is at a place, if one is."""
    if at < 0 or at > walk.most:
        return None
    count = min(_NEIGHBOUR, *(len(one.probe) for one in alike))
    numbers = walk.stream.numbers(walk.generator, at, count, count + BLOCK)
    if numbers is None:
        return None
    scores = _scores(torch.stack([one.probe[:count] for one in alike]), numbers).abs()
    best = int(scores.argmax())
    if scores[best] < MAYBE:
        return None
    one = alike[best]
    if scores[best] < SURE and score(walk.stream, walk.generator, one, at, len(one.probe)) < SURE:
        return None
    walk.place(one, at)
    return one


def strongest(
    stream: Stream, generator: str, group: Sequence[Candidate], spectrum: Spectrum, first: int = 0
) -> tuple[Candidate, int] | None:
    """Which of a group is in the stretch of the stream that begins at `first`, and where; None if none is."""
    value, at = spectrum.strongest(together([one.signal_probe(generator) for one in group]))
    if value < MAYBE:
        return None
    scores = [score(stream, generator, one, first + at, len(one.probe)) for one in group]
    best = max(range(len(group)), key=lambda k: scores[k])
    return (group[best], first + at) if scores[best] >= SURE else None
