"""Comparing what two models put out, row by row, and outputs with labels: sums, in float64."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

_AT_ONCE = 2**22
"""Numbers that are turned into float64 at a time: a large vocabulary's logits need not fit twice as wide."""


def compare_logits(teacher: Tensor, student: Tensor) -> tuple[float, int]:
    """Of logits (rows, classes): the summed KL divergence from student to teacher in nats, and the rows with the same
    largest entry."""
    total = torch.zeros((), dtype=torch.float64, device=teacher.device)
    for a, b in _parts(teacher, student):
        p, q = functional.log_softmax(a.double(), 1), functional.log_softmax(b.double(), 1)
        total += (p.exp() * (p - q)).sum()
    return float(total), int((teacher.argmax(1) == student.argmax(1)).sum())


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
