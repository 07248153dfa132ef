"""What distillation is worth: the share of the teacher's gain that a file of a few bytes keeps, fitted and trained.

Four teachers: the TREC classifier of the material, the two fixtures, and a LoRA that is trained here on the story model
of the material. Each file is trained on texts that the measured ones are not among; a tenth of
those decides the best step. gain = (metric - without adapter) / (teacher - without adapter), for a loss likewise.
Beside each file are the fit it started from at the same bytes, and the reference method's fit at the same bytes.

Bytes are those of all streams without header and classifier head (trec, stories), or the whole file without the head
(lists, langid), as the bars count them. Runs that were made before are taken from --results, so that a table can grow.

    python -m benchmarks.distillation [CASE ...] [--method NAME] [--steps NUMBER] [--material FOLDER]
        [--results FILE] [--write]
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import adaptzip
from adaptzip.adz.container import writer
from adaptzip.core.adapter import Adapter
from adaptzip.core.budget import Budget
from adaptzip.distillation.distilling import finish
from adaptzip.distillation.files import assembled
from adaptzip.distillation.loop import first_state, train
from adaptzip.distillation.losses import LossWeights
from adaptzip.distillation.pacing import paced
from adaptzip.distillation.preparing import DataOptions, prepare
from adaptzip.distillation.schedules import Schedule
from adaptzip.distillation.selecting import soft_places
from adaptzip.errors import CheckFailedError
from adaptzip.fitting.fits import CodedAdapter
from adaptzip.fitting.requests import Request
from adaptzip.methods import REFERENCE
from adaptzip.models.live.batches import Example
from adaptzip.reports.evaluation import evaluate
from adaptzip.reports.sizes import update_bytes
from adaptzip.restoring.reconstruction import reconstruct
from benchmarks import causal_adapter, page, results, texts
from benchmarks.stories import stories_base
from fixtures import langid as forty
from fixtures import lists as eight
from fixtures.names import Rows, base_model_folder

ROOT = Path(__file__).parent.parent
MINUTES = 15
_LOOSE = 10_000_000
"""Bytes of a file that need not be small."""
REPORT = 150
"""Bytes of the report in the header, about."""
HEAD = [
    "method",
    "bytes",
    "share of fp16",
    "gain: svd fitted",
    "gain: fitted",
    "gain: distilled",
    "bar",
    "KL",
    "steps",
    "minutes",
]


@dataclass(frozen=True)
class Run:
    """One file.

    Attributes:
        gain: what it should keep.
        steps, weights: of its training.
        settings: others of its `Schedule`; with `minutes` the steps are chosen.
        texts: share of the texts that it is trained on.
        start: as `compress` takes it.
        loose: whether the bytes decide the form alone, so that its numbers are stored as finely as is of any use.
        allocate: how ranks are shared out.
        calibrated: whether the fit is weighted by what the base feeds its modules.
        selects: whether a selection is trained, by methods that have one.
    """

    method: str
    bytes: int
    gain: float | None = None
    steps: int = 1000
    weights: LossWeights = LossWeights()
    settings: Mapping[str, Any] = field(default_factory=dict)
    texts: float = 1.0
    start: str | None = None
    loose: bool = False
    allocate: str | None = None
    calibrated: bool = False
    selects: bool = True


@dataclass(frozen=True, eq=False)
class Case:
    """A teacher, its data, and the runs.

    Attributes:
        header: whether the header counts among the bytes.
    """

    base: Path
    teacher: Adapter | Path
    train: Sequence[Example]
    test: Sequence[Example]
    max_tokens: int
    header: bool
    runs: Sequence[Run]


@dataclass(frozen=True)
class Row:
    """A run and what came of it."""

    case: str
    method: str
    allowed: int
    bytes: int
    half_bytes: int
    reference_gain: float
    fitted_gain: float
    gain: float
    bar: float | None
    kl: float
    minutes: float
    numbers: int
    steps: int

    @property
    def met(self) -> bool:
        better = self.gain > max(self.fitted_gain, self.reference_gain)
        return better and self.minutes <= MINUTES and (self.bar is None or self.gain >= self.bar)


def trec(material: Path) -> Case:
    """The adapter's own split: its first 1,000 rows were never trained on."""
    train_on, test = texts.trec(material)
    runs = [
        Run(REFERENCE, 1500, 0.98),
        Run(REFERENCE, 600, 0.90),
        Run("lora-xs", 2000, 0.97),
        Run("vblora", 3000, 0.95, steps=500),
        Run("loretta", 3000, 0.95, steps=500),
    ]
    teacher = material / "adapters" / "minilm-trec-r8"
    return Case(base_model_folder(), teacher, train_on, test, 48, False, runs)


def langid(material: Path) -> Case:
    return _fixture("langid-minilm-r16", forty.load_rows(), 500, {200: 0.98, 500: 0.92})


def lists(material: Path) -> Case:
    case = _fixture("lists-minilm-r16", eight.load_rows(), 1500, {200: 0.98, 500: 0.96, 1000: 0.82})
    thousandth = case.runs[-1]
    return replace(case, runs=[*case.runs, replace(thousandth, method="unilora")])


def _fixture(name: str, rows: Rows, steps: int, bars: Mapping[int, float]) -> Case:
    """A fixture at shares of its size, the whole file without the head.

    Args:
        bars: the gain to keep at one n-th of the bytes, by n.
    """
    train_on, test = ([Example(row.text, str(row.label)) for row in part] for part in (rows.train, rows.held_out))
    teacher = ROOT / "fixtures" / name
    half = half_bytes(adaptzip.read(teacher))
    runs = [Run(REFERENCE, half // share, bar, steps=steps) for share, bar in bars.items()]
    return Case(base_model_folder(), teacher, train_on, test, 64, True, runs)


def stories(material: Path) -> Case:
    base = stories_base(material)
    pieces = texts.shakespeare(material)
    teacher = causal_adapter.train(base, pieces[:375])
    train_on, test = ([Example(piece) for piece in part] for part in (pieces[:2000], pieces[-150:]))
    size = half_bytes(teacher) // 50
    runs = [Run(REFERENCE, size, 0.95, steps=600), Run("loretta", size, 0.95, steps=600)]
    return Case(base, teacher, train_on, test, 128, False, runs)


CASES: dict[str, Callable[[Path], Case]] = {"trec": trec, "lists": lists, "langid": langid, "stories": stories}


def measure(name: str, case: Case, run: Run) -> Row:
    """Fit, train and score one file, and the reference's fit at its bytes."""
    teacher = case.teacher if isinstance(case.teacher, Adapter) else adaptzip.read(case.teacher)
    fixed, report = _fixed(case), 0 if case.header else REPORT
    began = time.monotonic()
    train_on = case.train[: round(run.texts * len(case.train))]
    schedule = Schedule(steps=run.steps, weights=run.weights, **run.settings)
    asked = Budget.parse(f"{fixed + run.bytes}B")
    request = Request(run.method, asked, base=case.base, allocate=run.allocate, start=run.start)
    with tempfile.TemporaryDirectory() as folder:
        if run.calibrated:
            request = replace(request, calibration=_texts(Path(folder), train_on))
        setup = prepare(
            None,
            teacher=case.teacher,
            base=case.base,
            data=train_on,
            request=request,
            schedule=schedule,
            options=DataOptions(max_tokens=case.max_tokens),
        )

    def size_of(step: float, coded: CodedAdapter) -> int:
        return _counted(setup.parts(step, coded), header=case.header)

    problem = replace(setup.problem, size_of=size_of, limit=_LOOSE if run.loose else run.bytes)
    setup = replace(setup, problem=problem)
    state = first_state(problem, setup.beginning.step)
    if not run.selects:
        for place in soft_places(problem.coder, state.parameters):
            del state.parameters[place]
    fitted = problem.fill(setup.beginning.tensors, setup.beginning.step)
    schedule = paced(problem, schedule, state, setup.machines, began)
    setup = replace(setup, schedule=schedule)
    train(problem, schedule, state, setup.machines, save=lambda _: None, report=lambda _: None)
    made = finish(setup, state)
    minutes = (time.monotonic() - began) / 60
    size = _counted(writer.sizes(made.compressed), header=case.header)
    students = {
        "svd": reconstruct(adaptzip.compress(case.teacher, to=REFERENCE, budget=f"{fixed + run.bytes - report}B")),
        "fitted": reconstruct(assembled(setup.beginning, fitted.step, fitted.coded, None), **setup.beginning.found),
        "distilled": reconstruct(made.compressed, base=case.base),
    }
    found = evaluate(case.base, teacher, students, case.test, batch=64, max_tokens=case.max_tokens)
    gains = {row: found.gain(row) or 0.0 for row in students}
    kl = found.rows["distilled"].kl or 0.0
    numbers = made.compressed.provenance.parameters
    return Row(
        name, run.method, run.bytes, size, half_bytes(teacher), gains["svd"], gains["fitted"], gains["distilled"],
        run.gain, kl, minutes, numbers, state.step,
    )  # fmt: skip


def _texts(folder: Path, examples: Sequence[Example]) -> Path:
    """A fifth of the texts in a file."""
    path = folder / "texts.jsonl"
    rows = (json.dumps({"text": example.text}) for example in examples[::5])
    path.write_text("\n".join(rows), encoding="utf-8")
    return path


def _fixed(case: Case) -> int:
    """Bytes of the parts that are not counted, in a file of the reference method."""
    parts = writer.sizes(adaptzip.compress(case.teacher, to=REFERENCE, budget="1MB"))
    return sum(parts.values()) - _counted(parts, header=case.header) + (0 if case.header else REPORT)


def _counted(parts: Mapping[str, int], *, header: bool) -> int:
    """Bytes without the extras, and without the header unless that counts."""
    return update_bytes(parts) + (parts["header"] if header else 0)


def half_bytes(adapter: Adapter) -> int:
    """Bytes of the factors in fp16."""
    return 2 * adapter.parameters


def table(rows: Sequence[Row]) -> str:
    """The rows of one case."""
    lines = [
        [
            row.method,
            f"{row.bytes:,}",
            f"1/{row.half_bytes / row.bytes:.0f}",
            *(f"{100 * gain:.1f} %" for gain in (row.reference_gain, row.fitted_gain, row.gain)),
            "-" if row.bar is None else f"{100 * row.bar:.0f} %",
            f"{row.kl:.3f}",
            f"{row.steps:,}",
            f"{row.minutes:.1f}",
        ]
        for row in rows
    ]
    return page.table(HEAD, lines)


def main() -> None:
    """Run what is asked for, print the tables, and write them where that is asked for."""
    parser = results.parser(__doc__, "case", CASES)
    parser.add_argument("--method", help="runs of this method alone")
    parser.add_argument("--steps", type=int, help="updates in place of each run's own")
    arguments = parser.parse_args()
    done = results.read(arguments.results, Row)
    failed = False
    for name in arguments.chosen:
        case = CASES[name](arguments.material)
        rows = []
        for listed in case.runs:
            run = replace(listed, steps=arguments.steps or listed.steps)
            known = [
                r for r in done if (r.case, r.method, r.allowed, r.steps) == (name, run.method, run.bytes, run.steps)
            ]
            if not known and arguments.method in (None, run.method):
                try:
                    known = [measure(name, case, run)]
                except CheckFailedError as error:
                    print(f"{name}: {run.method} within {run.bytes} bytes: {error}", flush=True)
                    failed = True
                    continue
                results.add(arguments.results, known[0])
            rows += known[-1:]
        print(f"{name}\n\n{table(rows)}", flush=True)
        failed |= not all(row.met for row in rows)
        if arguments.write and len(rows) == len(case.runs):
            page.put(f"distillation-{name}", table(rows))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
