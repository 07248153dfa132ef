"""What holds distillation back where the teacher's spectrum is flat: training, texts, or what the bytes can hold.

The fixture `langid-minilm-r16` at a two-hundredth of its bytes, everything but one choice the same; gain and KL are
those on texts that nothing was trained on or chosen by. Runs that were made before are taken from --results, so that
the table can grow.

    python -m benchmarks.flat_spectrum [CHOICE ...] [--material FOLDER] [--results FILE] [--write]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from benchmarks import page, results
from benchmarks.distillation import Run, langid, measure

STEPS = 500
CHOICES: Mapping[str, Mapping[str, object]] = {
    "as it is": {},
    "four times the steps": {"steps": 4 * STEPS},
    "half of the texts": {"texts": 0.5},
    "rate 0.03": {"settings": {"rate": 0.03}},
    "rate 0.2": {"settings": {"rate": 0.2}},
    "fitted with --calibration": {"calibrated": True},
    "no known start": {"start": "none"},
    "the same numbers, not quantised": {"loose": True},
}
HEAD = ["choice", "bytes", "numbers", "steps", "gain", "KL", "minutes"]


@dataclass(frozen=True)
class Row:
    """One choice and what came of it."""

    choice: str
    bytes: int
    numbers: int
    steps: int
    gain: float
    kl: float
    minutes: float


def table(rows: Sequence[Row]) -> str:
    """A row for each choice."""
    lines = [
        [
            row.choice,
            f"{row.bytes:,}",
            f"{row.numbers:,}",
            f"{row.steps:,}",
            f"{100 * row.gain:.1f} %",
            f"{row.kl:.3f}",
            f"{row.minutes:.1f}",
        ]
        for row in rows
    ]
    return page.table(HEAD, lines)


def main() -> None:
    """Make what is asked for, print the table, and write it where that is asked for."""
    arguments = results.parser(__doc__, "choice", CHOICES).parse_args()
    case = langid(arguments.material)
    asked = [choice for choice in CHOICES if choice in arguments.chosen]

    def make(choice: str) -> Row:
        run: Run = replace(case.runs[0], **{"steps": STEPS, **CHOICES[choice]})  # type: ignore[arg-type]
        made = measure("langid", case, run)
        return Row(choice, made.bytes, made.numbers, made.steps, made.gain, made.kl, made.minutes)

    done = results.grown(arguments.results, Row, lambda row: row.choice, asked, make)
    rows = [done[choice] for choice in asked]
    print(table(rows), flush=True)
    if arguments.write:
        page.put("flat-spectrum", table(rows))


if __name__ == "__main__":
    main()
