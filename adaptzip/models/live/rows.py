"""Comparing what two models put out, row by row, and outputs with labels: in float64."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from adaptzip.models.kinds import Kind

_AT_ONCE = 2**22
"""Numbers that are turned into float64 at a time: a large vocabulary's logits need not fit twice as wide."""


def apart(kind: Kind, teacher: Tensor, student: Tensor) -> Tensor:
    """Sum over rows (rows, width) of two outputs' distance (`distances`); differentiable."""
    return distances(kind, teacher, student).sum()


def distances(kind: Kind, teacher: Tensor, student: Tensor) -> Tensor:
    """Two outputs' distance, row by row: of (rows, width) each (rows,); differentiable.

    The KL divergence from student to teacher in nats; of several labels that of each class, summed; of scores the
    squared error, summed over outputs; of an encoder 1 - cosine.
    """
    if kind == "encoder":
        return 1 - functional.cosine_similarity(teacher, student)
    if kind == "scores":
        return (teacher - student).square().sum(1)
    if kind == "multilabel":
        chosen, left = _log_shares(teacher), _log_shares(-teacher)
        return (chosen.exp() * (chosen - _log_shares(student)) + left.exp() * (left - _log_shares(-student))).sum(1)
    p, q = functional.log_softmax(teacher, 1), functional.log_softmax(student, 1)
    return (p.exp() * (p - q)).sum(1)


def _log_shares(logits: Tensor) -> Tensor:
    return functional.logsigmoid(logits)


def alike(kind: Kind, teacher: Tensor, student: Tensor) -> float:
    """Rows (rows, width) that are decided alike (`decided_alike`); NaN for scores and embeddings."""
    return float(decided_alike(kind, teacher, student).sum())


def decided_alike(kind: Kind, teacher: Tensor, student: Tensor) -> Tensor:
    """Whether each row (rows, width) is decided alike, (rows,) float64: by its largest entry, of several labels the
    share of the classes.

    NaN for scores and embeddings, which decide nothing.
    """
    if kind in ("encoder", "scores"):
        return torch.full((len(teacher),), torch.nan, dtype=torch.float64, device=teacher.device)
    if kind == "multilabel":
        return ((teacher > 0) == (student > 0)).double().mean(1)
    return (teacher.argmax(1) == student.argmax(1)).double()


def compare_rows(kind: Kind, teacher: Tensor, student: Tensor) -> tuple[Tensor, Tensor]:
    """Of each row: `distances` in float64, and `decided_alike`; (rows,) each."""
    # No distance is below 0 but by rounding.
    parts = [distances(kind, a.double(), b.double()).clamp(min=0) for a, b in _parts(teacher, student)]
    return torch.cat(parts), decided_alike(kind, teacher, student)


def losses(rows: Tensor, labels: Tensor) -> Tensor:
    """The cross entropy in nats of each row (rows, classes) under its label, (rows,) float64; 0 where that is -100."""
    parts = (functional.cross_entropy(a.double(), b, reduction="none") for a, b in _parts(rows, labels))
    return torch.cat(list(parts))


def _parts(first: Tensor, second: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    size = max(1, _AT_ONCE // max(1, first.shape[1]))
    return zip(torch.split(first, size), torch.split(second, size), strict=True)
