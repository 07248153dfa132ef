"""From a teacher to a file that acts like it: fit, train, and measure on texts that were held out."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Unpack

import torch

from adaptzip.adz.coding.packing import ExtrasMode
from adaptzip.adz.container import writer
from adaptzip.core.adapter import Adapter
from adaptzip.core.basis import Basis
from adaptzip.core.budget import AnyBudget, Budget
from adaptzip.core.calling import public
from adaptzip.core.comparing import diff
from adaptzip.core.compressed import Compressed
from adaptzip.core.function_method import FunctionMethod
from adaptzip.core.progress import Progress, silent
from adaptzip.distillation.beginning import Beginning
from adaptzip.distillation.files import assembled
from adaptzip.distillation.loop import concluded, first_state, train
from adaptzip.distillation.pacing import paced
from adaptzip.distillation.preparing import SELF, DataOptions, Setup, prepare
from adaptzip.distillation.problem import Moment, State
from adaptzip.distillation.reports import report
from adaptzip.distillation.schedules import Schedule
from adaptzip.errors import warn
from adaptzip.files.atomic import check_output
from adaptzip.files.inputs import check_apart
from adaptzip.fitting.keywords import method_options
from adaptzip.fitting.requests import Request
from adaptzip.methods import REFERENCE, MethodOptions
from adaptzip.models.hub import base_path
from adaptzip.models.live.batches import Example
from adaptzip.models.live.running import Kind
from adaptzip.reports.scores import Score
from adaptzip.restoring.reconstruction import reconstruct


@dataclass(frozen=True, eq=False)
class Distilled:
    """What came of a distillation.

    Attributes:
        compressed: the file.
        rows: scores on the held-out texts of "none", "teacher", "fitted" (of a file that was given, its own) and
            "distilled".
        metric: "accuracy" or "loss"; None without labels.
        steps: updates made.
        step: the update after which the file was the best; 0 where the fit, or the file given, was.
        seconds: trained.
    """

    compressed: Compressed
    rows: Mapping[str, Score]
    metric: str | None
    steps: int
    step: int
    seconds: float


def finish(setup: Setup, state: State) -> Distilled:
    """The best file that training saw, with the report in it; where training was cut short, of its end as well."""
    problem, beginning = setup.problem, setup.beginning
    if state.step < setup.schedule.steps:
        state = concluded(problem, state)
    given, step = beginning.given, state.best_step
    fitted = given or problem.fill(beginning.tensors, beginning.step)
    best = given if given and not step else problem.fill(problem.tensors.replaced(state.best), state.best_quantiser)
    start, end = problem.score(fitted.tensors), problem.score(best.tensors)
    if (start.distance or 0.0) < (end.distance or 0.0):
        # Ranks that grew can do worse than those of the fit.
        best, step, end = fitted, 0, start
    rows = {**setup.rows, "fitted": start, "distilled": end}
    told = report(rows, setup.metric, texts=setup.texts, held_out=setup.held_out, step=step, steps=state.step)
    compressed = assembled(beginning, best.step, best.coded, told)
    if best is given:
        warn("no file that training saw is nearer to the teacher than the one given, whose update is kept as it was")
        if writer.size(compressed) > beginning.limit:
            compressed = beginning.plan
    error = _error(setup.teacher, compressed, beginning)
    provenance = replace(compressed.provenance, relative_error=float(f"{error:.6g}"))
    compressed = replace(compressed, provenance=provenance)
    return Distilled(compressed, rows, setup.metric, state.step, step, state.seconds)


@public
def distill(
    source: str | Path | Adapter | None = None,
    output: str | Path | None = None,
    *,
    teacher: str | Path | Adapter,
    base: str | Path,
    data: str | Path | Sequence[Example | str],
    to: str = REFERENCE,
    budget: AnyBudget | None = None,
    max_error: float | None = None,
    extras: ExtrasMode = "lossless",
    alpha: float | None = None,
    config: str | Path | None = None,
    dialect: str | None = None,
    device: str | torch.device = "auto",
    seed: int = 0,
    basis: str | Path | Basis | None = None,
    embed_basis: bool = False,
    start: str | Path | None = None,
    calibration: str | Path | None = None,
    allocate: str | None = None,
    ranks: Mapping[str, int] | None = None,
    base_name: str | None = None,
    text_field: str | None = None,
    pair_field: str | None = None,
    completion_field: str | None = None,
    kind: Kind | None = None,
    schedule: Schedule | None = None,
    data_options: DataOptions | None = None,
    force: bool = False,
    progress: Progress | None = None,
    moments: Callable[[Moment], None] | None = None,
    options: Mapping[str, Any] | None = None,
    **settings: Unpack[MethodOptions],
) -> Distilled:
    """Fit an adapter in a method's form, then train its tensors so that base and result act like base and teacher.

    Args:
        source: a `.adz` file to train further, or an adapter to fit; None fits the teacher.
        output: where the file is written; None writes nothing.
        teacher: the adapter to act like.
        base: folder of the base model.
        data: a file of texts, "self", or examples; plain strings in a sequence are texts without labels.
        to: the method, unless `source` is a `.adz`.
        budget: an upper limit in parameters, bytes or as a share of the teacher's file (`Budget`); of a `.adz` never
            in parameters, and its own size where None.
        max_error: largest relative error of the fit that training starts from.
        extras: how tensors that are no factors are kept: "lossless", "float16", "bfloat16" or "int8".
        alpha, config, dialect: as for `read`, of the teacher.
        device: "auto", "cpu", "cuda", "cuda:N" or a `torch.device`.
        seed: of every random choice of the fit; a `Schedule` has that of training.
        basis: a basis, or the path of a basis artefact, for methods that need one.
        embed_basis: store the basis in the file, which then needs neither base nor artefact.
        start: where A began, as for `compress`.
        calibration: a file of texts; the fit's errors are then weighted by what the base feeds each module.
        allocate: "uniform", "energy" or "increlora": how ranks are shared out over modules.
        ranks: the largest rank of each module of the fit; modules that it does not name are left out.
        base_name: what the file calls the base model; None keeps the adapter's own name for it.
        text_field, pair_field, completion_field: where the rows of `calibration` have the text, the second of a pair,
            and what completes it; those of `data` are named in `data_options`.
        kind: what the model is for; None tells it from adapter and base.
        schedule: how long and how fast to train.
        data_options: which texts, and how they are fed.
        force: replace an existing `output`.
        progress: told how far it is (`adaptzip.core.progress.Progress`).
        moments: called after every update, with the loss and what else training knows of itself.
        options: the method's own options by name, such as {"rank": 3} of vblora; svd needs none.
        settings: the same by name, as in `rank=3`, for the methods of this package.

    Raises:
        CheckpointError, FormatError: if an adapter or the data can't be read.
        BaseModelError, RefusedError: if base and adapter don't fit together, or something is missing.
        UsageError: if options contradict each other or are unknown, or `output` is or lies in what is read.
        CheckFailedError: if nothing fits the budget, or training fails.
        OutputError: if `output` exists without `force`, or cannot be written.

    Example:
        >>> from adaptzip.distillation.schedules import Schedule
        >>> made = adaptzip.distill(
        ...     teacher="my-adapter",
        ...     base="base-model",
        ...     data=["a b c", "d e f", "b d", "c a", "f e d", "a f"],
        ...     budget="60%",
        ...     schedule=Schedule(steps=4, batch=2, every=2),
        ... )
        >>> made.steps, sorted(made.rows)
        (4, ['distilled', 'fitted', 'none', 'teacher'])
    """
    began = time.monotonic()
    chosen = method_options(distill, (to,), options, settings)
    base = base_path(base)
    asked = Request(
        to=to,
        budget=Budget.of(budget),
        max_error=max_error,
        extras=extras,
        alpha=alpha,
        config=config,
        dialect=dialect,
        device=device,
        seed=seed,
        base=base,
        basis=basis,
        embed_basis=embed_basis,
        start=start,
        calibration=calibration,
        allocate=allocate,
        ranks=ranks,
        options=chosen,
        base_name=base_name,
        text_field=text_field,
        pair_field=pair_field,
        completion_field=completion_field,
    )
    if output is not None:
        texts = data if isinstance(data, str | Path) and data != SELF else None
        check_apart(output, **asked.inputs | {"source": source, "teacher": teacher, "data": texts})
        check_output(output, force)
    setup = prepare(
        source,
        teacher=teacher,
        base=base,
        data=data,
        request=asked,
        schedule=schedule or Schedule(),
        options=data_options or DataOptions(),
        kind=kind,
        say=progress or silent,
    )
    state = first_state(setup.problem, setup.beginning.step, setup.beginning.given)
    planned = paced(setup.problem, setup.schedule, state, setup.machines, began)
    setup = replace(setup, schedule=planned)
    train(
        setup.problem,
        setup.schedule,
        state,
        setup.machines,
        save=lambda _: None,
        report=partial(_heard, progress or silent, moments),
    )
    made = finish(setup, state)
    if output is not None and setup.machines.first:
        writer.write(made.compressed, output, force=force)
    return made


def _heard(progress: Progress, moments: Callable[[Moment], None] | None, moment: Moment) -> None:
    """Tell both who wait how far training is."""
    progress("training", moment.step, moment.steps)
    if moments is not None:
        moments(moment)


def _error(teacher: Adapter, compressed: Compressed, beginning: Beginning) -> float:
    """Relative error of the update; functions leave the weights as they are, so that it is the whole of it."""
    if isinstance(beginning.coder.method, FunctionMethod):
        return 1.0
    return diff(teacher, reconstruct(compressed, **beginning.found)).relative_error or 0.0
