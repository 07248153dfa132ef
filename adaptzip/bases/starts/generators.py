"""The numbers that modules' A began with, as whole numbers: the same on every machine (formats/starts-1.md)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from adaptzip.bases.starts import elementary, threefry
from adaptzip.core.frames import MOST_ROWS, MOST_WIDTH, Whole
from adaptzip.core.mersenne import Mersenne
from adaptzip.errors import FormatError

UNIFORM, NORMAL, MLX = "uniform", "normal", "mlx"
GENERATORS = (UNIFORM, NORMAL, MLX)
"""MT19937 as torch's CPU generator draws uniform and normal tensors, and MLX's keys."""

MOST_SEED = 2**64 - 1
FREE_DRAWS = 2**28
"""Numbers of a stream that any file may ask for, about a second's work."""
DRAWS_EACH = 16
"""How many more, for each number of A that it has."""
MOST_KEYS = 2**16

UNIFORM_UNIT = 2.0**-23
NORMAL_UNIT = 2.0**-20
BLOCK = 16
_LOW = (1 << 24) - 1
_MIDDLE = 1 << 23


@dataclass(frozen=True)
class Place:
    """Where a module's first A stands in a stream.

    Attributes:
        offset: numbers drawn before it; with MLX, keys before its own.
        rank: rows of A.
        width: numbers in a row.
    """

    offset: int
    rank: int
    width: int

    @property
    def numbers(self) -> int:
        """Numbers in A."""
        return self.rank * self.width


def check_start(generator: str, seed: int, places: Mapping[str, Place]) -> None:
    """Refuse what would take too much work to make again, or what there is not; to be called before any is made.

    Numbers are drawn up to `FREE_DRAWS`, and `DRAWS_EACH` more for each number in the places, which a file of as many
    modules has to hold anyhow. MLX's keys are at most `MOST_KEYS`.

    Args:
        places: by module, from a file that nobody vouches for.

    Raises:
        FormatError: if there is no such generator, or a seed, shape or offset is out of bounds.
    """
    if generator not in GENERATORS:
        raise FormatError(
            f"a start is of generator {generator[:40]!r}, expected one of {', '.join(GENERATORS)}",
            hint="install a newer adaptzip",
        )
    if not 0 <= seed <= MOST_SEED:
        raise FormatError(f"a start's seed is {seed}, expected 0 to 2^64 - 1")
    for name, place in places.items():
        if not 1 <= place.rank <= min(place.width, MOST_ROWS) or place.width > MOST_WIDTH:
            raise FormatError(f"module {name} starts from {place.rank} x {place.width} numbers, which makes no frame")
        if generator == NORMAL and place.numbers < BLOCK:
            raise FormatError(f"module {name} starts from {place.numbers} normal numbers, expected {BLOCK} or more")
    most = _most_offset(generator, places.values())
    for name, place in places.items():
        if place.offset < 0 or _last(generator, place) > most:
            raise FormatError(f"module {name} starts at number {place.offset}, expected 0 to {most} at its end")


def within_limits(generator: str, places: Mapping[str, Place]) -> dict[str, Place]:
    """The places that `check_start` lets through together: those furthest on are left out, as many as need be.

    A writer calls it last, as what is left out lowers the limit for the others.
    """
    order = sorted(places, key=lambda name: _last(generator, places[name]))
    while order and _last(generator, places[order[-1]]) > _most_offset(generator, (places[name] for name in order)):
        order.pop()
    kept = set(order)
    return {name: place for name, place in places.items() if name in kept}


def whole_numbers(generator: str, seed: int, place: Place) -> Whole:
    """The first A of one module, scaled to whole numbers: (rank, width), at most 2^23.

    "uniform" is the low 24 bits of an output less 2^23; "normal" multiples of 2^-20; "mlx" the high 24 bits less 2^23,
    from a tensor (width, rank).

    Raises:
        FormatError: as `check_start`.

    Example:
        >>> from adaptzip.bases.starts.generators import Place, whole_numbers
        >>> whole_numbers("uniform", 42, Place(offset=0, rank=1, width=3))
        array([[ 6413414,  6962611, -1965220]])
    """
    return next(matrices(generator, seed, {"": place}))[1]


def matrices(generator: str, seed: int, places: Mapping[str, Place]) -> Iterator[tuple[str, Whole]]:
    """The first A of many modules, as `whole_numbers`, in one walk along the stream and in its order.

    Raises:
        FormatError: as `check_start`, before anything is made.
    """
    check_start(generator, seed, places)
    if generator == MLX:
        return _by_key(seed, places)
    return _along_stream(generator, seed, places)


def _most_offset(generator: str, places: Iterable[Place]) -> int:
    if generator == MLX:
        return MOST_KEYS
    return FREE_DRAWS + DRAWS_EACH * sum(place.numbers for place in places)


def _last(generator: str, place: Place) -> int:
    """Where a tensor ends in the stream; with MLX, its key."""
    return place.offset + (0 if generator == MLX else _draws(generator, place.numbers))


def _draws(generator: str, numbers: int) -> int:
    """Numbers of the stream that a tensor takes: torch draws the last 16 of a normal one again if they are no block."""
    return numbers + (BLOCK if generator == NORMAL and numbers % BLOCK else 0)


def _along_stream(generator: str, seed: int, places: Mapping[str, Place]) -> Iterator[tuple[str, Whole]]:
    make = _MAKERS[generator]
    stream = Mersenne(seed)
    for group in _overlapping(generator, places):
        first = places[group[0]].offset
        ends = [places[name].offset + _draws(generator, places[name].numbers) for name in group]
        stream.skip_to(first)
        raw = stream.draw(max(ends) - first)
        for name, end in zip(group, ends, strict=True):
            place = places[name]
            numbers = make(raw[place.offset - first : end - first], place.numbers)
            yield name, numbers.reshape(place.rank, place.width)


def _overlapping(generator: str, places: Mapping[str, Place]) -> Iterator[list[str]]:
    """Modules in the stream's order, those with numbers in common together: one A may serve several."""
    group: list[str] = []
    reach = 0
    for name in sorted(places, key=lambda name: places[name].offset):
        place = places[name]
        if group and place.offset >= reach:
            yield group
            group = []
        group.append(name)
        reach = max(reach, place.offset + _draws(generator, place.numbers))
    if group:
        yield group


def _by_key(seed: int, places: Mapping[str, Place]) -> Iterator[tuple[str, Whole]]:
    order = sorted(places, key=lambda name: places[name].offset)
    keys = threefry.keys(seed)
    key, following = (0, 0), 0
    for name in order:
        place = places[name]
        if place.offset >= following:
            key = next(islice(keys, place.offset - following, None))
            following = place.offset + 1
        numbers = (threefry.bits(key, place.numbers) >> np.uint32(8)).astype(np.int64) - _MIDDLE
        yield name, np.ascontiguousarray(numbers.reshape(place.width, place.rank).T)


def uniform_numbers(raw: NDArray[np.uint32], count: int) -> Whole:
    """A uniform tensor of raw numbers: their low 24 bits, less 2^23."""
    return (raw[:count] & _LOW).astype(np.int64) - _MIDDLE


def normal_numbers(raw: NDArray[np.uint32], count: int) -> Whole:
    """A normal tensor of raw numbers, in units of 2^-20; its last 16 are made anew if they are no whole block."""
    whole = count // BLOCK * BLOCK
    low = (raw & _LOW).astype(np.int64)
    numbers = np.empty(count, np.int64)
    numbers[:whole] = box_muller(low[:whole])
    if whole < count:
        numbers[-BLOCK:] = box_muller(low[count : count + BLOCK])
    return numbers


def box_muller(low: Whole) -> Whole:
    """Blocks of 16 numbers of 24 bits: 8 radii and 8 angles give 8 cosines and 8 sines."""
    blocks = low.reshape(-1, 2, BLOCK // 2)
    radius = np.sqrt(-2.0 * elementary.log((1 << 24) - blocks[:, 0]))
    cos, sin = elementary.cos_sin(blocks[:, 1])
    both = np.stack([radius * cos, radius * sin], axis=1)
    return np.rint(both / NORMAL_UNIT).astype(np.int64).reshape(-1)


_MAKERS: Mapping[str, Callable[[NDArray[np.uint32], int], Whole]] = {UNIFORM: uniform_numbers, NORMAL: normal_numbers}
