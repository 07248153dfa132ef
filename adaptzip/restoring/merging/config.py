"""config.json of a merged model: what a trained head or a changed embedding changes in the base's."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from adaptzip.core.effects import HEAD_NAMES
from adaptzip.models.configs import text_part

TASK_ENDINGS = {
    "SEQ_CLS": "ForSequenceClassification",
    "TOKEN_CLS": "ForTokenClassification",
    "QUESTION_ANS": "ForQuestionAnswering",
}
"""transformers' class for each of PEFT's task types that have a head of their own."""

_ENCODERS = ("encoder", "text_encoder")
_ENDING = re.compile(r"(?:With)?(?:LMHead|DoubleHeads)?Model$|For[A-Z]\w*$")


def merged_config(
    config: Mapping[str, Any],
    task_type: str | None,
    heads: Mapping[str, tuple[int, ...]],
    sizes: tuple[int, int] | None = None,
    *,
    untied: bool = False,
    names: Sequence[str] | None = None,
) -> dict[str, Any]:
    """The merged model's configuration.

    A trained head makes it the model class for the task with the head's number of labels; embeddings that are
    no longer one parameter are untied; a resized embedding sets the vocabulary size.

    Args:
        config: the base's configuration.
        task_type: PEFT's task type of the adapter.
        heads: the shape of every tensor of a trained head, by name.
        sizes: the number of tokens before and after, where it changes.
        untied: the embeddings are no longer one parameter.
        names: the adapter's names of its labels, for a head with as many of them.
    """
    changed = dict(config)
    if heads and task_type in TASK_ENDINGS:
        changed.update(_architecture(config, TASK_ENDINGS[task_type]))
    labels = _labels(heads) if task_type in (None, "SEQ_CLS", "TOKEN_CLS") else None
    if labels is not None and names is not None and labels == len(names):
        if {str(i): name for i, name in enumerate(names)} != config.get("id2label"):
            changed = _labelled(changed, names)
    elif labels is not None and labels != _label_count(config):
        changed = _labelled(changed, [f"LABEL_{i}" for i in range(labels)])
    if untied:
        changed = _untied(changed)
    return changed if sizes is None else _resized(changed, *sizes)


def _labelled(config: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    changed = {key: value for key, value in config.items() if key != "num_labels"}
    changed["id2label"] = {str(i): name for i, name in enumerate(names)}
    return changed | {"label2id": {name: i for i, name in enumerate(names)}}


def _untied(config: Mapping[str, Any]) -> dict[str, Any]:
    """Both the whole and its language model's part say it, as some classes read the one and some the other."""
    changed = {**config, "tie_word_embeddings": False}
    if "tie_embedding" in changed:
        changed["tie_embedding"] = False
    part = text_part(config)
    return changed if part is None else changed | {part: _untied(config[part])}


def _resized(config: Mapping[str, Any], old: int, new: int) -> dict[str, Any]:
    """The vocabulary's size is the innermost language model's, and is told again wherever the old one was."""
    changed = dict(config)
    part = text_part(config)
    if part is None or changed.get("vocab_size") == old:
        changed["vocab_size"] = new
    if part is not None:
        changed[part] = _resized(config[part], old, new)
    for other in _ENCODERS:
        inner = config.get(other)
        if isinstance(inner, Mapping) and inner.get("vocab_size") == old:
            changed[other] = _resized(inner, old, new)
    return changed


def _architecture(config: Mapping[str, Any], ending: str) -> dict[str, Any]:
    """The class for the task, named after the base's class: BertModel, BertForMaskedLM -> BertFor..."""
    names = config.get("architectures")
    if not isinstance(names, list) or not names or not isinstance(names[0], str):
        return {}
    stem = _ENDING.sub("", names[0])
    return {"architectures": [stem + ending]} if stem else {}


def _labels(heads: Mapping[str, tuple[int, ...]]) -> int | None:
    """How many rows the head's last layer has: its output projection where it has several layers."""
    weights = {name: shape for name, shape in heads.items() if len(shape) == 2 and name.endswith(".weight")}
    for endings in (("out_proj.weight",), tuple(f"{head}.weight" for head in HEAD_NAMES)):
        for name, shape in weights.items():
            if name.endswith(endings) and not name.endswith("pre_classifier.weight"):
                return shape[0]
    return None


def _label_count(config: Mapping[str, Any]) -> int:
    labels = config.get("id2label")
    return len(labels) if isinstance(labels, Mapping) else int(config.get("num_labels", 2))
