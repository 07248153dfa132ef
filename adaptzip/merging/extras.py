"""What an adapter's extras do to the base model: trained heads, biases, token rows, whole embeddings."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from adaptzip.adapter import Adapter
from adaptzip.base.model import OUTPUT_EMBEDDINGS, BaseModel
from adaptzip.base.names import Renaming, locate_tensor
from adaptzip.checkpoints.peft.extras import extra_target, token_indices
from adaptzip.errors import AdaptzipWarning, BaseModelError, CheckpointError
from adaptzip.merging.edits import Edit, Replacement, TokenRows

HEAD_NAMES = ("classifier", "score", "qa_outputs")
_LANGUAGE_MODELS = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")


@dataclass(frozen=True, eq=False)
class NewTensor:
    """A tensor that the base does not store, made from a `source` that it does or else by its edits alone."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    source: str | None = None
    edits: tuple[Edit, ...] = ()


@dataclass(frozen=True, eq=False)
class ExtrasPlan:
    """What the extras do.

    Attributes:
        edits: what is done to stored tensors, by name.
        added: tensors that the base lacks, by their names in the merged model.
        shapes: the new shape of each stored tensor that is resized.
        heads: the shape of every tensor of a trained head, by name.
        prefix: put before every stored tensor's name, where a head comes beside a base stored without prefix.
        untied: the input and output embeddings are no longer one parameter.
        vocabulary: the new number of tokens, where the input embedding is resized.
        applied: how many extras have an effect.
    """

    edits: Mapping[str, list[Edit]] = field(default_factory=dict)
    added: Mapping[str, NewTensor] = field(default_factory=dict)
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    heads: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    prefix: str = ""
    untied: bool = False
    vocabulary: int | None = None
    applied: int = 0


def plan_extras(adapter: Adapter, base: BaseModel, renaming: Renaming) -> ExtrasPlan:
    """Find the place of every extra.

    The weight of a module with LoRA and a resized embedding are shared with their tied partner; a
    `modules_to_save` embedding is a copy of its own, so that it is no longer tied.

    Raises:
        BaseModelError: if an extra is no head and the base lacks its tensor or has it in another shape.
        CheckpointError: if token rows have no row numbers.
    """
    config = adapter.meta.config
    edits: dict[str, list[Edit]] = {}
    added: dict[str, NewTensor] = {}
    heads: dict[str, tuple[int, ...]] = {}
    copies: dict[str, Tensor] = {}
    applied = 0
    ignored: list[str] = []
    for key, tensor in adapter.extras.items():
        role, name = extra_target(key, config, adapter.modules)
        if role == "ignore":
            # PEFT itself saves the biases of these beside the copy that counts.
            if not any(f".{wrapper}." in key for wrapper in ("original_module", "modules_to_save")):
                ignored.append(key)
            continue
        applied += 1
        found = locate_tensor(base, name, renaming)
        copied = role == "replace" and ".base_layer." not in key and _is_copied(name, config)
        if copied and not _is_embedding(base, name, found):
            heads[name] = tuple(tensor.shape)
        if found is None:
            added[name] = _new_head(base, key, name, tensor, copied)
        elif copied and _is_tied(base, found) and not config.get("ensure_weight_tying"):
            copies["output" if name.endswith(OUTPUT_EMBEDDINGS) else "input"] = tensor
        else:
            edit = Replacement(tensor) if role == "replace" else _token_rows(base, key, found, tensor, config)
            for partner in base.tied_partners(found):
                edits.setdefault(partner, []).append(edit)
    if ignored:
        warnings.warn(
            f"{len(ignored)} tensors of the adapter change nothing, as in PEFT, which has no use for a module's "
            f"untrained copy: {ignored[0]}{' and others' if len(ignored) > 1 else ''}",
            AdaptzipWarning,
            stacklevel=2,
        )
    untied = _untie(base, copies, edits, added)
    shapes = _new_shapes(base, edits)
    embedding = base.input_embedding
    vocabulary = shapes[embedding][0] if embedding in shapes else None
    prefix = renaming.old if heads and added and not renaming.new else ""
    return ExtrasPlan(edits, added, shapes, heads, prefix, untied, vocabulary, applied)


def _is_copied(name: str, config: Mapping[str, Any]) -> bool:
    """Whether PEFT trained a copy of the whole module."""
    saved = config.get("modules_to_save") or HEAD_NAMES
    path = f".{name}."
    return any(f".{module}." in path for module in saved)


def _is_embedding(base: BaseModel, name: str, found: str | None) -> bool:
    return name.endswith(OUTPUT_EMBEDDINGS) or (found is not None and found == base.input_embedding)


def _new_head(base: BaseModel, key: str, name: str, tensor: Tensor, copied: bool) -> NewTensor:
    if not copied:
        raise BaseModelError(
            f"{base.path}: lacks the tensor {name}, which the adapter's {key} is to replace",
            hint="is this the base model that the adapter was trained on?",
        )
    return NewTensor(_float_dtype(base), tuple(tensor.shape), edits=(Replacement(tensor),))


def _float_dtype(base: BaseModel) -> torch.dtype:
    """The dtype of most of the base's weights, which a new head takes on as well."""
    dtypes = Counter(base.stored(name).dtype for name in base.tensors)
    floating = [dtype for dtype, _ in dtypes.most_common() if dtype.is_floating_point]
    return floating[0] if floating else torch.float32


def _token_rows(base: BaseModel, key: str, found: str, rows: Tensor, config: Mapping[str, Any]) -> TokenRows:
    indices = token_indices(key, config)
    size, *width = base.stored(found).shape
    if indices is None or len(indices) != len(rows) or not all(0 <= i < size for i in indices):
        raise CheckpointError(
            f"{key}: trainable_token_indices does not name its {len(rows)} rows among the {size} of {found}",
            hint="the adapter's weights and its adapter_config.json belong together",
        )
    if list(rows.shape[1:]) != width:
        raise BaseModelError(
            f"{base.path}: {found} has rows of {width}, but the adapter's {key} {list(rows.shape[1:])}"
        )
    return TokenRows(torch.tensor(indices), rows)


def _is_tied(base: BaseModel, found: str) -> bool:
    return found == base.input_embedding and _tied_output(base) is not None or len(base.tied_partners(found)) > 1


def _tied_output(base: BaseModel) -> str | None:
    """The name of the output embedding that is one with the input embedding, stored or not."""
    embedding = base.input_embedding
    if embedding is None or base.config.get("tie_word_embeddings") is False:
        return None
    stored = [name for name in base.tensors if name.endswith(OUTPUT_EMBEDDINGS)]
    if stored:
        return next((name for name in base.tied_partners(embedding) if name in stored), None)
    names = base.config.get("architectures") or ()
    return "lm_head.weight" if any(name.endswith(_LANGUAGE_MODELS) for name in names) else None


def _untie(
    base: BaseModel,
    copies: Mapping[str, Tensor],
    edits: dict[str, list[Edit]],
    added: dict[str, NewTensor],
) -> bool:
    """Place the copies of tied embeddings; says whether the two differ now."""
    embedding, output = base.input_embedding, _tied_output(base)
    if not copies or embedding is None or output is None:
        return False
    given, got = copies.get("input"), copies.get("output")
    differ = given is None or got is None or not torch.equal(given, got)
    if given is not None:
        edits.setdefault(embedding, []).append(Replacement(given))
    if output in base.tensors:
        if got is not None:
            edits.setdefault(output, []).append(Replacement(got))
    elif differ:
        dtype, shape = base.stored(embedding).dtype, base.stored(embedding).shape
        made = () if got is None else (Replacement(got),)
        added[output] = NewTensor(
            dtype, shape if got is None else tuple(got.shape), embedding if got is None else None, made
        )
    return differ


def _new_shapes(base: BaseModel, edits: Mapping[str, list[Edit]]) -> dict[str, tuple[int, ...]]:
    shapes = {}
    for name, changes in edits.items():
        stored = base.stored(name).shape
        for change in changes:
            if isinstance(change, Replacement) and tuple(change.tensor.shape) != stored:
                shapes[name] = tuple(change.tensor.shape)
                if shapes[name][1:] != stored[1:] or len(shapes[name]) != len(stored):
                    raise BaseModelError(
                        f"{base.path}: {name} is {list(stored)}, but the adapter brings {list(shapes[name])}",
                        hint="is this the base model that the adapter was trained on?",
                    )
    return shapes
