"""Everything that training needs, read, fitted and loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from adaptzip.adapter import Adapter
from adaptzip.calibration.finite import watched
from adaptzip.calibration.layers import find_layers
from adaptzip.calibration.loaded import Scored
from adaptzip.calibration.models import Kind, LoadedModel, Loading, load_bare
from adaptzip.calibration.tokenisers import tokeniser_folder
from adaptzip.checkpoints._base_name import warn_of_local_name
from adaptzip.compressed import TrainingReport
from adaptzip.distillation.alike import check_alike
from adaptzip.distillation.beginning import Beginning
from adaptzip.distillation.data import Encoded, Example, batches, encode, hold_out, read_examples, self_texts
from adaptzip.distillation.files import Parts, parts_of, whole
from adaptzip.distillation.growing import grown
from adaptzip.distillation.keeping import student_of
from adaptzip.distillation.labels import fitted, reading_of
from adaptzip.distillation.lessons import Teacher, label_count, nothing_to_learn, order
from adaptzip.distillation.losses import LossWeights
from adaptzip.distillation.machines import Machines, find_machines, within_memory
from adaptzip.distillation.metrics import metric_name
from adaptzip.distillation.outputs import teacher_outputs
from adaptzip.distillation.placing import beginning_of, scale_of
from adaptzip.distillation.problem import Problem, even_scale
from adaptzip.distillation.quantising import fill
from adaptzip.distillation.reports import longest, room
from adaptzip.distillation.schedules import Schedule
from adaptzip.distillation.scores import Score, score
from adaptzip.distillation.student import Factors, Guest, magnitudes_of
from adaptzip.distillation.tensors import trained_of
from adaptzip.errors import CheckFailedError, RefusedError, UsageError
from adaptzip.gains import divisor
from adaptzip.jobs import Request, Source, load_source

SELF = "self"
"""In place of a file of texts: texts that base and teacher write themselves."""
_SELF_TEXTS = 512
MAX_TOKENS = 256
"""Texts are cut to so many tokens, as in evaluation, whose numbers on what is held out are the same then."""


@dataclass(frozen=True)
class DataOptions:
    """Which texts, and how they are fed.

    Attributes:
        text_field, label_field: where a record has its text and its label; None looks for the usual names.
        held_out: share of the texts that is never trained on.
        max_tokens: texts are cut to so many tokens.
        packed: causal texts joined and cut into pieces of `max_tokens`.
        self_texts: texts written where `data` is "self".
        pair_field: where a record has the second text of a pair.
        completion_field: where a record has what completes its text.
        score: "completion" or "all" of a prompt with its completion; None trains on completions where there are some.
    """

    text_field: str | None = None
    label_field: str | None = None
    held_out: float = 0.1
    max_tokens: int = MAX_TOKENS
    packed: bool = False
    self_texts: int = _SELF_TEXTS
    pair_field: str | None = None
    completion_field: str | None = None
    score: Scored | None = None

    def __post_init__(self) -> None:
        for name, number in (("max_tokens", self.max_tokens), ("self_texts", self.self_texts)):
            if number < 1:
                raise UsageError(f"{name} is {number}, expected 1 or more")


@dataclass(frozen=True, eq=False)
class Setup:
    """Everything that training needs, loaded.

    Attributes:
        rows: scores on the held-out texts, of "none" and "teacher".
        metric: "accuracy", "loss", "F1" or "squared error"; None without labels.
        teacher: the adapter itself.
        texts, held_out: how many texts are trained on, and how many are not.
        parts: bytes of the file by part.
        tokeniser: the folder of the teacher's own tokeniser; None where the base's is used.
    """

    beginning: Beginning
    problem: Problem
    schedule: Schedule
    machines: Machines
    rows: Mapping[str, Score]
    metric: str | None
    teacher: Adapter
    texts: int
    held_out: int
    parts: Parts
    tokeniser: Path | None = None


def prepare(
    source: str | Path | Adapter | None,
    *,
    teacher: str | Path | Adapter,
    base: str | Path,
    data: str | Path | Sequence[Example],
    request: Request,
    schedule: Schedule,
    options: DataOptions,
    kind: Kind | None = None,
    machines: Machines | None = None,
    say: Callable[[str, float], None] = lambda *_: None,
) -> Setup:
    """Read, fit and load what training needs.

    Args:
        machines: where it runs; None looks for them.

    Raises:
        CheckpointError, FormatError: if an adapter or the data can't be read.
        BaseModelError, RefusedError: if base and adapter don't fit together, or something is missing.
        UsageError, CheckFailedError: if the request makes no sense, or nothing fits the budget.
    """
    machines = machines or find_machines(request.device)
    given = load_source(teacher, request if source is None else replace(request, calibration=None))
    original = given.adapter
    read = None if isinstance(data, str) and data == SELF else _read(data, options)
    say("loading the model", 0.0)
    tokeniser = None if isinstance(teacher, Adapter) else tokeniser_folder(teacher)
    loading = Loading(kind, tokeniser=tokeniser, tell=True, strict=True)
    loaded = replace(load_bare(Path(base), original, machines.device, loading=loading), score=options.score)
    theirs = _teacher_factors(original, machines.device)
    magnitudes = {n: m.to(machines.device) for n, m in magnitudes_of(original.modules).items()}
    examples = _written(Guest(loaded, magnitudes), theirs, options, schedule.seed) if read is None else read
    loaded = fitted(loaded, examples, given=kind is not None)
    guest = Guest(loaded, magnitudes)
    reading = reading_of(loaded, examples)
    feeding: dict[str, Any] = {"max_tokens": options.max_tokens, "packed": options.packed, "reading": reading}
    split = hold_out(examples, options.held_out, schedule.seed)
    train_on, kept = (encode(loaded, part, **feeding) for part in split)
    _check_labels(loaded, train_on, schedule.weights)
    counts = (len(split[0]), len(split[1]))
    told = longest(*counts, schedule.steps, metric_name(loaded.kind))
    say("fitting", 0.0)
    request = replace(request, device=str(machines.device))
    start = _start(source, given, request)
    beginning, parts = _beginning(start, given, request, loaded, told)
    warn_of_local_name(beginning.plan.base_model)
    linear = beginning.coder.method.linear
    if not linear:
        guest.behind = find_layers(loaded.model, beginning.coder.sites, Path(base))
    if start is not given:
        check_alike(given, beginning)
    at_once = schedule.micro or schedule.batch
    say("asking the teacher", 0.0)
    lessons = Teacher(guest, theirs, train_on)
    with within_memory(at_once):
        held = batches(loaded, kept, at_once)
        answers = teacher_outputs(watched(loaded, lambda batch: guest(batch, theirs)), held)
        if not schedule.weights.watches:
            lessons.keep(_needed(lessons, schedule), at_once)
    numbers = sum(tensor.numel() for tensor in trained_of(beginning.coder, beginning.tensors).values())
    problem = Problem(
        beginning.coder,
        beginning.gains,
        beginning.tensors,
        student_of(guest, original, beginning.plan, Path(base)),
        lessons,
        held,
        answers,
        whole(parts),
        beginning.limit,
        even_scale(_energy(original, beginning.gains), numbers) if linear else scale_of(beginning.tensors),
    )
    rows = {
        "none": score(loaded, lambda batch: guest(batch, {}), held, answers),
        "teacher": score(loaded, lambda batch: guest(batch, theirs), held, answers),
    }
    if not rows["none"].distance and nothing_to_learn(lessons, schedule.weights, at_once):
        raise RefusedError(
            "the base without the teacher's updates puts out the same as with them for all of the texts: there is "
            "nothing to learn",
            hint="give texts that reach the modules of the adapter",
        )
    if beginning.growth is not None:
        say("growing", 0.0)
        problem = grown(problem, beginning.growth, schedule, machines, beginning.step)
    labelled = rows["teacher"].metric is not None
    return Setup(
        beginning, problem, schedule, machines, rows, metric_name(loaded.kind) if labelled else None, original,
        *counts,
        parts,
        tokeniser,
    )  # fmt: skip


def _start(source: str | Path | Adapter | None, teacher: Source, request: Request) -> Path | Source:
    """A file to train further, or an adapter to fit."""
    if isinstance(source, str | Path) and Path(source).suffix == ".adz":
        return Path(source)
    return teacher if source is None else load_source(source, request)


def _beginning(
    start: Path | Source, teacher: Source, request: Request, loaded: LoadedModel, told: TrainingReport
) -> tuple[Beginning, Parts]:
    """What training starts from, and its file by part.

    Where no file fits with the larger ranks of training, they are those of a plain fit.
    """
    left = room(told)
    beginning = beginning_of(start, teacher, request, loaded, loaded.device, left)
    parts = parts_of(beginning, told)
    try:
        fill(beginning.coder, beginning.tensors, whole(parts), beginning.limit, beginning.step)
    except CheckFailedError:
        beginning = beginning_of(start, teacher, request, loaded, loaded.device, left, more=1.0)
        parts = parts_of(beginning, told)
    return beginning, parts


def _read(data: str | Path | Sequence[Example], options: DataOptions) -> tuple[Example, ...]:
    """The examples that are given, or in a file."""
    if not isinstance(data, str | Path):
        return tuple(data)
    return read_examples(
        Path(data),
        text_field=options.text_field,
        pair_field=options.pair_field,
        completion_field=options.completion_field,
        label_field=options.label_field,
    )


def _written(guest: Guest, theirs: Factors, options: DataOptions, seed: int) -> tuple[Example, ...]:
    """Texts that base and teacher write."""
    with guest.under(theirs):
        return self_texts(guest.loaded, options.self_texts, max_tokens=options.max_tokens, seed=seed)


def _check_labels(loaded: LoadedModel, texts: Sequence[Encoded], weights: LossWeights) -> None:
    """Refuse a weight on labels that are not there."""
    if weights.labels and not any(label_count(loaded.kind, text) for text in texts):
        raise UsageError(
            "the labels have a weight in the loss, but none of the texts to train on has a label",
            hint="name them with --label-field, or drop --labels",
        )


def _needed(lessons: Teacher, schedule: Schedule) -> list[int]:
    """Texts that the schedule comes to."""
    lengths = [len(text.ids) for text in lessons.texts]
    per_epoch = -(-len(lengths) // schedule.batch)
    if schedule.steps >= per_epoch:
        return list(range(len(lengths)))
    batches = order(lengths, schedule.batch, schedule.seed)
    return sorted({i for _ in range(schedule.steps) for i in next(batches)})


def _teacher_factors(adapter: Adapter, device: torch.device) -> dict[str, Any]:
    return {
        name: (m.A.to(device, torch.float32) * m.scaling, m.B.to(device, torch.float32))
        for name, m in adapter.modules.items()
    }


def _energy(adapter: Adapter, gains: Mapping[str, int]) -> float:
    """|dW|^2 over all modules, each multiplied by its gain."""
    total = 0.0
    for name, module in adapter.modules.items():
        A, B = module.A.double(), module.B.double() * (module.scaling / divisor(gains.get(name, 0)))
        total += float(((B.T @ B) * (A @ A.T)).sum())
    return total
