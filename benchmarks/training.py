"""What the choices within distillation are worth: losses, a trained selection, ranks that grow, starts and rates.

Everything but the choice is the same: files of equal bytes, equal steps, equal texts, as `benchmarks.distillation` has
them; gain and KL are those on texts that nothing was trained on or chosen by. Runs that were made before are taken from
--results, so that tables can grow.

    python -m benchmarks.training [GROUP ...] [--material FOLDER] [--results FILE] [--write]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from adaptzip.distillation.losses import LossWeights
from adaptzip.methods import REFERENCE
from benchmarks import page, results
from benchmarks.distillation import CASES, Case, Run, measure

_SMALL = Run(REFERENCE, 600, steps=300)
_TINY = Run(REFERENCE, 1327, steps=300)
_BANK = Run("vblora", 3000, steps=300)

LOSSES = {
    "KL": LossWeights(),
    "KL at temperature 2": LossWeights(temperature=2),
    "KL, hidden states 0.1": LossWeights(hidden=0.1),
    "KL, modules 0.3": LossWeights(modules=0.3),
    "KL, labels 0.3": LossWeights(labels=0.3),
    "hidden states alone": LossWeights(kl=0, hidden=1),
    "modules alone": LossWeights(kl=0, modules=1),
    "labels alone": LossWeights(kl=0, labels=1),
}
GROUPS: Mapping[str, tuple[str, Mapping[str, Run]]] = {
    "losses": ("trec", {name: replace(_SMALL, weights=weights) for name, weights in LOSSES.items()}),
    "selection": ("trec", {"fitted, then kept": replace(_BANK, selects=False), "trained": _BANK}),
    "growth": (
        "trec",
        {"ranks of the fit": _SMALL, "grown while training": replace(_SMALL, allocate="increlora")},
    ),
    "small": (
        "lists",
        {
            "known start": _TINY,
            "no start": replace(_TINY, start="none"),
            **{f"known start, rate {rate}": replace(_TINY, settings={"rate": rate}) for rate in (0.03, 0.2)},
        },
    ),
}
HEAD = ["choice", "bytes", "steps", "gain", "KL", "minutes"]


@dataclass(frozen=True)
class Row:
    """One choice and what came of it."""

    group: str
    choice: str
    bytes: int
    steps: int
    gain: float
    kl: float
    minutes: float


@cache
def case_of(name: str, material: Path) -> Case:
    """A case of `benchmarks.distillation`, its teacher trained once."""
    return CASES[name](material)


def table(rows: Sequence[Row]) -> str:
    """The choices of one group."""
    lines = [
        [r.choice, f"{r.bytes:,}", str(r.steps), f"{100 * r.gain:.1f} %", f"{r.kl:.3f}", f"{r.minutes:.1f}"]
        for r in rows
    ]
    return page.table(HEAD, lines)


def main() -> None:
    """Run what is asked for, print the tables, and write them where that is asked for."""
    arguments = results.parser(__doc__, "group", GROUPS).parse_args()

    def make(one: tuple[str, str, int]) -> Row:
        group, choice, steps = one
        case, choices = GROUPS[group]
        made = measure(case, case_of(case, arguments.material), choices[choice])
        return Row(group, choice, made.bytes, steps, made.gain, made.kl, made.minutes)

    for group in arguments.chosen:
        asked = [(group, choice, run.steps) for choice, run in GROUPS[group][1].items()]
        done = results.grown(arguments.results, Row, lambda row: (row.group, row.choice, row.steps), asked, make)
        rows = [done[one] for one in asked]
        print(f"{group}\n\n{table(rows)}", flush=True)
        if arguments.write:
            page.put(f"training-{group}", table(rows))


if __name__ == "__main__":
    main()
