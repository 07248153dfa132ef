"""From a teacher to a file that acts like it: fit, train, and measure on texts that were held out."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adaptzip.adapter import Adapter
from adaptzip.budget import Budget
from adaptzip.calibration.layers import find_layers
from adaptzip.calibration.models import Kind, load_bare
from adaptzip.comparing import diff
from adaptzip.compressed import Compressed
from adaptzip.container import writer
from adaptzip.distillation.beginning import Beginning
from adaptzip.distillation.data import Example, batches, encode, hold_out, read_examples, self_texts
from adaptzip.distillation.evaluation import Score, metric_name, score
from adaptzip.distillation.growing import grown
from adaptzip.distillation.lessons import Teacher, order
from adaptzip.distillation.loop import Moment, Problem, Schedule, State, begin, even_scale, settled, train
from adaptzip.distillation.machines import Machines, find_machines, within_memory
from adaptzip.distillation.outputs import teacher_outputs
from adaptzip.distillation.placing import beginning_of, scale_of
from adaptzip.distillation.quantising import Written
from adaptzip.distillation.student import Factors, Guest, magnitudes_of
from adaptzip.errors import RefusedError
from adaptzip.fitting import CodedAdapter
from adaptzip.gains import divisor
from adaptzip.jobs import Request, load_source
from adaptzip.methods import REFERENCE
from adaptzip.packing import unpack_tensors
from adaptzip.reconstruction import reconstruct
from adaptzip.sources import read

SELF = "self"
"""In place of a file of texts: texts that base and teacher write themselves."""
_FIGURES = 4
_LONGEST = 0.1234567
_LONGEST_ERROR = 0.000123456
"""Figures of a report, and a relative error, that take as much room as any."""
_SELF_TEXTS = 512
_PACKED_ERROR = 0.05
"""Extras that differ by no more, relatively, were packed in another way."""

Parts = Callable[[float, CodedAdapter], dict[str, int]]
"""Bytes of a file by part (`container.writer.sizes`), for blocks coded at a step."""


@dataclass(frozen=True)
class DataOptions:
    """Which texts, and how they are fed.

    Attributes:
        text_field, label_field: where a record has its text and its label; None looks for the usual names.
        held_out: share of the texts that is never trained on.
        max_tokens: texts are cut to so many tokens.
        packed: causal texts joined and cut into pieces of `max_tokens`.
        self_texts: texts written where `data` is "self".
    """

    text_field: str | None = None
    label_field: str | None = None
    held_out: float = 0.1
    max_tokens: int = 128
    packed: bool = False
    self_texts: int = _SELF_TEXTS


@dataclass(frozen=True, eq=False)
class Distilled:
    """What came of a distillation.

    Attributes:
        compressed: the file.
        rows: scores on the held-out texts of "none", "teacher", "fitted" and "distilled".
        metric: "accuracy" or "loss"; None without labels.
        steps: updates made.
        step: the update after which the file was the best; 0 where the fit was.
        seconds: trained.
        complete: whether training ran to its end.
    """

    compressed: Compressed
    rows: Mapping[str, Score]
    metric: str | None
    steps: int
    step: int
    seconds: float
    complete: bool = True


@dataclass(frozen=True, eq=False)
class Setup:
    """Everything that training needs, loaded.

    Attributes:
        rows: scores on the held-out texts, of "none" and "teacher".
        metric: "accuracy" or "loss"; None without labels.
        teacher: the adapter itself.
        texts, held_out: how many texts are trained on, and how many are not.
        parts: bytes of the file by part.
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
    report: Callable[[str, float], None] | None = None,
) -> Setup:
    """Read, fit and load what training needs.

    Raises:
        CheckpointError, FormatError: if an adapter or the data can't be read.
        BaseModelError, RefusedError: if base and adapter don't fit together, or something is missing.
        UsageError, CheckFailedError: if the request makes no sense, or nothing fits the budget.
    """
    say = report or (lambda *_: None)
    machines = find_machines(request.device)
    original = teacher if isinstance(teacher, Adapter) else _read_teacher(teacher, request)
    say("loading the model", 0.0)
    loaded = load_bare(Path(base), original, machines.device, kind)
    guest = Guest(loaded, {n: m.to(machines.device) for n, m in magnitudes_of(original.modules).items()})
    theirs = _teacher_factors(original, machines.device)
    train_on, kept = _texts(guest, theirs, data, options, schedule.seed)
    counts = (len(train_on), len(kept))
    longest = _longest(counts, schedule)
    say("fitting", 0.0)
    beginning = beginning_of(source, teacher, request, loaded, machines.device, _room(longest))
    linear = beginning.coder.method.linear
    if not linear:
        guest.behind = find_layers(loaded.model, beginning.coder.sites, Path(base))
    _check_alike(original, beginning, request)
    at_once = schedule.micro or schedule.batch
    held = batches(loaded, encode(loaded, kept, max_tokens=options.max_tokens, packed=options.packed), at_once)
    say("asking the teacher", 0.0)
    lessons = Teacher(guest, theirs, encode(loaded, train_on, max_tokens=options.max_tokens, packed=options.packed))
    with within_memory(at_once):
        answers = teacher_outputs(lambda batch: guest(batch, theirs), held)
        if not schedule.weights.watches:
            lessons.keep(_needed(lessons, schedule), at_once)
    numbers = sum(t.numel() for place, t in beginning.tensors.items() if place in set(beginning.trained))
    parts = _parts_of(beginning, longest)
    problem = Problem(
        beginning.coder,
        beginning.gains,
        beginning.tensors,
        lessons,
        held,
        answers,
        lambda step, coded: sum(parts(step, coded).values()),
        beginning.limit,
        even_scale(_energy(original, beginning.gains), numbers) if linear else scale_of(beginning.tensors),
    )
    if beginning.growth is not None:
        say("growing", 0.0)
        problem = grown(problem, beginning.growth, schedule, machines, beginning.step)
    rows = {
        "none": score(loaded, lambda batch: guest(batch, {}), held, answers),
        "teacher": score(loaded, lambda batch: guest(batch, theirs), held, answers),
    }
    labelled = rows["teacher"].metric is not None
    return Setup(
        beginning, problem, schedule, machines, rows, metric_name(loaded.kind) if labelled else None, original,
        *counts,
        parts,
    )  # fmt: skip


def finish(setup: Setup, state: State, *, complete: bool = True) -> Distilled:
    """The best file that training saw, with the report in it; where training was cut short, of its end as well."""
    problem, beginning = setup.problem, setup.beginning
    if state.step < setup.schedule.steps:
        state = settled(problem, state)
    fitted = problem.fill(beginning.tensors, beginning.step)
    best = problem.fill(problem.tensors.replaced(state.best), state.best_quantiser)
    rows = {
        **setup.rows,
        "fitted": problem.score(fitted.tensors),
        "distilled": problem.score(best.tensors),
    }
    told = _told(rows, setup.metric, state, setup)
    compressed = _assembled(beginning, best.step, best.coded, told)
    error = _error(setup.teacher, compressed, beginning)
    provenance = replace(compressed.provenance, relative_error=float(f"{error:.6g}"))
    compressed = replace(compressed, provenance=provenance)
    return Distilled(compressed, rows, setup.metric, state.step, state.best_step, state.seconds, complete)


def adapter_of(setup: Setup, written: Written) -> Adapter:
    """The adapter that coded tensors stand for, with the teacher's extras."""
    compressed = _assembled(setup.beginning, written.step, written.coded, {})
    return reconstruct(compressed, **setup.beginning.found)


def distill(
    source: str | Path | Adapter | None = None,
    output: str | Path | None = None,
    *,
    teacher: str | Path | Adapter,
    base: str | Path,
    data: str | Path | Sequence[Example],
    to: str = REFERENCE,
    budget: str | Budget | None = None,
    kind: Kind | None = None,
    schedule: Schedule | None = None,
    data_options: DataOptions | None = None,
    force: bool = False,
    progress: Callable[[Moment], None] | None = None,
    **request: Any,
) -> Distilled:
    """Fit an adapter in a method's form, then train its tensors so that base and result act like base and teacher.

    Args:
        source: a `.adz` file to train further, or an adapter to fit; None fits the teacher.
        output: where the file is written; None writes nothing.
        teacher: the adapter to act like.
        base: folder of the base model.
        data: a file of texts, "self", or examples.
        to: the method, unless `source` is a `.adz`.
        budget: most bytes of the whole file; of a `.adz` its own size where None.
        kind: what the model is for; None tells it from adapter and base.
        schedule: how long and how fast to train.
        data_options: which texts, and how they are fed.
        force: replace an existing `output`.
        progress: called after every update.
        request: further fields of `Request`, such as `options`, `basis` and `extras`.

    Raises:
        CheckpointError, FormatError, BaseModelError, RefusedError, UsageError, CheckFailedError: as `prepare`.
        OutputError: if `output` exists without `force`, or cannot be written.
    """
    setup = prepare(
        source,
        teacher=teacher,
        base=base,
        data=data,
        request=Request(to, budget, base=base, **request),
        schedule=schedule or Schedule(),
        options=data_options or DataOptions(),
        kind=kind,
    )
    state = begin(setup.problem, setup.beginning.step)
    train(
        setup.problem,
        setup.schedule,
        state,
        setup.machines,
        save=lambda _: None,
        report=progress or (lambda _: None),
    )
    made = finish(setup, state)
    if output is not None and setup.machines.first:
        writer.write(made.compressed, output, force=force)
    return made


def _read_teacher(path: str | Path, request: Request) -> Adapter:
    return read(path, alpha=request.alpha, config=request.config, base=request.base, basis=request.basis)


def _texts(
    guest: Guest, theirs: Factors, data: str | Path | Sequence[Example], options: DataOptions, seed: int
) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    if isinstance(data, str) and data == SELF:
        with guest.under(theirs):
            found = self_texts(guest.loaded, options.self_texts, max_tokens=options.max_tokens, seed=seed)
    elif isinstance(data, str | Path):
        found = read_examples(Path(data), text_field=options.text_field, label_field=options.label_field)
    else:
        found = tuple(data)
    return hold_out(found, options.held_out, seed)


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


def _check_alike(teacher: Adapter, beginning: Beginning, request: Request) -> None:
    """Refuse to train a file whose modules or extras are others than those that the teacher runs with.

    Raises:
        RefusedError: if they are.
    """
    hint = "train a file that was made of this teacher, or leave the source out"
    linear = beginning.coder.method.linear
    for name, site in beginning.coder.sites.items() if linear else ():
        module = teacher.modules.get(name)
        if module is None or module.shape != (site.out, site.width):
            found = "has none" if module is None else f"has {module.shape[0]} x {module.shape[1]}"
            raise RefusedError(f"module {name!r} is {site.out} x {site.width}, the teacher {found}", hint=hint)
    theirs = load_source(teacher, Request(extras=request.extras)).extras
    ours = {
        (e.role, e.name): t
        for e, t in zip(beginning.plan.extras.entries, unpack_tensors(beginning.plan.extras), strict=True)
    }
    for entry, tensor in zip(theirs.entries, unpack_tensors(theirs), strict=True):
        if not linear and entry.role != "extra":
            continue  # Magnitudes and biases belong to updates.
        other = ours.pop((entry.role, entry.name), None)
        if other is None or other.shape != tensor.shape or not _near(other, tensor):
            raise RefusedError(f"the {entry.role} {entry.name} is not the teacher's", hint=hint)
    for role, name in ours:
        raise RefusedError(f"the {role} {name} is not the teacher's", hint=hint)


def _near(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are the same but for how they were packed."""
    ours, theirs = a.double().nan_to_num(), b.double().nan_to_num()
    return bool((ours - theirs).norm() <= _PACKED_ERROR * theirs.norm())


def _longest(texts: tuple[int, int], schedule: Schedule) -> dict[str, Any]:
    """A report as long as it may become."""
    row = [_LONGEST, _LONGEST, _LONGEST]
    return {
        "held_out": texts[1],
        "metric": "accuracy",
        "rows": dict.fromkeys(("distilled", "fitted", "none", "teacher"), row),
        "step": schedule.steps,
        "steps": schedule.steps,
        "texts": texts[0],
    }


def _room(told: Mapping[str, Any]) -> int:
    """Bytes that a report takes in a file, about: JSON within JSON."""
    return len(json.dumps(json.dumps({"distilled": told}, separators=(",", ":"))))


def _parts_of(beginning: Beginning, told: Mapping[str, Any]) -> Parts:
    """Bytes of a file by part, with a report."""

    def parts(step: float, coded: CodedAdapter) -> dict[str, int]:
        return writer.sizes(_assembled(beginning, step, coded, told))

    return parts


def _assembled(beginning: Beginning, step: float, coded: CodedAdapter, told: Mapping[str, Any]) -> Compressed:
    plan = beginning.plan
    chunks = [coded.modules[name].chunk if name in coded.modules else b"" for name in plan.sites]
    provenance = replace(
        plan.provenance,
        relative_error=_LONGEST_ERROR,
        parameters=coded.numbers + beginning.basis_numbers,
        distilled=told,
    )
    return replace(plan, step=step, chunks=chunks, shared=coded.shared.chunk, provenance=provenance)


def _error(teacher: Adapter, compressed: Compressed, beginning: Beginning) -> float:
    """Relative error of the update; functions leave the weights as they are, so that it is the whole of it."""
    if not beginning.coder.method.linear:
        return 1.0
    return diff(teacher, reconstruct(compressed, **beginning.found)).relative_error or 0.0


def _told(rows: Mapping[str, Score], metric: str | None, state: State, setup: Setup) -> dict[str, Any]:
    return {
        "held_out": setup.held_out,
        "rows": {name: [_short(row.kl if row.kl is not None else row.cosine), _short(row.agreement), _short(row.metric)]
                 for name, row in rows.items()},
        "step": state.best_step,
        "steps": state.step,
        "texts": setup.texts,
    } | ({"metric": metric} if metric else {})  # fmt: skip


def _short(value: float | None) -> float | None:
    """A figure in few digits; None where there is none, or none that a file can hold."""
    if value is None or not isfinite(value):
        return None
    return float(f"{value:.{_FIGURES}g}") if value >= 1e-3 else round(value, 6)
