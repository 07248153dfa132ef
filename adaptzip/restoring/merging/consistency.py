"""Whether the tensors of a merged model agree with each other and with its configuration."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from typing import Any

from adaptzip.errors import BaseModelError
from adaptzip.models.configs import text_parts
from adaptzip.models.folder import BaseModel
from adaptzip.models.shards import StoredTensor
from adaptzip.restoring.merging.edits import Edit, Padding
from adaptzip.restoring.merging.tying import shape_after

_VOCABULARY_BIASES = (
    "final_logits_bias",
    "lm_head.bias",
    "predictions.bias",
    "predictions.decoder.bias",
    "lm_head.decoder.bias",
    "generator_lm_head.bias",
    "vocab_projector.bias",
)
_WIDTHS = frozenset({"hidden_size", "d_model", "n_embd", "dim", "emb_dim"})
_BOTH = "train and save both: modules_to_save=['embed_tokens', 'lm_head'], or the names that the model has for them"


def resized_vocabulary(base: BaseModel, edits: Mapping[str, tuple[Edit, ...]]) -> tuple[int, int] | None:
    """The number of tokens before and after, where edits change the input embedding's rows."""
    embedding = base.input_embedding
    if embedding is None:
        return None
    before = base.stored(embedding).shape
    after = shape_after(before, edits.get(embedding, ()))
    return None if after == before else (before[0], after[0])


def resized_biases(
    base: BaseModel, edits: Mapping[str, tuple[Edit, ...]], sizes: tuple[int, int]
) -> dict[str, tuple[Edit, ...]]:
    """The edits of the vocabulary's biases, which are resized along with it where the adapter brings none."""
    old, new = sizes
    return {
        name: (Padding(new), *edits.get(name, ()))
        for name in base.tensors
        if name.endswith(_VOCABULARY_BIASES)
        and shape_after(base.stored(name).shape, edits.get(name, ()))[-1:] == (old,)
    }


def check_plan(
    base: BaseModel,
    tensors: Mapping[str, StoredTensor],
    config: Mapping[str, Any],
    heads: Mapping[str, tuple[int, ...]],
    added: Container[str],
) -> None:
    """Check the merged model's shapes against each other and against its configuration.

    Args:
        base: the base model.
        tensors: the merged model's.
        config: its config.json.
        heads: the shape of every tensor of a trained head, by name.
        added: names of tensors that the base lacks.

    Raises:
        BaseModelError: if input and output embedding have different numbers of tokens, a weight and its bias
            different numbers of rows, or a new head's width is no size of the model.
    """
    _check_embeddings(base, tensors)
    new = {name: shape for name, shape in heads.items() if name in added}
    for name in (*new, *(n for n in tensors if n in base.tensors and tensors[n].shape != base.stored(n).shape)):
        _check_bias(base, tensors, name)
    widths = frozenset(_sizes(config)) if any(_WIDTHS & part.keys() for part in text_parts(config)) else frozenset()
    for name, shape in new.items():
        if len(shape) == 2 and widths and shape[1] not in widths:
            raise BaseModelError(
                f"{base.path}: the adapter's head {name} is {list(shape)}, but no size in config.json is {shape[1]}",
                hint="is this the base model that the adapter was trained on?",
            )


def _check_embeddings(base: BaseModel, tensors: Mapping[str, StoredTensor]) -> None:
    embedding = base.input_embedding
    if embedding is None:
        return
    rows, before = _rows(tensors, embedding), base.stored(embedding).shape[0]
    for name in tensors:
        if not (base.is_output(name) or name.endswith("embed_tokens.weight")) or len(tensors[name].shape) != 2:
            continue
        stored = base.stored(name).shape[0] if name in base.tensors else before
        if stored == before and tensors[name].shape[0] != rows and rows is not None:
            raise BaseModelError(
                f"{base.path}: merged, {name} would have {tensors[name].shape[0]} tokens and {embedding} {rows}, "
                "but a model has one vocabulary: the adapter brings only one of the two in its new size",
                hint=_BOTH,
            )


def _rows(tensors: Mapping[str, StoredTensor], embedding: str) -> int | None:
    found = next((name for name in tensors if name.endswith(embedding)), None)
    return None if found is None else tensors[found].shape[0]


def _check_bias(base: BaseModel, tensors: Mapping[str, StoredTensor], name: str) -> None:
    stem, dot, part = name.rpartition(".")
    weight, bias = tensors.get(f"{stem}{dot}weight"), tensors.get(f"{stem}{dot}bias")
    if part not in ("weight", "bias") or weight is None or bias is None or len(weight.shape) != 2:
        return
    if bias.shape != weight.shape[:1]:
        raise BaseModelError(
            f"{base.path}: merged, {weight.name} would be {list(weight.shape)} and {bias.name} {list(bias.shape)}: "
            "the adapter brings only one of the two in its new size",
            hint="save the adapter again with both",
        )


def _sizes(config: Mapping[str, Any]) -> Iterator[int]:
    """Every whole number in a configuration."""
    values: list[Any] = [config]
    while values:
        value = values.pop()
        if isinstance(value, Mapping):
            values += value.values()
        elif isinstance(value, list):
            values += value
        elif isinstance(value, int) and not isinstance(value, bool):
            yield value
