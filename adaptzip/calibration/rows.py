"""Comparing what two models put out, row by row, and outputs with labels: sums, in float64."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from adaptzip.calibration.kinds import Kind

_AT_ONCE = 2**22
"""Numbers that are turned into float64 at a time: a large vocabulary's logits need not fit twice as wide."""


def apart(kind: Kind, teacher: Tensor, student: Tensor) -> Tensor:
    """Sum over rows (rows, width) of two outputs' distance; differentiable.

    The KL divergence from student to teacher in nats; of several labels that of each class, summed; of scores the
    squared error, summed over outputs; of an encoder 1 - cosine.
    """
    if kind == "encoder":
        return (1 - functional.cosine_similarity(teacher, student)).sum()
    if kind == "scores":
        return (teacher - student).square().sum()
    if kind == "multilabel":
        chosen, left = _log_shares(teacher), _log_shares(-teacher)
        return (chosen.exp() * (chosen - _log_shares(student)) + left.exp() * (left - _log_shares(-student))).sum()
    p, q = functional.log_softmax(teacher, 1), functional.log_softmax(student, 1)
    return (p.exp() * (p - q)).sum()


def _log_shares(logits: Tensor) -> Tensor:
    return functional.logsigmoid(logits)


def alike(kind: Kind, teacher: Tensor, student: Tensor) -> float:
    """Rows (rows, width) that are decided alike: by their largest entry, of several labels the share of the classes.

    NaN for scores and embeddings, which decide nothing.
    """
    if kind in ("encoder", "scores"):
        return float("nan")
    if kind == "multilabel":
        return float(((teacher > 0) == (student > 0)).double().mean(1).sum())
    return float((teacher.argmax(1) == student.argmax(1)).sum())


def compare(kind: Kind, teacher: Tensor, student: Tensor) -> tuple[float, float]:
    """`apart` in float64, and `alike`."""
    total = torch.zeros((), dtype=torch.float64, device=teacher.device)
    for a, b in _parts(teacher, student):
        total += apart(kind, a.double(), b.double())
    return float(total), alike(kind, teacher, student)


def compare_logits(teacher: Tensor, student: Tensor) -> tuple[float, int]:
    """Of logits (rows, classes): the summed KL divergence from student to teacher in nats, and the rows with the same
    largest entry."""
    total, same = compare("classifier", teacher, student)
    return total, round(same)


def compare_embeddings(teacher: Tensor, student: Tensor) -> tuple[float, float, float]:
    """Of embeddings (rows, width): the sums of 1 - cosine, of |a - b|^2 and of |a|^2."""
    a, b = teacher.double(), student.double()
    away = (1 - functional.cosine_similarity(a, b)).sum()
    return float(away), float((a - b).square().sum()), float(a.square().sum())


def count_right(rows: Tensor, labels: Tensor) -> int:
    """Rows (rows, classes) whose largest entry is at their label; labels below 0 are nobody's."""
    return int((rows.argmax(1) == labels).sum())


def summed_loss(rows: Tensor, labels: Tensor) -> float:
    """The summed cross entropy in nats of rows (rows, classes) under their labels, -100 where there is none."""
    total = torch.zeros((), dtype=torch.float64, device=rows.device)
    for part, expected in _parts(rows, labels):
        total += functional.cross_entropy(part.double(), expected, reduction="sum")
    return float(total)


def _parts(first: Tensor, second: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    size = max(1, _AT_ONCE // max(1, first.shape[1]))
    return zip(torch.split(first, size), torch.split(second, size), strict=True)
