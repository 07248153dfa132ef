"""What adapters make of the same data, held against their teacher: the functional number beside the weights' error."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adaptzip.adapter import Adapter
from adaptzip.calibration.models import NO_LABEL, Batch, Kind, LoadedModel, load_bare, load_teacher
from adaptzip.calibration.rows import compare_embeddings, compare_logits, count_right, summed_loss
from adaptzip.distillation.data import Example, batches, encode
from adaptzip.distillation.outputs import outputs, teacher_outputs
from adaptzip.distillation.sizes import Sizes, sizes_of
from adaptzip.distillation.student import place
from adaptzip.errors import BaseModelError, CheckFailedError, RefusedError, UsageError
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
class Score:
    """What a model makes of the data.

    Attributes:
        kl: mean KL divergence from the model's to the teacher's distribution, in nats; None for an encoder.
        agreement: share of these distributions with the same largest entry; None for an encoder.
        cosine: mean of 1 - cosine with the teacher's embeddings; None unless an encoder.
        metric: accuracy (classifier, tokens) or loss in nats per token (causal, seq2seq); None without labels.
        samples: distributions or embeddings compared.
    """

    kl: float | None
    agreement: float | None
    cosine: float | None
    metric: float | None
    samples: int

    @property
    def distance(self) -> float | None:
        """From the teacher: the KL, or for an encoder 1 - cosine."""
        return self.kl if self.kl is not None else self.cosine


@dataclass(frozen=True)
class Evaluation:
    """Adapters side by side.

    Attributes:
        kind: what the model is for.
        metric: "accuracy" or "loss"; None where the data has no labels or the model takes none.
        rows: scores by name, first of "no adapter" and "teacher".
        bytes: of the file, by name; None where it is not known.
        samples: distributions or embeddings compared.
        sizes: more about the files, by name, where they are known.
    """

    kind: Kind
    metric: str | None
    rows: Mapping[str, Score]
    bytes: Mapping[str, int | None]
    samples: int
    sizes: Mapping[str, Sizes] = field(default_factory=dict)

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
        progress: called with the row that is being made and the share of all that is done.

    Raises:
        CheckpointError, FormatError: if an adapter is unreadable, or labels are no classes of the model.
        BaseModelError: if the base can't be loaded, or an adapter does not fit it.
        RefusedError: if transformers is missing, or a classifier comes without its head.
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
    with _about(TEACHER):
        loaded = load_teacher(base, original, where, kind)
    parts = batches(loaded, encode(loaded, examples, max_tokens=max_tokens), batch)
    expected = teacher_outputs(loaded, parts)
    rows = {TEACHER: _score(loaded, parts, ((out, out) for out in expected))}
    found = loaded.kind
    del loaded  # Unless its outputs are too large to keep, this frees the model before the next one is loaded.
    for number, name in enumerate([NOTHING, *students], 1):
        report(name, number / len(names))
        with _about(name):
            rows[name] = _run_student(base, original, adapters.get(name), parts, expected, found)
    metric = None if rows[TEACHER].metric is None else metric_name(found)
    ordered = {name: rows[name] for name in names}
    return Evaluation(found, metric, ordered, dict.fromkeys(names), rows[TEACHER].samples).with_sizes(sizes)


def metric_name(kind: Kind) -> str | None:
    """What `Score.metric` is for a kind of model: "accuracy" or "loss"; None for an encoder."""
    return {"classifier": "accuracy", "tokens": "accuracy", "causal": "loss", "seq2seq": "loss"}.get(kind)


def score(
    loaded: LoadedModel,
    model: Callable[[Batch], Tensor],
    batches: Sequence[Batch],
    teacher: Sequence[Tensor],
) -> Score:
    """Hold a model's outputs against the teacher's, and against the labels where there are some.

    Args:
        loaded: says what the model is for, and which labels a batch's rows have.
        model: gives the rows (rows, width) of a batch.
        teacher: the teacher's rows of each batch.

    Raises:
        BaseModelError: if the two do not put out the same shape.
        CheckFailedError: if there is no row at all.
    """
    with torch.no_grad():
        return _score(loaded, batches, ((model(batch), out) for batch, out in zip(batches, teacher, strict=True)))


def _score(loaded: LoadedModel, batches: Sequence[Batch], pairs: Iterable[tuple[Tensor, Tensor]]) -> Score:
    """Of (rows, the teacher's rows) of each batch."""
    samples = labelled = 0
    away = same = measured = 0.0
    for batch, (rows, expected) in zip(batches, pairs, strict=True):
        if rows.shape != expected.shape:
            raise BaseModelError(
                f"puts out {rows.shape[1]} numbers a sample, the teacher {expected.shape[1]}",
                hint="compare adapters of one task, with the same classes",
            )
        samples += len(rows)
        if loaded.kind == "encoder":
            away += compare_embeddings(expected, rows)[0]
            continue
        kl, alike = compare_logits(expected, rows)
        away, same = away + kl, same + alike
        labels = loaded.rows_labels(batch)
        if labels is not None:
            labelled += int((labels != NO_LABEL).sum())
            counts = metric_name(loaded.kind) == "accuracy"
            measured += count_right(rows, labels) if counts else summed_loss(rows, labels)
    if not samples:
        raise CheckFailedError("none of the texts has a token", hint="give texts that are not empty")
    if loaded.kind == "encoder":
        return Score(None, None, away / samples, None, samples)
    return Score(away / samples, same / samples, None, measured / labelled if labelled else None, samples)


def _run_student(
    base: Path,
    teacher: Adapter,
    student: Adapter | Functions | None,
    batches: Sequence[Batch],
    expected: Sequence[Tensor],
    kind: Kind,
) -> Score:
    """Score a student, and leave no model behind in memory."""
    loaded = _load_student(base, teacher, student, batches[0].ids.device, kind)
    return score(loaded, loaded, batches, expected)


def _teacher(found: Adapter | Functions) -> Adapter:
    if isinstance(found, Functions):
        raise RefusedError(
            "the teacher is a file of functions behind layers, not of updates", hint="give the adapter it was made from"
        )
    return found


def _load_student(
    base: Path, teacher: Adapter, student: Adapter | Functions | None, device: torch.device, kind: Kind
) -> LoadedModel:
    """The base with a student on it, which has the teacher's extras where it brings none."""
    if student is None:
        return load_bare(base, teacher, device, kind)
    if isinstance(student, Functions):
        loaded = load_bare(base, replace(teacher, extras=student.extras or teacher.extras), device, kind)
        place(loaded, student, base)
        return loaded
    own = student.extras and student.meta.config
    complete = replace(student, extras=student.extras or teacher.extras, meta=student.meta if own else teacher.meta)
    return load_teacher(base, complete, device, kind)


@contextmanager
def _about(name: str) -> Iterator[None]:
    """Name the row in errors about the base model, which know nothing of it."""
    try:
        yield
    except (BaseModelError, RefusedError) as error:
        raise type(error)(f"{name}: {error}", hint=error.hint) from error
