"""How far a student adapter is from its teacher, in what the model says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import sqrt
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from adaptzip.checkpoints import resolved
from adaptzip.core.adapter import Adapter
from adaptzip.models.live.rows import compare_rows
from adaptzip.models.live.running import Kind, load_teacher


@dataclass(frozen=True)
class Distance:
    """What two adapters on one base make of the same texts.

    Attributes:
        kind: what the model is for.
        kl: mean KL divergence from the student's to the teacher's distribution, in nats: of the next token, per token
            (causal, seq2seq), or of the class, per text (classifier) or token (tokens); None for an encoder; of
            scores the squared error.
        agreement: share of these distributions with the same largest entry; None for an encoder and for scores.
        cosine: mean of 1 - cosine of the sentence embeddings; None unless an encoder.
        relative: |e - e'| / |e| of the sentence embeddings, over all texts; None unless an encoder.
        samples: distributions or embeddings compared.
    """

    kind: Kind
    kl: float | None
    agreement: float | None
    cosine: float | None
    relative: float | None
    samples: int


def distance(
    base: Path,
    teacher: Adapter,
    student: Adapter,
    texts: Sequence[str],
    *,
    batch: int = 16,
    max_tokens: int = 256,
    device: torch.device | None = None,
) -> Distance:
    """Run both adapters on the texts. The base is in memory twice, in float32.

    A student without extras is given the teacher's, so that a bare update can be compared.

    Raises:
        BaseModelError, RefusedError: as `load_teacher`.
        CheckFailedError: if none of the texts has a token that counts.
    """
    where = device or torch.device("cpu")
    complete = replace(student, extras=student.extras or teacher.extras, meta=teacher.meta)
    a = load_teacher(base, resolved(teacher), where)
    b = load_teacher(base, resolved(complete), where)
    first = second = third = 0.0
    samples = 0
    with torch.inference_mode():
        for part in a.batches(texts, batch, max_tokens):
            out, other = a(part), b(part)
            samples += len(out)
            if a.kind == "encoder":
                away, error, energy = _compare_embeddings(out, other)
                first, second, third = first + away, second + error, third + energy
            else:
                apart, alike = compare_rows(a.kind, out, other)
                first, second = first + float(apart.sum()), second + float(alike.sum())
    if a.kind == "encoder":
        return Distance(a.kind, None, None, first / samples, sqrt(second / third), samples)
    same = None if a.kind == "scores" else second / samples
    return Distance(a.kind, first / samples, same, None, None, samples)


def _compare_embeddings(teacher: Tensor, student: Tensor) -> tuple[float, float, float]:
    """Of embeddings (rows, width): the sums of 1 - cosine, of |a - b|^2 and of |a|^2."""
    a, b = teacher.double(), student.double()
    away = (1 - functional.cosine_similarity(a, b)).sum()
    return float(away), float((a - b).square().sum()), float(a.square().sum())
