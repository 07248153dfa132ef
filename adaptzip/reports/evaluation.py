"""What adapters make of the same data, held against their teacher: the functional number beside the weights' error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from adaptzip.checkpoints import resolved
from adaptzip.core.adapter import Adapter
from adaptzip.core.calling import public
from adaptzip.core.linalg import choose_device
from adaptzip.core.progress import Progress, silent
from adaptzip.errors import BaseModelError, RefusedError, UsageError, naming
from adaptzip.models.folder import BaseModel
from adaptzip.models.hub import base_path
from adaptzip.models.live.batches import Example, batches, encode, examples_of
from adaptzip.models.live.finite import watched
from adaptzip.models.live.labels import fitted, reading_of
from adaptzip.models.live.layers import find_layers, put_before, put_behind
from adaptzip.models.live.loaded import Scored
from adaptzip.models.live.running import Batch, Kind, LoadedModel, Loading, load_bare, load_teacher
from adaptzip.reports.measures.differences import differences
from adaptzip.reports.measures.metrics import Metric, chosen_metric, metric_name, metrics_of, settled_name, values_of
from adaptzip.reports.measures.tallies import Tally, tally
from adaptzip.reports.outputs import outputs, teacher_outputs
from adaptzip.reports.results import NOTHING, TEACHER, Evaluation
from adaptzip.reports.scores import Score, score, score_of, tallied
from adaptzip.reports.sizes import Sizes, sizes_of
from adaptzip.restoring.functions import Functions, read_either
from adaptzip.restoring.opening import tokeniser_folder

__all__ = [
    "NOTHING",
    "TEACHER",
    "Evaluation",
    "Score",
    "evaluate",
    "metric_name",
    "outputs",
    "score",
    "teacher_outputs",
]


@public
def evaluate(
    base: str | Path,
    teacher: Adapter | Functions | str | Path,
    students: Mapping[str, Adapter | Functions | str | Path | None],
    examples: Sequence[Example | str],
    *,
    batch: int = 16,
    max_tokens: int = 256,
    device: str | torch.device = "auto",
    kind: Kind | None = None,
    basis: str | Path | None = None,
    merged: bool = False,
    tokeniser: str | Path | None = None,
    scored: Scored | None = None,
    whole: Sequence[Example | str] | None = None,
    metric: str | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Evaluation:
    """Run a base model with its teacher, without any adapter, and with every student on the same data.

    One model is in memory at a time, in float32, beside the teacher's outputs; where those take more than 1 GiB,
    the teacher stays in their place.

    Args:
        base: the folder of the base model.
        teacher: the adapter that the others are held against, or a checkpoint of functions, or its path.
        students: adapters, functions, or paths of PEFT folders, weight files and `.adz` files, by the name of their
            row. None is no update at all. One without extras of its own gets the teacher's.
        examples: the data, see `adaptzip.models.live.batches.read_examples`; plain strings are texts without labels.
        batch: texts that are run together.
        max_tokens: texts are cut to so many tokens.
        device: "auto" (CUDA when present), "cpu", "cuda" or "cuda:1".
        kind: what the model is for; None tells it from the teacher and the base.
        basis: the basis artefact, for `.adz` files that name one.
        merged: updates of a weight that several layers share count in all of them, as in a merged model; else only in
            the layer that the adapter names, as in the live model.
        tokeniser: a folder whose tokeniser is taken; None takes that of the teacher's folder where it has one, and
            else the base's.
        scored: "completion" or "all" of a prompt with its completion; None scores completions where there are some.
        whole: the data that the examples are a part of, all of which tells how labels are read.
        metric: what `Score.metric` is and gains are told by, such as "macro F1" or "macro-f1"; None takes the kind's
            main one: accuracy, loss, F1 (multilabel) or squared error.
        seed: draws the resamples that the intervals of differences are told by.
        progress: told how far it is (`adaptzip.core.progress.Progress`).

    Raises:
        CheckpointError, FormatError: if an adapter is unreadable, or labels are no classes of the model.
        BaseModelError: if the base can't be loaded, or an adapter does not fit it.
        RefusedError: if transformers is missing, a classifier comes without its head, or outputs are not finite.
        RefusedError: if the teacher is a file of distilled functions, or the metric needs scikit-learn, which is
            missing.
        UsageError: if a student's name is one of the rows that are always there, or the metric is none of this kind or
            there are no labels for it, or the examples are a path.
        CheckFailedError: if none of the texts has a token.

    Example:
        >>> small = adaptzip.compress("my-adapter", "small.adz", max_error=0.01)
        >>> found = adaptzip.evaluate("base-model", "my-adapter", {"small": "small.adz"}, ["a b c", "d e f"])
        >>> found.kind, list(found.rows)
        ('classifier', ['no adapter', 'teacher', 'small'])
        >>> found.rows["small"].kl < found.rows["no adapter"].kl
        True
    """
    where, base, data = choose_device(device), base_path(base), examples_of(examples)
    every = examples_of(whole or data)
    for name in (NOTHING, TEACHER):
        if name in students:
            raise UsageError(f"{name!r} is the name of a row that is always there", hint="give it another name")
    wanted = None if metric is None else settled_name(metric)
    adapters: dict[str, Adapter | Functions] = {}
    sizes: dict[str, Sizes] = {}
    for name, given in {TEACHER: teacher, **students}.items():
        if isinstance(given, Adapter | Functions):
            adapters[name] = resolved(given) if isinstance(given, Adapter) else given
        elif given is not None:
            adapters[name] = read_either(given, base=base, basis=basis)
            sizes[name] = sizes_of(given, adapters[name])
    original = _beside_functions(adapters[TEACHER])
    names = [NOTHING, TEACHER, *students]
    report = progress or silent
    report(TEACHER, 0, len(names))
    BaseModel.open(base)
    loading = Loading(kind, merged, _tokeniser(tokeniser, teacher), tell=True, strict=True)
    with _about(TEACHER):
        loaded = fitted(_load_student(base, original, adapters[TEACHER], where, loading), every, given=kind is not None)
    loaded = replace(loaded, score=scored)
    reading = reading_of(loaded, every)
    encoded = encode(loaded, data, max_tokens=max_tokens, reading=reading)
    parts = batches(loaded, encoded, batch)
    chosen = _metric(wanted, loaded, parts)
    with _about(TEACHER):
        expected = teacher_outputs(watched(loaded, loaded), parts)
    tallies = {TEACHER: tally(loaded, parts, ((out, out) for out in expected))}
    loading = replace(loading, kind=loaded.kind, tell=False)
    del loaded  # Unless its outputs are too large to keep, this frees the model before the next one is loaded.
    for number, name in enumerate([NOTHING, *students], 1):
        report(name, number, len(names))
        with _about(name):
            tallies[name] = _run_student(base, original, adapters.get(name), parts, expected, loading)
    told = _told(chosen, wanted is not None, {name: tallies[name] for name in names}, seed)
    return replace(told, texts=len(encoded)).with_sizes(sizes)


def _metric(wanted: str | None, loaded: LoadedModel, batches: Sequence[Batch]) -> Metric | None:
    """What the rows are measured by; None where there is nothing to measure them by."""
    labelled = any(loaded.rows_labels(batch) is not None for batch in batches)
    width = len(loaded.classes)
    if wanted is None:
        return metrics_of(loaded.kind, width)[0] if labelled else None
    found = chosen_metric(wanted, loaded.kind, width)
    if not labelled:
        raise UsageError(
            f"the data has no labels to tell the {wanted} by", hint="name them with `label_field=`, or drop `metric=`"
        )
    return found


def _told(metric: Metric | None, chosen: bool, tallies: Mapping[str, Tally], seed: int) -> Evaluation:
    """Scores, metrics and differences of all rows."""
    teacher = tallies[TEACHER]
    rows = {name: score_of(own) for name, own in tallies.items()}
    metrics = {name: values_of(own) for name, own in tallies.items()}
    if metric is not None and metric.name != metric_name(teacher.kind):
        rows = {name: replace(row, metric=metrics[name][metric.name], second=None) for name, row in rows.items()}
    measured = metric if chosen or rows[TEACHER].metric is not None else None
    return Evaluation(
        teacher.kind,
        None if measured is None else measured.name,
        rows,
        dict.fromkeys(rows),
        rows[TEACHER].samples,
        metrics=metrics,
        differences=differences(measured, {name: own for name, own in tallies.items() if name != NOTHING}, seed),
    )


def _tokeniser(given: str | Path | None, teacher: Adapter | Functions | str | Path) -> Path | None:
    """The folder named, or that of the teacher where it has a tokeniser."""
    if given is not None or isinstance(teacher, Adapter | Functions):
        return None if given is None else Path(given)
    return tokeniser_folder(teacher)


def _run_student(
    base: Path,
    teacher: Adapter,
    student: Adapter | Functions | None,
    batches: Sequence[Batch],
    expected: Sequence[Tensor],
    loading: Loading,
) -> Tally:
    """Run a student, and leave no model behind in memory."""
    loaded = _load_student(base, teacher, student, batches[0].ids.device, loading)
    return tallied(loaded, watched(loaded, loaded), batches, expected)


def _beside_functions(found: Adapter | Functions) -> Adapter:
    """A teacher's extras and what tells its kind: an adapter as it is, or one without updates beside functions."""
    if isinstance(found, Adapter):
        return found
    if not found.kept:
        raise RefusedError(
            "the teacher is a file of functions that were distilled", hint="give the adapter it was made from"
        )
    return resolved(Adapter({}, found.extras, found.meta))


def _load_student(
    base: Path, teacher: Adapter, student: Adapter | Functions | None, device: torch.device, loading: Loading
) -> LoadedModel:
    """The base with a student on it, which has the teacher's extras where it brings none."""
    if student is None:
        return load_bare(base, teacher, device, loading=loading)
    if isinstance(student, Functions):
        kept = resolved(replace(teacher, extras=student.extras or teacher.extras))
        loaded = load_bare(base, kept, device, loading=loading)
        place(loaded, student, base)
        return loaded
    own = student.extras and student.meta.config
    complete = replace(student, extras=student.extras or teacher.extras, meta=student.meta if own else teacher.meta)
    return load_teacher(base, resolved(complete), device, loading=loading)


def _about(name: str) -> AbstractContextManager[None]:
    """Name the row in errors about the base model, which know nothing of it."""
    return naming("the teacher" if name == TEACHER else name, BaseModelError, RefusedError)


def place(loaded: LoadedModel, functions: Functions, base: Path) -> None:
    """Put a file's functions on a model for good.

    Raises:
        BaseModelError: if the model lacks one of the layers.
    """
    for name, layer in find_layers(loaded.model, functions.modules, base).items():
        put_behind(layer.module, functions.modules[name])
    for name, layer in find_layers(loaded.model, functions.before, base).items():
        put_before(layer.module, functions.before[name])
