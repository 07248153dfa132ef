"""What a student is asked to match: the teacher's distributions, its activations, and labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

from torch import Tensor
from torch.nn import functional

from adaptzip.calibration.models import Kind
from adaptzip.errors import UsageError

NO_LABEL = -100


@dataclass(frozen=True)
class LossWeights:
    """How much each part of the loss counts.

    Attributes:
        kl: KL divergence from the teacher's to the student's distributions, in nats, times temperature^2 (Hinton,
            Vinyals and Dean 2015); for an encoder 1 - cosine of the embeddings.
        hidden: relative squared error of the hidden states, averaged over layers.
        modules: the same of the outputs of the adapter's modules.
        labels: cross-entropy against the labels, where there are any.
        temperature: what logits are divided by before the KL.
    """

    kl: float = 1.0
    hidden: float = 0.0
    modules: float = 0.0
    labels: float = 0.0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        parts = {"kl": self.kl, "hidden": self.hidden, "modules": self.modules, "labels": self.labels}
        for name, value in parts.items():
            if not (isfinite(value) and value >= 0):
                raise UsageError(f"the weight of loss {name!r} is {value:g}, expected 0 or more")
        if not any(parts.values()):
            raise UsageError("every loss has the weight 0", hint="give one of kl, hidden, modules, labels a weight")
        if not (isfinite(self.temperature) and self.temperature > 0):
            raise UsageError(f"temperature is {self.temperature:g}, expected more than 0")

    @property
    def watches(self) -> bool:
        """Whether the loss looks into the model, so that the teacher has to run beside the student."""
        return self.hidden > 0 or self.modules > 0


@dataclass(frozen=True, eq=False)
class Seen:
    """What a model made of a batch.

    Attributes:
        rows: its rows (`LoadedModel`).
        hidden: hidden states, each (texts, tokens, hidden); empty where nobody looks.
        modules: outputs of the adapter's modules, in one order.
    """

    rows: Tensor
    hidden: Sequence[Tensor] = ()
    modules: Sequence[Tensor] = ()


def loss(kind: Kind, weights: LossWeights, teacher: Seen, student: Seen, labels: Tensor | None, mask: Tensor) -> Tensor:
    """The weighted sum, a mean over rows.

    Args:
        labels: of each row, `NO_LABEL` where it has none; None without labels.
        mask: (texts, tokens) bool: tokens that are no padding.
    """
    total = weights.kl * _apart(kind, teacher.rows, student.rows, weights.temperature)
    if weights.hidden:
        total = total + weights.hidden * _mean_relative(teacher.hidden, student.hidden, mask)
    if weights.modules:
        total = total + weights.modules * _mean_relative(teacher.modules, student.modules, mask)
    if weights.labels and labels is not None and bool((labels != NO_LABEL).any()):
        total = total + weights.labels * functional.cross_entropy(student.rows, labels, ignore_index=NO_LABEL)
    return total


def _apart(kind: Kind, teacher: Tensor, student: Tensor, temperature: float) -> Tensor:
    if kind == "encoder":
        return (1 - functional.cosine_similarity(teacher, student)).mean()
    p = functional.log_softmax(teacher / temperature, 1)
    q = functional.log_softmax(student / temperature, 1)
    return functional.kl_div(q, p, log_target=True, reduction="batchmean") * temperature**2


def _mean_relative(teacher: Sequence[Tensor], student: Sequence[Tensor], mask: Tensor) -> Tensor:
    """|y - y'|^2 / |y|^2 over tokens that are no padding, averaged over tensors."""
    shares = []
    for ours, theirs in zip(student, teacher, strict=True):
        kept = mask.unsqueeze(-1) if theirs.ndim == mask.ndim + 1 and theirs.shape[:2] == mask.shape else 1.0
        shares.append(((ours - theirs) * kept).square().sum() / (theirs * kept).square().sum().clamp(min=1e-12))
    return sum(shares[1:], shares[0]) / len(shares)
