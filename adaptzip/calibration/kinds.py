"""What a model is for, told by the adapter, by the base model's config.json, or by the user."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from torch import Tensor

from adaptzip.adapter import Adapter
from adaptzip.calibration.extras import extra_tensors
from adaptzip.errors import RefusedError

Kind = Literal["causal", "classifier", "multilabel", "scores", "tokens", "encoder", "seq2seq"]
"""causal: next-token distributions. classifier: class distributions of texts. multilabel: of texts as well, where each
class is there or not. scores: numbers for texts, as of rerankers and reward models. tokens: class distributions of
their tokens. encoder: sentence embeddings. seq2seq: next-token distributions of a target text."""

OF_TEXTS: Sequence[Kind] = ("classifier", "multilabel", "scores")
"""Kinds with a trained head that puts out one row for each text."""
WITH_HEAD: Sequence[Kind] = (*OF_TEXTS, "tokens")
"""Kinds with a trained head."""

LOADERS: Mapping[Kind, str] = {
    "causal": "AutoModelForCausalLM",
    "classifier": "AutoModelForSequenceClassification",
    "multilabel": "AutoModelForSequenceClassification",
    "scores": "AutoModelForSequenceClassification",
    "tokens": "AutoModelForTokenClassification",
    "encoder": "AutoModel",
    "seq2seq": "AutoModelForSeq2SeqLM",
}
"""transformers' class that loads each kind."""

_TASKS: Mapping[str, Kind] = {
    "CAUSAL_LM": "causal",
    "SEQ_CLS": "classifier",
    "TOKEN_CLS": "tokens",
    "FEATURE_EXTRACTION": "encoder",
    "SEQ_2_SEQ_LM": "seq2seq",
}
_ENDS: Sequence[tuple[str, Kind]] = (
    ("ForSequenceClassification", "classifier"),
    ("ForTokenClassification", "tokens"),
    ("ForCausalLM", "causal"),
    ("LMHeadModel", "causal"),
)
_ENCODERS = ("ForMaskedLM", "ForPreTraining")
"""Heads of base models that adapters of encoders have no use for."""
_OTHER_HEAD = re.compile(r"For[A-Z]\w*$")
_HEADS = (
    "classifier.weight",
    "score.weight",
    "classifier.out_proj.weight",
    "classification_head.out_proj.weight",
    "logits_proj.weight",
)
_PROBLEMS: Mapping[str, Kind] = {
    "regression": "scores",
    "multi_label_classification": "multilabel",
    "single_label_classification": "classifier",
}
_HINT = "adaptzip runs language models, classifiers of texts and tokens, rerankers, encoders and seq2seq models"


def trained_head(adapter: Adapter) -> Tensor | None:
    """The weight (classes, hidden) of the classifier that the adapter brings, if it does."""
    brought = extra_tensors(adapter)
    return next((t for head in _HEADS for name, t in brought.items() if _is(name, head) and t.ndim == 2), None)


def _is(name: str, head: str) -> bool:
    """By whole names: DistilBERT's `pre_classifier` is no `classifier`."""
    return name == head or name.endswith(f".{head}")


def kind_of_base(config: Any) -> Kind:
    """What a base model's configuration says that it is; an encoder if nothing else."""
    for name in config.architectures or ():
        for end, kind in _ENDS:
            if name.endswith(end):
                return kind
        if name.endswith("ForConditionalGeneration"):
            return "seq2seq" if config.is_encoder_decoder else "causal"
    return "encoder"


def kind_of(config: Any, adapter: Adapter, able: Sequence[Kind] = ()) -> Kind:
    """What an adapter makes of a base model.

    PEFT's task type counts where the rest does not speak against it: a classifier needs a head, which the adapter or
    the base must have, and a model that writes text has none. Otherwise a head tells a classifier, and after that the
    base's configuration.

    Args:
        able: what transformers has a class for, which counts where the configuration names no class.

    Raises:
        RefusedError: if the adapter's task or the base's head is another than these.
    """
    head = trained_head(adapter) is not None
    named = str(adapter.meta.config.get("task_type") or "")
    if named and named not in _TASKS:
        raise RefusedError(f"the adapter is for the task {named}, whose outputs are not compared", hint=_HINT)
    task = _TASKS.get(named)
    base = kind_of_base(config)
    if not config.architectures:
        base = next(iter(able), base)
    possible: Mapping[Kind, bool] = {
        "classifier": head or base == "classifier",
        "tokens": head or base == "tokens",
        "causal": not head and (base == "causal" or not config.architectures and "causal" in able),
        "seq2seq": not head and bool(config.is_encoder_decoder),
        "encoder": not head,
    }
    if task is not None and possible[task]:
        return task
    if head:
        return "tokens" if base == "tokens" else "classifier"
    if base == "encoder":
        _check_no_other_head(config)
    return base


def _check_no_other_head(config: Any) -> None:
    for name in config.architectures or ():
        if _OTHER_HEAD.search(name) and not name.endswith(_ENCODERS):
            raise RefusedError(f"the base is a {name}, whose outputs are not compared", hint=_HINT)


def settled_kind(kind: Kind, config: Any, given: bool) -> Kind:
    """Which kind of head a classifier's is, by its problem_type, or by its number of outputs.

    Args:
        config: of the model as it is loaded.
        given: whether the user named the kind, so that the configuration does not change it.

    Raises:
        RefusedError: if tokens have but one class.
    """
    outputs = config.num_labels
    if kind == "tokens" and outputs == 1:
        raise RefusedError("a classifier of tokens with one class says the same of all", hint=_HINT)
    if kind != "classifier":
        return kind
    problem = getattr(config, "problem_type", None)
    if outputs == 1 and problem != "multi_label_classification":
        return "scores"
    return kind if given or problem is None else _PROBLEMS.get(problem, kind)
