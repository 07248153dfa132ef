"""What a model is for, told by the adapter, by the base model's config.json, or by the user."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from adaptzip.core.adapter import Adapter
from adaptzip.errors import RefusedError, warn
from adaptzip.models.extras import extra_tensors
from adaptzip.models.heads import other_head, trained_head

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
_PROBLEMS: Mapping[str, Kind] = {
    "regression": "scores",
    "multi_label_classification": "multilabel",
    "single_label_classification": "classifier",
}
_HINT = "language models, classifiers of texts and tokens, rerankers, encoders and seq2seq models can be compared"


def check_task(adapter: Adapter, architectures: Sequence[str], given: Kind | None, *, strict: bool) -> None:
    """Refuse what adapter_config.json, the names of the extras and config.json alone tell.

    Args:
        architectures: of the base's config.json; none where it names none.
        given: the kind that the user named.
        strict: see `kind_of`.

    Raises:
        RefusedError: if the adapter's task or head, or the base's, is another than these, or none where there must be
            one.
    """
    other, head = other_head(adapter), trained_head(adapter) is not None
    named, task = ("", None) if given is not None else _task_of(adapter)
    if other is not None:
        raise RefusedError(
            f"the adapter brings {other[0]}, the head of {other[1]}, whose outputs are not compared", hint=_HINT
        )
    if given is not None:
        if head and given not in WITH_HEAD:
            raise RefusedError(
                f"the adapter brings the trained head of a classifier, for which `kind='{given}'` has no place",
                hint=f"leave `kind=` out, or give one of {', '.join(WITH_HEAD)}",
            )
        return
    base = _kind_of_names(architectures)
    if task in (None, "causal", *WITH_HEAD) and base is None and not (head and named):
        _check_no_other_head(architectures)
    if strict and architectures and task in ("classifier", "tokens") and not head and base != task:
        _refuse_headless(adapter, named, architectures)


def _task_of(adapter: Adapter) -> tuple[str, Kind | None]:
    """PEFT's name of the adapter's task, "" where it has none, and its kind."""
    named = adapter.resolved.task or ""
    if named and named not in _TASKS:
        raise RefusedError(f"the adapter is for the task {named}, whose outputs are not compared", hint=_HINT)
    return named, _TASKS.get(named)


def kind_of_base(config: Any) -> Kind:
    """What a base model's configuration says that it is; an encoder if nothing else."""
    names = config.architectures or ()
    if any(name.endswith("ForConditionalGeneration") for name in names):
        return "seq2seq" if config.is_encoder_decoder else "causal"
    return _kind_of_names(names) or "encoder"


def _kind_of_names(architectures: Sequence[str]) -> Kind | None:
    """What the names of classes say; None where they say nothing."""
    return next((kind for name in architectures for end, kind in _ENDS if name.endswith(end)), None)


def kind_of(
    config: Any, adapter: Adapter, able: Sequence[Kind] = (), *, strict: bool = False, own_head: str | None = None
) -> Kind:
    """What an adapter makes of a base model.

    PEFT's task type counts where the rest does not speak against it: a classifier needs a head, which the adapter or
    the base must have, and a model that writes text has none. Otherwise a head tells a classifier, and after that the
    base's configuration, and an AdaptzipWarning says so.

    Args:
        able: what transformers has a class for, which counts where the configuration names no class.
        strict: refuse a classifier without any head, instead of taking it for what the base is.
        own_head: the name of a classifier's weight among the base's tensors, which counts likewise.

    Raises:
        RefusedError: if the adapter's task or the base's head is another than these, or may be one of two.
    """
    head = trained_head(adapter) is not None
    named, task = _task_of(adapter)
    base = kind_of_base(config)
    if not config.architectures:
        base = next(iter(able), base) if own_head is None or head else _kind_of_head(own_head, task)
    # A decoder without its own head may have a tied one; where it has none, loading says so.
    bare = able[:1] if strict and base == "encoder" else ()
    possible: Mapping[Kind, bool] = {
        "classifier": head or base == "classifier",
        "tokens": head or base == "tokens",
        "causal": not head and (base == "causal" or "causal" in (able if not config.architectures else bare)),
        "seq2seq": not head and bool(config.is_encoder_decoder),
        "encoder": not head,
    }
    if task is not None and possible[task]:
        return task
    found = ("tokens" if base == "tokens" else "classifier") if head else base
    if found == "encoder":
        _check_no_other_head(config.architectures or ())
    if task in ("classifier", "tokens") and strict:
        _refuse_headless(adapter, named, config.architectures or ())
    if task is not None:
        _warn_of_other(named, found, head)
    return found


def _kind_of_head(name: str, task: Kind | None) -> Kind:
    """What a base model with this head and no named class is; `classifier` may be of texts or of their tokens."""
    if task in ("classifier", "tokens"):
        return task
    if name.rpartition(".weight")[0].rpartition(".")[2] != "classifier":
        return "classifier"
    raise RefusedError(
        f"config.json names no architectures, and the base's {name} may classify texts or their tokens",
        hint="name its class in config.json, as transformers does",
    )


def _refuse_headless(adapter: Adapter, named: str, architectures: Sequence[str]) -> None:
    base = f"the base ({architectures[0]})" if architectures else "the base"
    brought = sorted(extra_tensors(adapter))
    beside = f" (beside its updates it has {brought[0]})" if brought else ""
    raise RefusedError(
        f"the adapter is for {named}, and neither it{beside} nor {base} has a trained head for that",
        hint="give the adapter with its head (modules_to_save), or say what to compare without one: `kind='encoder'` "
        "for embeddings, `kind='causal'` for next tokens",
    )


def _warn_of_other(named: str, found: Kind, head: bool) -> None:
    why = "it brings the head of a classifier" if head else "the base has no head for that"
    what = {"encoder": "embeddings", "causal": "next tokens", "seq2seq": "target tokens", "tokens": "classes of tokens"}
    warn(f"the adapter is for {named}, but {why}: {what.get(found, 'classes of texts')} are compared")


def _check_no_other_head(architectures: Sequence[str]) -> None:
    for name in architectures:
        if _OTHER_HEAD.search(name) and not name.endswith((*_ENCODERS, "ForConditionalGeneration")):
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
