"""Losses against plain formulas, and in parts against the whole."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from adaptzip.distillation.losses import Counts, LossWeights, Seen, loss
from adaptzip.errors import RefusedError, UsageError

ROWS, WIDTH = 7, 5


def numbers(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


TEACHER, STUDENT = numbers(ROWS, WIDTH, seed=0), numbers(ROWS, WIDTH, seed=1)
LABELS = torch.tensor([0, 4, -100, 2, 1, -100, 3])
WHOLE = Counts(ROWS, 5)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_kl_is_that_of_the_definition(temperature: float) -> None:
    found = loss("causal", LossWeights(temperature=temperature), Seen(TEACHER), Seen(STUDENT), None, WHOLE)
    p, q = (TEACHER / temperature).softmax(1), (STUDENT / temperature).softmax(1)
    expected = (p * (p / q).log()).sum(1).mean() * temperature**2
    assert float(found) == pytest.approx(float(expected), rel=1e-5)


def test_an_encoder_is_compared_by_angles() -> None:
    found = loss("encoder", LossWeights(), Seen(TEACHER), Seen(STUDENT), None, WHOLE)
    cosine = (functional.normalize(TEACHER, dim=1) * functional.normalize(STUDENT, dim=1)).sum(1)
    assert float(found) == pytest.approx(float((1 - cosine).mean()), rel=1e-5)


def test_labels_count_where_there_are_some() -> None:
    weights = LossWeights(kl=0.0, labels=2.0)
    found = loss("tokens", weights, Seen(TEACHER), Seen(STUDENT), LABELS, WHOLE)
    kept = LABELS != -100
    expected = -STUDENT[kept].log_softmax(1).gather(1, LABELS[kept].unsqueeze(1)).mean()
    assert float(found) == pytest.approx(2 * float(expected), rel=1e-5)
    assert float(loss("tokens", weights, Seen(TEACHER), Seen(STUDENT), None, WHOLE)) == 0


@pytest.mark.parametrize("part", ["hidden", "modules"])
def test_activations_count_by_their_relative_error(part: str) -> None:
    theirs, ours = [numbers(6, 4, seed=2), numbers(6, 8, seed=3)], [numbers(6, 4, seed=4), numbers(6, 8, seed=5)]
    weights: Any = LossWeights(kl=0.0, **{part: 3.0})
    found = loss("causal", weights, Seen(TEACHER, **{part: theirs}), Seen(STUDENT, **{part: ours}), None, WHOLE)
    shares = [float((b - a).square().sum() / a.square().sum()) for a, b in zip(theirs, ours, strict=True)]
    assert float(found) == pytest.approx(3 * sum(shares) / 2, rel=1e-5)
    with pytest.raises(RefusedError, match="puts out no"):
        loss("causal", weights, Seen(TEACHER), Seen(STUDENT), None, WHOLE)


def test_parts_of_a_batch_add_up() -> None:
    weights = LossWeights(kl=1.0, labels=0.5, temperature=2.0)
    student = STUDENT.clone().requires_grad_()
    whole = loss("causal", weights, Seen(TEACHER), Seen(student), LABELS, WHOLE)
    (expected,) = torch.autograd.grad(whole, student)
    parts = [
        loss("causal", weights, Seen(TEACHER[part]), Seen(student[part]), LABELS[part], WHOLE)
        for part in (slice(0, 2), slice(2, 3), slice(3, None))
    ]
    (found,) = torch.autograd.grad(sum(parts), student)  # type: ignore[arg-type]
    assert sum(part.item() for part in parts) == pytest.approx(whole.item(), rel=1e-5)
    torch.testing.assert_close(found, expected)


def test_half_precision_is_compared_in_full() -> None:
    half = STUDENT.bfloat16()
    found = loss("causal", LossWeights(), Seen(TEACHER), Seen(half), None, WHOLE)
    expected = loss("causal", LossWeights(), Seen(TEACHER), Seen(half.float()), None, WHOLE)
    assert found.dtype is torch.float32
    assert float(found) == float(expected)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"kl": -1.0}, "the weight of loss 'kl' is -1"),
        ({"hidden": float("nan")}, "the weight of loss 'hidden' is nan"),
        ({"kl": 0.0}, "every loss has the weight 0"),
        ({"temperature": 0.0}, "temperature is 0"),
    ],
)
def test_weights_that_make_no_sense(weights: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        LossWeights(**weights)
