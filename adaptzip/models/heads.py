"""Trained heads that an adapter brings, told by the names of its extras."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor

from adaptzip.core.adapter import Adapter
from adaptzip.models.extras import extra_tensors

_HEADS = (
    "classifier.weight",
    "score.weight",
    "classifier.out_proj.weight",
    "classification_head.out_proj.weight",
    "logits_proj.weight",
)
_OTHERS: Mapping[str, str] = {
    "qa_outputs": "question answering",
    "v_head": "reinforcement learning (a value head)",
    "cls": "a masked language model",
    "qa_classifier": "question answering",
}
"""Modules that are the head of another task, and of which."""


def trained_head(adapter: Adapter) -> Tensor | None:
    """The weight (classes, hidden) of the classifier that the adapter brings, if it does."""
    brought = extra_tensors(adapter)
    return next((t for head in _HEADS for name, t in brought.items() if _is(name, head) and t.ndim == 2), None)


def head_among(names: Iterable[str]) -> str | None:
    """The name of a classifier's weight among those of a base model's tensors."""
    known = list(names)
    return next((name for head in _HEADS for name in known if _is(name, head)), None)


def other_head(adapter: Adapter) -> tuple[str, str] | None:
    """A tensor of another task's head that the adapter brings, and which task that is."""
    named = ((name, part) for name in extra_tensors(adapter) for part in name.split("."))
    return next(((name, _OTHERS[part]) for name, part in named if part in _OTHERS), None)


def _is(name: str, head: str) -> bool:
    """By whole names: DistilBERT's `pre_classifier` is no `classifier`."""
    return name == head or name.endswith(f".{head}")
