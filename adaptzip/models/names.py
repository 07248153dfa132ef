"""Finding an adapter's modules among the tensors that a base model stores."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from adaptzip.models.folder import BaseModel
from adaptzip.models.spellings import spellings

EXPERT_PARTS = {
    "gate_up_proj": (("gate_proj", "up_proj"), ("w1", "w3")),
    "down_proj": (("down_proj",), ("w2",)),
}
"""Fused parameters in memory, and the projections on disk that they stack, in the order of their rows."""

EXPERT_STACKS = {
    ".experts.gate_up_proj": ".input_linear.weight",
    ".experts.down_proj": ".output_linear.weight",
}
"""Stacked parameters that have another name on disk, and had it in transformers 4 (GraniteMoe)."""

FUSED_PARTS = {
    "gate_proj": ("gate_up_proj", (0, 2)),
    "w1": ("gate_up_proj", (0, 2)),
    "up_proj": ("gate_up_proj", (1, 2)),
    "w3": ("gate_up_proj", (1, 2)),
    "down_proj": ("down_proj", None),
    "w2": ("down_proj", None),
}
"""An expert's own projections, and where they are among the rows of a fused parameter: (part, number of parts)."""

_EXPERT = re.compile(r"^(.*)\.([^.\[\]]+)\[(\d+)\]$")
_OWN_EXPERT = re.compile(r"^(.*\.experts)\.(\d+)\.([^.]+)$")


@dataclass(frozen=True)
class Location:
    """Where a module's weight, or a part of it, is stored.

    Attributes:
        tensor: name of the stored tensor.
        rows: the rows of the update that belong there, None for all of them.
        expert: the slice of a stacked tensor, None for the whole tensor.
        part: which of how many equal parts of the slice's outputs, None for all of them.
    """

    tensor: str
    rows: tuple[int, int] | None = None
    expert: int | None = None
    part: tuple[int, int] | None = None


@dataclass(frozen=True)
class Renaming:
    """The change of prefix that turns the adapter's names into the base's: `old` is replaced by `new`.

    Attributes:
        towers: further changes, where parts of a model such as its language and vision towers differ in theirs;
            they are tried first, in their order.
    """

    old: str = ""
    new: str = ""
    towers: tuple[Renaming, ...] = ()

    def names(self, name: str) -> Iterator[str]:
        """The names in the base that `name` may have, best first."""
        for tower in self.towers:
            if name.startswith(tower.old):
                yield tower.new + name.removeprefix(tower.old)
        if name.startswith(self.old):
            yield self.new + name.removeprefix(self.old)
        if not self.old or not name.startswith(self.old):
            yield name


def locate(base: BaseModel, module: str, renaming: Renaming) -> tuple[Location, ...]:
    """The stored tensors that make up a module's weight; none if the base lacks it."""
    for name in renaming.names(module):
        for sites in stored_forms(base, name):
            if all(site.tensor in base.tensors for site in sites):
                return _with_rows(base, sites)
        deeper = _deeper_output(base, f"{name}.weight")
        if deeper is not None:
            return (Location(deeper),)
        tied = base.tied_partners(f"{name}.weight")
        if tied:
            return (Location(tied[0]),)
    return ()


def locate_tensor(base: BaseModel, name: str, renaming: Renaming) -> str | None:
    """The stored name of a plain tensor such as a bias, or None if the base lacks it."""
    for candidate in renaming.names(name):
        for spelling in spellings(candidate):
            if spelling in base.tensors:
                return spelling
        deeper = _deeper_output(base, candidate)
        if deeper is not None:
            return deeper
        tied = base.tied_partners(candidate)
        if tied:
            return tied[0]
    return None


def _deeper_output(base: BaseModel, name: str) -> str | None:
    """The one output embedding of this name that the base stores within a part of it, as LLaVA's does."""
    found = [stored for stored in base.tensors if stored.endswith(f".{name}")] if base.is_output(name) else []
    return found[0] if len(found) == 1 else None


def stored_forms(base: BaseModel, name: str) -> Iterator[tuple[Location, ...]]:
    """The sites that a module called `name` in the base may be stored at, best first."""
    expert = _EXPERT.match(name)
    if expert is None:
        for spelling in spellings(name):
            yield (Location(f"{spelling}.weight"),)
            yield (Location(spelling),)
        yield from _fused_forms(base, name)
        return
    folder, parameter, number = expert[1], expert[2], int(expert[3])
    stack = f"{folder}.{parameter}"
    pairs = (pair for memory, disk in EXPERT_STACKS.items() for pair in ((memory, disk), (disk, memory)))
    renamed = (stack.removesuffix(end) + new for end, new in pairs if stack.endswith(end))
    for stored in (*spellings(stack), *renamed):
        shape = base.stored(stored).shape if stored in base.tensors else ()
        if len(shape) == 2 and number == 0:
            yield (Location(stored),)
        elif len(shape) != 3 or number < shape[0]:
            yield (Location(stored, expert=number),)
    for place in spellings(folder):
        for parts in EXPERT_PARTS.get(parameter, ()):
            yield tuple(Location(f"{place}.{number}.{part}.weight") for part in parts)


def _fused_forms(base: BaseModel, name: str) -> Iterator[tuple[Location, ...]]:
    """Where the base fuses the experts into one parameter that the adapter names one by one."""
    expert = _OWN_EXPERT.match(name)
    if expert is None or expert[3] not in FUSED_PARTS:
        return
    parameter, part = FUSED_PARTS[expert[3]]
    for folder in spellings(expert[1]):
        stack = f"{folder}.{parameter}"
        shape = base.stored(stack).shape if stack in base.tensors else ()
        if len(shape) != 3 or int(expert[2]) < shape[0]:
            yield (Location(stack, expert=int(expert[2]), part=part),)


def _with_rows(base: BaseModel, sites: tuple[Location, ...]) -> tuple[Location, ...]:
    if len(sites) == 1:
        return sites
    placed, start = [], 0
    for site in sites:
        end = start + base.stored(site.tensor).shape[0]
        placed.append(Location(site.tensor, (start, end)))
        start = end
    return tuple(placed)
