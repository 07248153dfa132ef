"""Everything that training needs, read, fitted and loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from adaptzip.checkpoints._base_name import warn_of_local_name
from adaptzip.core.adapter import Adapter
from adaptzip.core.function_method import FunctionMethod
from adaptzip.core.gains import divisor
from adaptzip.core.progress import Progress, silent
from adaptzip.core.training_report import TrainingReport
from adaptzip.distillation.alike import check_alike
from adaptzip.distillation.beginning import Beginning
from adaptzip.distillation.files import Parts, parts_of, whole
from adaptzip.distillation.growing import GROWING, grown
from adaptzip.distillation.keeping import student_of
from adaptzip.distillation.lessons import Teacher, check_labels, needed, nothing_to_learn
from adaptzip.distillation.machines import Machines, find_machines, within_memory
from adaptzip.distillation.pacing import check_even
from adaptzip.distillation.placing import starting_from
from adaptzip.distillation.problem import Problem, even_scale
from adaptzip.distillation.quantising import fill
from adaptzip.distillation.reports import longest, room
from adaptzip.distillation.schedules import Schedule
from adaptzip.distillation.student import Factors, Guest, magnitudes_of
from adaptzip.distillation.tensors import scale_of, trained_of
from adaptzip.errors import CheckFailedError, RefusedError, UsageError
from adaptzip.fitting.asked_banks import refuse_training
from adaptzip.fitting.loading import load_source
from adaptzip.fitting.requests import Original, Request
from adaptzip.models.live.batches import (
    Example,
    batches,
    check_words,
    encode,
    examples_of,
    hold_out,
    read_examples,
    self_texts,
)
from adaptzip.models.live.finite import watched
from adaptzip.models.live.labels import fitted, reading_of
from adaptzip.models.live.layers import find_layers
from adaptzip.models.live.loaded import Scored
from adaptzip.models.live.running import Kind, LoadedModel, Loading, load_bare
from adaptzip.reports.measures.metrics import metric_name
from adaptzip.reports.outputs import teacher_outputs
from adaptzip.reports.scores import Score, score
from adaptzip.restoring.opening import tokeniser_folder

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
        packed: causal texts to train on joined and cut into pieces of `max_tokens`; those held out stay whole.
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
        texts, held_out: how many texts, or pieces of packed ones, are trained on, and how many texts are not; those of
            which no token counts are neither.
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
    data: str | Path | Sequence[Example | str],
    request: Request,
    schedule: Schedule,
    options: DataOptions,
    kind: Kind | None = None,
    machines: Machines | None = None,
    say: Progress = silent,
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
    check_even(schedule, growing=request.allocate == GROWING)
    refuse_training(request)
    given = load_source(teacher, request if source is None else replace(request, calibration=None))
    original = given.adapter
    read = _read(data, options)
    say("loading the model", 0, 1)
    tokeniser = None if isinstance(teacher, Adapter) else tokeniser_folder(teacher)
    loading = Loading(kind, tokeniser=tokeniser, tell=True, strict=True)
    loaded = replace(load_bare(Path(base), original, machines.device, loading=loading), score=options.score)
    theirs = _teacher_factors(original, machines.device)
    magnitudes = {n: m.to(machines.device) for n, m in magnitudes_of(original.modules).items()}
    examples = _written(Guest(loaded, magnitudes), theirs, options, schedule.seed) if read is None else read
    loaded = fitted(loaded, examples, given=kind is not None)
    guest = Guest(loaded, magnitudes)
    reading = reading_of(loaded, examples)
    check_words(loaded, examples, reading)
    split = hold_out(examples, options.held_out, schedule.seed)
    train_on = encode(loaded, split[0], max_tokens=options.max_tokens, packed=options.packed, reading=reading)
    kept = encode(loaded, split[1], max_tokens=options.max_tokens, reading=reading)
    check_labels(loaded.kind, train_on, schedule.weights)
    counts = (len(train_on), len(kept))
    told = longest(*counts, schedule.most)
    say("fitting", 0, 1)
    request = replace(request, device=str(machines.device))
    start = _start(source, given, request)
    beginning, parts = _affordable(start, given, request, loaded, told)
    warn_of_local_name(beginning.plan.meta.base_model)
    linear = not isinstance(beginning.coder.method, FunctionMethod)
    if not linear:
        guest.behind = find_layers(loaded.model, beginning.coder.sites, Path(base))
    if start is not given:
        check_alike(given, beginning)
    at_once = schedule.micro or schedule.batch
    say("asking the teacher", 0, 1)
    lessons = Teacher(guest, theirs, train_on)
    with within_memory(at_once):
        held = batches(loaded, kept, at_once)
        answers = teacher_outputs(watched(loaded, lambda batch: guest(batch, theirs)), held)
        if not schedule.weights.watches:
            lessons.keep(needed(lessons, schedule), at_once)
    rows = {
        "none": score(loaded, lambda batch: guest(batch, {}), held, answers),
        "teacher": score(loaded, lambda batch: guest(batch, theirs), held, answers),
    }
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
        rows["none"].distance or 0.0,
    )
    if nothing_to_learn(lessons, schedule.weights, at_once):
        raise _nothing_to_learn(rows["none"].distance == rows["teacher"].distance)
    if beginning.growth is not None:
        say("growing", 0, 1)
        problem = grown(problem, beginning.growth, schedule, machines, beginning.step)
    labelled = rows["teacher"].metric is not None
    return Setup(
        beginning, problem, schedule, machines, rows, metric_name(loaded.kind) if labelled else None, original,
        *counts,
        parts,
        tokeniser,
    )  # fmt: skip


def _start(source: str | Path | Adapter | None, teacher: Original, request: Request) -> Path | Original:
    """A file to train further, or an adapter to fit."""
    if isinstance(source, str | Path) and Path(source).suffix == ".adz":
        return Path(source)
    return teacher if source is None else load_source(source, request)


def _affordable(
    start: Path | Original, teacher: Original, request: Request, loaded: LoadedModel, told: TrainingReport
) -> tuple[Beginning, Parts]:
    """What training starts from, and its file by part.

    Where no file fits with the larger ranks of training, they are those of a plain fit.
    """
    left = room(told)
    beginning = starting_from(start, teacher, request, loaded, loaded.device, left)
    parts = parts_of(beginning, told)
    try:
        fill(beginning.coder, beginning.tensors, whole(parts), beginning.limit, beginning.step)
    except CheckFailedError:
        beginning = starting_from(start, teacher, request, loaded, loaded.device, left, more=1.0)
        parts = parts_of(beginning, told)
    return beginning, parts


def _nothing_to_learn(same: bool) -> RefusedError:
    """Why: base and teacher put out the same, or what differs has no weight in the loss."""
    if same:
        return RefusedError(
            "the base without the teacher's updates puts out the same as with them for all of the texts: there is "
            "nothing to learn",
            hint="give texts that reach the modules of the adapter",
        )
    return RefusedError(
        "the loss, as it is weighted, is the same without the teacher's updates as with them for all of the texts: "
        "there is nothing to learn",
        hint="give `kl=`, or another part of the loss that the adapter changes, a weight",
    )


def _read(data: str | Path | Sequence[Example | str], options: DataOptions) -> tuple[Example, ...] | None:
    """The examples that are given, or in a file; None where they are yet to be written."""
    if not isinstance(data, str | Path) or data == SELF:
        _check_unnamed(options)
        return None if isinstance(data, str | Path) else examples_of(data)
    return read_examples(
        Path(data),
        text_field=options.text_field,
        pair_field=options.pair_field,
        completion_field=options.completion_field,
        label_field=options.label_field,
    )


def _check_unnamed(options: DataOptions) -> None:
    """Refuse fields where there are no rows that could have them."""
    given = {
        "`text_field=`": options.text_field,
        "`pair_field=`": options.pair_field,
        "`completion_field=`": options.completion_field,
        "`label_field=`": options.label_field,
    }
    for option, field in given.items():
        if field is not None:
            raise UsageError(
                f"{option} was given as {field!r}, and no file of texts that has fields",
                hint=f"drop {option}, or give a file as `data=`",
            )


def _written(guest: Guest, theirs: Factors, options: DataOptions, seed: int) -> tuple[Example, ...]:
    """Texts that base and teacher write."""
    with guest.under(theirs):
        return self_texts(guest.loaded, options.self_texts, max_tokens=options.max_tokens, seed=seed)


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
