"""Which adapters may share something: those of one base and shapes whose updates lie in common directions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adaptzip.core.workers import on_one_core
from adaptzip.errors import UsageError
from adaptzip.fleet.runs import Json, Run, Stage
from adaptzip.fleet.scanning import rows_of, sketch_of

STAGE = "groups"
LEAST = 4
"""Adapters that may share something at all."""
_COUNTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
"""Numbers of groups that are tried where none is given."""
_FEWEST = 8
"""Adapters of a group, on average, where the number of groups is not given."""
_GAIN = 0.1
"""How much nearer left-out adapters have to be to their groups before more groups are made, as a share of 1."""
_ROUNDS = 50
_LEFT_OUT = 5
"""Every so manieth adapter is left out where the number of groups is chosen."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Group:
    """Adapters that may share something.

    Attributes:
        label: of the group.
        base: their base model's name, or None.
        shapes: (out, in) of every module, by sorted name.
        members: places among the sources of those that what is shared is made of.
        held_out: of those that it is measured on.
    """

    label: str
    base: str | None
    shapes: Mapping[str, tuple[int, int]]
    members: tuple[int, ...]
    held_out: tuple[int, ...]

    @property
    def everyone(self) -> tuple[int, ...]:
        """Members and those held out, in the order of the sources."""
        return tuple(sorted((*self.members, *self.held_out)))


def stage(run: Run) -> Stage:
    """One task, after `adaptzip.fleet.scanning`."""
    return Stage(STAGE, f"{__name__}:divide", [{}])


def groups_of(run: Run) -> list[Group]:
    """The groups of a run, each of at least `LEAST` adapters."""
    found = []
    for told in run.result(STAGE)["groups"]:
        shapes = {name: (out, width) for name, (out, width) in told["shapes"].items()}
        found.append(Group(told["label"], told["base"], shapes, tuple(told["members"]), tuple(told["held_out"])))
    return found


@on_one_core()
def divide(run: Run, payload: Json) -> Json:
    """The groups, what each adapter is multiplied by to have |dW| = 1 (0 for what cannot be read, or is zero), and what
    could not be read."""
    settings = run.plan.settings
    alike: dict[tuple[Any, ...], list[int]] = {}
    sketches: list[Array] = []
    weights: list[float] = []
    failed: dict[int, Json] = {}
    for place, row in enumerate(rows_of(run)):
        if "error" in row:
            failed[place] = row["error"]
            weights.append(0.0)
            sketches.append(np.zeros(0))
            continue
        shapes = tuple((name, *shape) for name, shape in row["shapes"].items())
        alike.setdefault((row["base"], shapes), []).append(place)
        weights.append(row["weight"] if row["energies"] else 0.0)
        sketches.append(sketch_of(row))
    groups: list[Json] = []
    for (base, shapes), places in alike.items():
        told = {"base": base, "shapes": {name: [out, width] for name, out, width in shapes}}
        used = [place for place in places if weights[place]]
        for some in _clusters(used, [sketches[place] for place in used], settings["groups"]):
            if len(some) >= LEAST:
                members, held_out = parted(some, settings["hold_out"])
                groups.append({"label": f"group-{len(groups)}", **told, "members": members, "held_out": held_out})
    return {"groups": groups, "weights": weights, "failed": {str(place): told for place, told in failed.items()}}


def parted(places: Sequence[int], share: float) -> tuple[list[int], list[int]]:
    """Members, and every so manieth held out: at least one where anything is to be, never more than half."""
    if share <= 0:
        return list(places), []
    every = max(2, round(1 / share))
    held_out = [place for number, place in enumerate(places) if number % every == every // 2] or [places[-1]]
    apart = set(held_out)
    return [place for place in places if place not in apart], held_out


def check_groups(groups: str) -> None:
    """Raises: UsageError: if it is neither "auto" nor a number of groups."""
    if groups != "auto" and not (groups.isdigit() and int(groups) > 0):
        raise UsageError(f"groups is {groups!r}, expected 'auto' or a number from 1")


def _clusters(places: Sequence[int], sketches: Sequence[Array], groups: str) -> list[list[int]]:
    """Places by cluster, each in its order."""
    if len(places) < LEAST:
        return []
    rows = np.stack(sketches)
    units = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-30)
    count = int(groups) if groups != "auto" else best_count(units)
    nearest = (units @ centres(units, min(count, len(units))).T).argmax(1)
    found = [[place for place, own in zip(places, nearest, strict=True) if own == label] for label in range(count)]
    return [cluster for cluster in found if cluster]


def best_count(units: Array) -> int:
    """The number of groups whose centres left-out adapters are nearest to; a larger one has to be worth it.

    One half of a sketch tells which group a left-out adapter belongs to, and the other how near it is: of many centres
    one is always near by chance.
    """
    left_out = np.arange(len(units)) % _LEFT_OUT == _LEFT_OUT // 2
    best, reached = 1, -np.inf
    for count in _COUNTS:
        if count > 1 and len(units) / count < _FEWEST:
            break
        near = _nearness(units[left_out], centres(units[~left_out], count)) if left_out.any() else 0.0
        if near > reached + (_GAIN if count > 1 else 0.0):
            best, reached = count, near
    return best


def _nearness(units: Array, found: Array) -> float:
    """The mean cosine of unit rows with the centres that they belong to."""
    nearest = (units[:, ::2] @ found[:, ::2].T).argmax(1)
    seen, own = units[:, 1::2], found[nearest, 1::2]
    lengths = np.linalg.norm(seen, axis=1) * np.linalg.norm(own, axis=1)
    return float((np.einsum("ij,ij->i", seen, own) / np.maximum(lengths, 1e-30)).mean())


def centres(units: Array, count: int) -> Array:
    """Unit centres (count, n) of unit rows by k-means in angles (Dhillon and Modha 2001), begun with rows that are far
    from each other, so that no chance comes in."""
    chosen = [int((units @ units.mean(0)).argmax())]
    while len(chosen) < count:
        chosen.append(int((units @ units[chosen].T).max(1).argmin()))
    found = units[chosen]
    last: NDArray[np.int64] | None = None
    for _ in range(_ROUNDS):
        nearest = (units @ found.T).argmax(1)
        if last is not None and bool((nearest == last).all()):
            break
        last = nearest
        for label in range(count):
            total = units[nearest == label].sum(0)
            length = float(np.linalg.norm(total))
            if length > 0:
                found[label] = total / length
    return found
