"""What an adapter's extras do to the base model: trained heads, biases, token rows, whole embeddings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from adaptzip.core.adapter import Adapter
from adaptzip.core.effects import Effect
from adaptzip.errors import BaseModelError, CheckpointError
from adaptzip.models.extras import check_originals, check_whole
from adaptzip.models.folder import BaseModel
from adaptzip.models.layouts import WHICH
from adaptzip.models.names import Renaming, locate, locate_tensor
from adaptzip.models.nearest import similar
from adaptzip.models.tying import TiedFamily
from adaptzip.restoring.merging.edits import BiasUpdate, Edit, NewTensor, Replacement, TokenRows
from adaptzip.restoring.merging.tying import Changes


@dataclass(frozen=True, eq=False)
class ExtrasPlan:
    """What the extras do.

    Attributes:
        edits: what is done to stored tensors, by name, tied embeddings left out.
        added: tensors that the base lacks, by their names in the merged model.
        heads: the shape of every tensor of a trained head, by name.
        tied: what is done to tied embeddings.
        copies: tied embeddings of which the adapter brings a whole copy of its own, by the family's member.
        applied: how many extras have an effect.
        ignored: keys of those without any, which PEFT does not load either.
    """

    edits: Mapping[str, list[Edit]] = field(default_factory=dict)
    added: Mapping[str, NewTensor] = field(default_factory=dict)
    heads: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    tied: Changes = ()
    copies: Mapping[str, Tensor] = field(default_factory=dict)
    applied: int = 0
    ignored: tuple[str, ...] = ()


def plan_extras(adapter: Adapter, base: BaseModel, renaming: Renaming, family: TiedFamily | None) -> ExtrasPlan:
    """Find the place of every extra.

    A resized embedding and the weight below a LoRA are shared with their tied partners; a `modules_to_save`
    embedding is a copy of its own, so that it is no longer tied.

    Raises:
        BaseModelError: if an extra is no head and the base lacks its tensor or has it in another shape.
        CheckpointError: if an extra is empty, two mean one tensor, or token rows have no row numbers.
    """
    effects = adapter.resolved
    edits: dict[str, list[Edit]] = {}
    added: dict[str, NewTensor] = {}
    heads: dict[str, tuple[int, ...]] = {}
    copies: dict[str, Tensor] = {}
    tied: list[tuple[str | None, Edit]] = []
    placed = _targets(adapter)
    rows = [effect.tensor for effect in placed.values() if effect.role == "token_rows"]
    for key, effect in placed.items():
        tensor, name, copied = adapter.extras[key], effect.tensor, effect.copied
        check_whole(key, tensor)
        found = _located(base, name, renaming, copied)
        member = None if family is None else family.find(name, renaming)
        if copied and member is None and not _is_embedding(base, name, found):
            heads[name] = tuple(tensor.shape)
        if member is not None and copied and not effects.trained_tied:
            copies[member] = _replacement(base, base.input_embedding or member, tensor, key).tensor
        elif found is None and (experts := _experts(base, name, tensor, renaming)):
            for stored, part in experts.items():
                edits.setdefault(stored, []).append(Replacement(part))
        elif found is None:
            added[name] = _new_head(base, key, effect, tensor)
        else:
            whole = effect.role in ("replace", "add")
            edit = _edit(base, key, found, tensor, effect)
            if member is None:
                edits.setdefault(found, []).append(edit)
            else:
                shared = rows == [name] and (member == base.input_embedding or not effects.rows_by_module)
                alone = not whole and not shared
                tied.append((member if alone else None, edit))
    ignored = tuple(key for key in adapter.extras if effects.extras[key].role == "ignore")
    return ExtrasPlan(edits, added, heads, tuple(tied), copies, len(placed), ignored)


def _targets(adapter: Adapter) -> dict[str, Effect]:
    """The extras that are put into the base, by key; no two may replace one tensor."""
    found: dict[str, Effect] = {}
    seen: dict[tuple[str, str], str] = {}
    effects = adapter.resolved.extras
    for key, tensor in adapter.extras.items():
        effect = effects[key]
        if effect.role in ("ignore", "original"):
            continue
        other = seen.setdefault((effect.role, effect.tensor), key)
        if other == key:
            found[key] = effect
        elif effect.placed and not effects[other].placed and torch.equal(adapter.extras[other], tensor):
            # The same under a key that says where it belongs.
            del found[other]
            found[key] = effect
            seen[effect.role, effect.tensor] = key
        elif not torch.equal(adapter.extras[other], tensor):
            raise CheckpointError(
                f"the keys {other} and {key} bring different tensors for {effect.tensor}",
                hint="save the adapter again with PEFT's save_pretrained",
            )
    check_originals(adapter)
    return found


def _located(base: BaseModel, name: str, renaming: Renaming, copied: bool) -> str | None:
    """The stored tensor; a masked head's decoder shares its bias with the head, unless it is a copy of its own."""
    found = locate_tensor(base, name, renaming)
    if found is None and not copied and name.endswith(".decoder.bias"):
        found = locate_tensor(base, f"{name.removesuffix('.decoder.bias')}.bias", renaming)
    return found or _under_other_prefix(base, name)


def _under_other_prefix(base: BaseModel, name: str) -> str | None:
    """The one stored tensor of a part that no update names, as a projector's: its leaf and two modules must agree."""
    parts = name.split(".")
    for cut in range(1, len(parts) - 2):
        tail = ".".join(parts[cut:])
        found = [stored for stored in base.tensors if f".{stored}".endswith(f".{tail}")]
        if found:
            return found[0] if len(found) == 1 else None
    return None


def _experts(base: BaseModel, name: str, stack: Tensor, renaming: Renaming) -> dict[str, Tensor]:
    """What replaces each stored tensor of experts that have other names on disk, or lie there one by one."""
    count = len(stack) if stack.ndim == 3 else 0
    sites = [locate(base, f"{name}[{number}]", renaming) for number in range(count)]
    if not count or not all(sites):
        return {}
    if sites[0][0].expert is not None:
        return {sites[0][0].tensor: _replacement(base, sites[0][0].tensor, stack, name).tensor}
    parts = {
        site.tensor: expert if site.rows is None else expert[slice(*site.rows)]
        for expert, found in zip(stack, sites, strict=True)
        for site in found
    }
    expected = sum(base.stored(tensor).bytes // base.stored(tensor).dtype.itemsize for tensor in parts)
    more = locate(base, f"{name}[{count}]", renaming)
    other = next((n for n, part in parts.items() if part.shape != base.stored(n).shape), None)
    if more or other is not None or expected != stack.numel():
        told = "it has more experts" if more else f"they have {expected} numbers"
        if other is not None:
            told = f"{other} is {list(base.stored(other).shape)}, expected {list(parts[other].shape)}"
        raise BaseModelError(
            f"{base.path}: its experts' tensors for {name} do not fit the adapter's {list(stack.shape)}: {told}",
            hint=WHICH,
        )
    return parts


def _is_embedding(base: BaseModel, name: str, found: str | None) -> bool:
    return base.is_output(name) or (found is not None and found == base.input_embedding)


def _new_head(base: BaseModel, key: str, effect: Effect, tensor: Tensor) -> NewTensor:
    if not effect.copied:
        raise BaseModelError(
            f"{base.path}: lacks the tensor {effect.tensor}, which the adapter's {key} is to replace"
            f"{similar(effect.tensor, base.tensors)}",
            hint=WHICH,
        )
    if not effect.placed:
        raise CheckpointError(
            f"{key} has another adapter's name than default in it, so that its place in the base is unknown",
            hint="save the adapter with PEFT's save_pretrained, which leaves the name out",
        )
    return NewTensor(_float_dtype(base), tuple(tensor.shape), edits=(Replacement(tensor),))


def _float_dtype(base: BaseModel) -> torch.dtype:
    """The dtype of most of the base's weights, which a new head takes on as well."""
    dtypes = Counter(base.stored(name).dtype for name in base.tensors)
    floating = [dtype for dtype, _ in dtypes.most_common() if dtype.is_floating_point]
    return floating[0] if floating else torch.float32


def _edit(base: BaseModel, key: str, found: str, tensor: Tensor, effect: Effect) -> Edit:
    if effect.role == "add":
        return BiasUpdate(_replacement(base, found, tensor, key).tensor, 1.0)
    if effect.role == "replace":
        return _replacement(base, found, tensor, key)
    return _rows(base, key, found, tensor, effect)


def _rows(base: BaseModel, key: str, found: str, rows: Tensor, effect: Effect) -> TokenRows:
    indices = effect.rows
    size, *width = base.stored(found).shape
    if indices and len(indices) == len(rows) and max(indices) >= size:
        raise CheckpointError(
            f"{key}: trainable_token_indices names token {max(indices)}, but {base.path}'s {found} has {size} tokens",
            hint="the adapter was trained after tokens were added: call the base's resize_token_embeddings, save it "
            "with the new tokenizer, and merge into that",
        )
    if indices is None or len(indices) != len(rows) or min(indices, default=0) < 0:
        raise CheckpointError(
            f"{key}: trainable_token_indices does not name its {len(rows)} rows among the {size} of {found}",
            hint="the adapter's weights and its adapter_config.json belong together",
        )
    if list(rows.shape[1:]) != width:
        raise BaseModelError(
            f"{base.path}: {found} has rows of {width}, but the adapter's {key} {list(rows.shape[1:])}", hint=WHICH
        )
    return TokenRows(torch.tensor(indices), rows)


def _replacement(base: BaseModel, found: str, tensor: Tensor, key: str) -> Replacement:
    """Puts a tensor in a stored one's place, which may have another number of rows but not another width."""
    stored, brought = base.stored(found).shape, tuple(tensor.shape)
    if len(stored) != len(brought) or stored[1:] != brought[1:]:
        raise BaseModelError(
            f"{base.path}: {found} is {list(stored)}, but the adapter's {key} is {list(brought)}",
            hint=WHICH,
        )
    return Replacement(tensor)
