"""Heat maps: one measure of all modules of several files, on one scale."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt

from adaptzip.core.words import number, share, size
from adaptzip.reports.page.layers import Grid, grids
from adaptzip.reports.page.subjects import ModuleStory, Subject

_TOGETHER = "all modules are coded as one string of bits, in which they have no bytes of their own"
_WRITTEN = 14
"""So many columns leave room for numbers in their cells."""


@dataclass(frozen=True)
class Tally:
    """Modules of one cell together; None for what is not known of them.

    Attributes:
        whole: energy of the whole update.
        of_reference: whether energies are the reference's.
    """

    modules: int
    bytes: int | None
    numbers: int
    energy: float
    error: float | None
    whole: float
    of_reference: bool

    @classmethod
    def of(cls, stories: Sequence[ModuleStory], whole: float) -> Tally:
        """Of some modules of a file whose update has so much energy."""
        sizes, references = [story.bytes for story in stories], [story.reference for story in stories]
        energy = sum(story.energy if story.reference is None else story.reference for story in stories)
        squared = [None if story.error is None else story.error**2 for story in stories]
        known = [one for one in squared if one is not None]
        error = sqrt(sum(known) / energy) if len(known) == len(stories) and energy > 0 else None
        total = None if None in sizes else sum(one for one in sizes if one is not None)
        return cls(
            len(stories), total, sum(story.numbers for story in stories), energy, error, whole, None not in references
        )

    @property
    def bits(self) -> float | None:
        """Bits for each number in the factors."""
        return None if self.bytes is None or not self.numbers else 8 * self.bytes / self.numbers

    @property
    def part(self) -> float | None:
        """Share of the energy."""
        return self.energy / self.whole if self.whole > 0 else None

    @property
    def told(self) -> str:
        """All that is known, in words."""
        said = [
            "" if self.modules == 1 else f"{self.modules} modules",
            "" if self.bytes is None else f"{self.bytes:,} B",
            "" if self.bits is None else f"{self.bits:.2f} bits a number",
            "" if self.part is None else f"{share(self.part, 1)} of the energy",
            "" if self.error is None else f"error {number(self.error)}",
        ]
        return ", ".join(filter(None, said))


Tallies = Mapping[tuple[int, int], Tally]


@dataclass(frozen=True)
class Measure:
    """What a heat map shows of each cell.

    Attributes:
        source: whether it is of the reference where there is one, and so the same for all files.
        unknown: why it is not known of some.
    """

    title: str
    caption: str
    value: Callable[[Tally], float | None]
    written: Callable[[float], str]
    told: Callable[[float], str]
    source: bool = False
    unknown: str = ""


MEASURES = (
    Measure(
        "Bytes",
        "What each module takes in the file.",
        lambda tally: tally.bytes,
        lambda value: _short(value),
        lambda value: size(round(value)),
        unknown=_TOGETHER,
    ),
    Measure(
        "Bits a number",
        "Bits spent on each number of the factors: a rate-distortion-optimal file spends more where the update is "
        "strong.",
        lambda tally: tally.bits,
        lambda value: f"{value:.1f}",
        lambda value: f"{value:.2f} bits",
        unknown=_TOGETHER,
    ),
    Measure(
        "Energy",
        "Each module's share of the squared norm of the whole update.",
        lambda tally: tally.part,
        lambda value: f"{100 * value:.1f}",
        lambda value: share(value, 1),
        source=True,
    ),
    Measure(
        "Relative error",
        "|dW − dW'| / |dW| of each module. Weak modules have large ones: what they lose is little of the whole.",
        lambda tally: tally.error,
        lambda value: f"{value:.2f}",
        number,
    ),
)


@dataclass(frozen=True)
class Cell:
    """One cell: how hot it is from 0 to 1, or None, what is written in it, and what it says when it is pointed at."""

    heat: float | None = None
    written: str = ""
    told: str = ""


@dataclass(frozen=True)
class HeatMap:
    """One grid of one file."""

    grid: Grid
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]


@dataclass(frozen=True)
class Section:
    """One measure.

    Attributes:
        files: the heat maps of each file by its name.
        unknown: the files of which it is not known.
        most: the value of the hottest colour.
    """

    measure: Measure
    files: Mapping[str, tuple[HeatMap, ...]]
    unknown: tuple[str, ...]
    most: str


def sections(subjects: Sequence[Subject]) -> list[Section]:
    """The measures that are known of any file."""
    found = [_section(measure, {one.name: _tallies(one) for one in subjects}) for measure in MEASURES]
    return [one for one in found if one is not None]


def _section(measure: Measure, tallied: Mapping[str, Sequence[tuple[Grid, Tallies]]]) -> Section | None:
    values = {
        name: [value for _, by in cells for tally in by.values() if (value := measure.value(tally)) is not None]
        for name, cells in tallied.items()
    }
    most = max((value for found in values.values() for value in found), default=0.0)
    if most <= 0:
        return None
    known = {name: cells for name, cells in tallied.items() if values[name]}
    shared = {tally.of_reference for cells in known.values() for _, by in cells for tally in by.values()} == {True}
    if measure.source and shared and len(known) > 1:
        known = {"the source": next(iter(known.values()))}
    files = {name: tuple(_map(grid, by, measure, most) for grid, by in cells) for name, cells in known.items()}
    return Section(measure, files, tuple(name for name in tallied if not values[name]), measure.told(most))


def _tallies(subject: Subject) -> list[tuple[Grid, Tallies]]:
    stories = {story.name: story for story in subject.modules}
    whole = sum(story.energy if story.reference is None else story.reference for story in subject.modules)
    return [
        (grid, {at: Tally.of([stories[name] for name in names], whole) for at, names in grid.cells.items()})
        for grid in grids(stories)
    ]


def _map(grid: Grid, tallies: Tallies, measure: Measure, most: float) -> HeatMap:
    return HeatMap(
        grid,
        tuple(
            (row, tuple(_cell(grid, at, column, tallies, measure, most) for column in range(len(grid.columns))))
            for at, row in enumerate(grid.rows)
        ),
    )


def _cell(grid: Grid, row: int, column: int, tallies: Tallies, measure: Measure, most: float) -> Cell:
    tally = tallies.get((row, column))
    if tally is None:
        return Cell()
    value = measure.value(tally)
    where = ".".join(filter(None, (grid.stem, grid.columns[column], grid.rows[row])))
    told = f"{where}: {tally.told}"
    if value is None:
        return Cell(None, "", told)
    return Cell(value / most, measure.written(value) if len(grid.columns) <= _WRITTEN else "", told)


def _short(amount: float) -> str:
    """`812`, `1.2k`, `34k`, `5.6M`."""
    for unit, whole in (("M", 1e6), ("k", 1e3)):
        if amount >= whole:
            scaled = amount / whole
            return f"{scaled:.0f}{unit}" if scaled >= 10 else f"{scaled:.1f}{unit}"
    return f"{amount:.0f}"
