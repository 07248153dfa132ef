"""What a student is asked to match: the teacher's distributions, its activations, and labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

from torch import Tensor
from torch.nn import functional

from adaptzip.errors import RefusedError, UsageError
from adaptzip.models.live.rows import apart
from adaptzip.models.live.running import NO_LABEL, Kind


@dataclass(frozen=True)
class LossWeights:
    """How much each part of the loss counts.

    Attributes:
        kl: KL divergence from the teacher's to the student's distributions, in nats, times temperature^2 (Hinton,
            Vinyals and Dean 2015); for an encoder 1 - cosine of the embeddings, for scores the squared
            error.
        hidden: relative squared error of the hidden states, averaged over layers.
        modules: the same of the outputs of the adapter's modules.
        labels: cross-entropy against the labels, where there are any; for scores the squared error.
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
        hidden: hidden states, each (tokens, hidden) of tokens that are no padding; empty where nobody looks.
        modules: outputs of the adapter's modules, likewise, in one order.
    """

    rows: Tensor
    hidden: Sequence[Tensor] = ()
    modules: Sequence[Tensor] = ()


@dataclass(frozen=True)
class Counts:
    """What the means of a batch are taken over, of which only a part may be run at once.

    Attributes:
        rows: its rows.
        labels: rows that have a label.
    """

    rows: int
    labels: int


def loss(
    kind: Kind, weights: LossWeights, teacher: Seen, student: Seen, labels: Tensor | None, whole: Counts
) -> Tensor:
    """What some rows of a batch add to its weighted loss.

    The distributions and the labels are averaged over the whole batch, so that it does not matter in which parts it is
    run. Activations count by their error relative to that of the rows they are run with.

    Args:
        labels: of each row, `NO_LABEL` where it has none; None without labels.
        whole: of the batch.

    Raises:
        RefusedError: if the model does not put out what is to be matched.
    """
    share = len(student.rows) / whole.rows
    total = weights.kl * _apart(kind, teacher.rows.float(), student.rows.float(), weights.temperature) * share
    if weights.hidden:
        total = total + weights.hidden * share * _mean_relative("hidden states", teacher.hidden, student.hidden)
    if weights.modules:
        total = total + weights.modules * share * _mean_relative("module outputs", teacher.modules, student.modules)
    if weights.labels and labels is not None and whole.labels:
        total = total + weights.labels * _from_labels(kind, student.rows.float(), labels) / whole.labels
    return total


def _apart(kind: Kind, teacher: Tensor, student: Tensor, temperature: float) -> Tensor:
    if kind in ("encoder", "scores"):
        return apart(kind, teacher, student) / len(teacher)
    if kind == "multilabel":
        return apart(kind, teacher / temperature, student / temperature) / len(teacher) * temperature**2
    p = functional.log_softmax(teacher / temperature, 1)
    q = functional.log_softmax(student / temperature, 1)
    return functional.kl_div(q, p, log_target=True, reduction="batchmean") * temperature**2


def _from_labels(kind: Kind, rows: Tensor, labels: Tensor) -> Tensor:
    """The loss under the labels, summed over rows."""
    if kind in ("multilabel", "scores"):
        there = ~labels.isnan().any(1)
        if kind == "scores":
            return (rows[there] - labels[there]).square().sum()
        return functional.binary_cross_entropy_with_logits(rows[there], labels[there], reduction="sum")
    return functional.cross_entropy(rows, labels, ignore_index=NO_LABEL, reduction="sum")


def _mean_relative(what: str, teacher: Sequence[Tensor], student: Sequence[Tensor]) -> Tensor:
    """|y - y'|^2 / |y|^2, averaged over tensors."""
    if not student:
        raise RefusedError(f"the model puts out no {what} to be matched", hint="leave this loss out")
    shares = []
    for ours, theirs in zip(student, teacher, strict=True):
        energy = theirs.float().square().sum().clamp(min=1e-12)
        shares.append((ours.float() - theirs.float()).square().sum() / energy)
    return sum(shares[1:], shares[0]) / len(shares)
