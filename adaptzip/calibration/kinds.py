"""What a model is for, told by the adapter, by the base model's config.json, or by the user."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from torch import Tensor

from adaptzip.adapter import Adapter
from adaptzip.calibration.layers import extra_tensors

Kind = Literal["causal", "classifier", "tokens", "encoder", "seq2seq"]
"""causal: next-token distributions. classifier: class distributions of texts. tokens: of their tokens.
encoder: sentence embeddings. seq2seq: next-token distributions of a target text."""

LOADERS: Mapping[Kind, str] = {
    "causal": "AutoModelForCausalLM",
    "classifier": "AutoModelForSequenceClassification",
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
_HEADS = ("classifier.weight", "score.weight", "classifier.out_proj.weight", "classification_head.out_proj.weight")


def trained_head(adapter: Adapter) -> Tensor | None:
    """The weight (classes, hidden) of the classifier that the adapter brings, if it does."""
    return next((t for name, t in extra_tensors(adapter).items() if name.endswith(_HEADS) and t.ndim == 2), None)


def kind_of_base(config: Any) -> Kind:
    """What a base model's configuration says that it is; an encoder if nothing else."""
    for name in config.architectures or ():
        for end, kind in _ENDS:
            if name.endswith(end):
                return kind
        if name.endswith("ForConditionalGeneration") and config.is_encoder_decoder:
            return "seq2seq"
    return "encoder"


def kind_of(config: Any, adapter: Adapter) -> Kind:
    """What an adapter makes of a base model.

    PEFT's task type counts where the rest does not speak against it: a classifier needs a head, which the adapter or
    the base must have, and a model that writes text has none. Otherwise a head tells a classifier, and after that the
    base's configuration.
    """
    base = kind_of_base(config)
    head = trained_head(adapter) is not None
    task = _TASKS.get(str(adapter.meta.config.get("task_type")))
    possible: Mapping[Kind, bool] = {
        "classifier": head or base == "classifier",
        "tokens": head or base == "tokens",
        "causal": not head and base == "causal",
        "seq2seq": not head and bool(config.is_encoder_decoder),
        "encoder": not head,
    }
    if task is not None and possible[task]:
        return task
    if head:
        return "tokens" if base == "tokens" else "classifier"
    return base
