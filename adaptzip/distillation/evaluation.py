"""What adapters make of the same data, held against their teacher: the functional number beside the weights' error."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adaptzip.adapter import Adapter
from adaptzip.calibration.finite import watched
from adaptzip.calibration.loaded import Scored
from adaptzip.calibration.models import Batch, Kind, LoadedModel, Loading, load_bare, load_teacher
from adaptzip.calibration.tokenisers import tokeniser_folder
from adaptzip.distillation.data import Example, batches, encode
from adaptzip.distillation.labels import fitted, reading_of
from adaptzip.distillation.outputs import outputs, teacher_outputs
from adaptzip.distillation.scores import Score, metric_name, score, score_pairs, second_metric_name
from adaptzip.distillation.sizes import Sizes, sizes_of
from adaptzip.distillation.student import place
from adaptzip.errors import BaseModelError, RefusedError, UsageError
from adaptzip.fitting import Progress
from adaptzip.functions import Functions, read_either
from adaptzip.linalg import choose_device

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

NOTHING = "no adapter"
"""The row of the update zero, with the teacher's extras kept."""
TEACHER = "teacher"
"""The teacher's row."""


@dataclass(frozen=True)
class Evaluation:
    """Adapters side by side.

    Attributes:
        kind: what the model is for.
        metric: "accuracy", "loss", "F1" or "squared error"; None where the data has no labels or the model takes none.
        rows: scores by name, first of "no adapter" and "teacher".
        bytes: of the file, by name; None where it is not known.
        samples: distributions or embeddings compared.
        sizes: more about the files, by name, where they are known.
        texts: how many were looked at.
    """

    kind: Kind
    metric: str | None
    rows: Mapping[str, Score]
    bytes: Mapping[str, int | None]
    samples: int
    sizes: Mapping[str, Sizes] = field(default_factory=dict)
    texts: int = 0

    @property
    def second(self) -> str | None:
        """What `Score.second` is: "macro F1" or "rank correlation"; None where there is none."""
        return None if self.metric is None else second_metric_name(self.kind)

    def gain(self, name: str) -> float | None:
        """Share of the teacher's improvement over no adapter that is kept; None without a metric to tell it by."""
        nothing, teacher, own = (self.rows[row].metric for row in (NOTHING, TEACHER, name))
        if nothing is None or teacher is None or own is None or teacher == nothing:
            return None
        return (own - nothing) / (teacher - nothing)

    def with_sizes(self, sizes: Mapping[str, Sizes]) -> Evaluation:
        """The same with sizes of files, by name."""
        return replace(self, bytes={**self.bytes, **{name: s.bytes for name, s in sizes.items()}}, sizes=sizes)

    def as_dict(self) -> dict[str, Any]:
        """The evaluation as JSON values."""
        return {
            "kind": self.kind,
            "metric": self.metric,
            "second": self.second,
            "samples": self.samples,
            "rows": [self._row(name) for name in self.rows],
        }

    def _row(self, name: str) -> dict[str, Any]:
        sizes = self.sizes.get(name)
        return {
            "name": name,
            "method": sizes.method if sizes else None,
            "bytes": self.bytes[name],
            "update_bytes": sizes.update_bytes if sizes else None,
            **asdict(self.rows[name]),
            "gain": self.gain(name),
        }


def evaluate(
    base: str | Path,
    teacher: Adapter | Functions | str | Path,
    students: Mapping[str, Adapter | Functions | str | Path | None],
    examples: Sequence[Example],
    *,
    batch: int = 16,
    max_tokens: int = 256,
    device: str = "auto",
    kind: Kind | None = None,
    basis: str | Path | None = None,
    merged: bool = False,
    tokeniser: str | Path | None = None,
    scored: Scored | None = None,
    whole: Sequence[Example] | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Run a base model with its teacher, without any adapter, and with every student on the same data.

    One model is in memory at a time, in float32, beside the teacher's outputs; where those take more than 1 GiB,
    the teacher stays in their place.

    Args:
        base: the folder of the base model.
        teacher: the adapter that the others are held against, or its path.
        students: adapters, functions, or paths of PEFT folders, weight files and `.adz` files, by the name of their
            row. None is no update at all. One without extras of its own gets the teacher's.
        examples: the data, see `adaptzip.distillation.data.read_examples`.
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
        progress: called with the row that is being made and the share of all that is done.

    Raises:
        CheckpointError, FormatError: if an adapter is unreadable, or labels are no classes of the model.
        BaseModelError: if the base can't be loaded, or an adapter does not fit it.
        RefusedError: if transformers is missing, a classifier comes without its head, or outputs are not finite.
        RefusedError: if the teacher is a file of functions.
        UsageError: if a student's name is one of the rows that are always there.
        CheckFailedError: if none of the texts has a token.
    """
    where, base = choose_device(device), Path(base)
    for name in (NOTHING, TEACHER):
        if name in students:
            raise UsageError(f"{name!r} is the name of a row that is always there", hint="give it another name")
    adapters: dict[str, Adapter | Functions] = {}
    sizes: dict[str, Sizes] = {}
    for name, given in {TEACHER: teacher, **students}.items():
        if isinstance(given, Adapter | Functions):
            adapters[name] = given
        elif given is not None:
            adapters[name] = read_either(given, base=base, basis=basis)
            sizes[name] = sizes_of(given, adapters[name])
    original = _teacher(adapters[TEACHER])
    names = [NOTHING, TEACHER, *students]
    report = progress or (lambda *_: None)
    report(TEACHER, 0.0)
    loading = Loading(kind, merged, _tokeniser(tokeniser, teacher), tell=True, strict=True)
    with _about(TEACHER):
        loaded = fitted(load_teacher(base, original, where, loading=loading), whole or examples)
    loaded = replace(loaded, score=scored)
    reading = reading_of(loaded, whole or examples)
    encoded = encode(loaded, examples, max_tokens=max_tokens, reading=reading)
    parts = batches(loaded, encoded, batch)
    with _about(TEACHER):
        expected = teacher_outputs(watched(loaded, loaded), parts)
    rows = {TEACHER: score_pairs(loaded, parts, ((out, out) for out in expected))}
    found = loaded.kind
    loading = replace(loading, kind=found, tell=False)
    del loaded  # Unless its outputs are too large to keep, this frees the model before the next one is loaded.
    for number, name in enumerate([NOTHING, *students], 1):
        report(name, number / len(names))
        with _about(name):
            rows[name] = _run_student(base, original, adapters.get(name), parts, expected, loading)
    metric = None if rows[TEACHER].metric is None else metric_name(found)
    ordered = {name: rows[name] for name in names}
    told = Evaluation(found, metric, ordered, dict.fromkeys(names), rows[TEACHER].samples, texts=len(encoded))
    return told.with_sizes(sizes)


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
) -> Score:
    """Score a student, and leave no model behind in memory."""
    loaded = _load_student(base, teacher, student, batches[0].ids.device, loading)
    return score(loaded, watched(loaded, loaded), batches, expected)


def _teacher(found: Adapter | Functions) -> Adapter:
    if isinstance(found, Functions):
        raise RefusedError(
            "the teacher is a file of functions behind layers, not of updates", hint="give the adapter it was made from"
        )
    return found


def _load_student(
    base: Path, teacher: Adapter, student: Adapter | Functions | None, device: torch.device, loading: Loading
) -> LoadedModel:
    """The base with a student on it, which has the teacher's extras where it brings none."""
    if student is None:
        return load_bare(base, teacher, device, loading=loading)
    if isinstance(student, Functions):
        loaded = load_bare(base, replace(teacher, extras=student.extras or teacher.extras), device, loading=loading)
        place(loaded, student, base)
        return loaded
    own = student.extras and student.meta.config
    complete = replace(student, extras=student.extras or teacher.extras, meta=student.meta if own else teacher.meta)
    return load_teacher(base, complete, device, loading=loading)


@contextmanager
def _about(name: str) -> Iterator[None]:
    """Name the row in errors about the base model, which know nothing of it."""
    try:
        yield
    except (BaseModelError, RefusedError) as error:
        row = "the teacher" if name == TEACHER else name
        raise type(error)(f"{row}: {error}", hint=error.hint) from error
