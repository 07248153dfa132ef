"""Tied embeddings in a merge: what each of them becomes, alone or as the one parameter they were."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from adaptzip.models.folder import BaseModel
from adaptzip.models.tying import TiedFamily
from adaptzip.restoring.merging.edits import Edit, NewTensor, Padding, Replacement

Changes = Sequence[tuple[str | None, Edit]]
"""Changes of a family's embeddings in their order: the member that one is for, None for all members."""

SCALES_BY_TYING = frozenset({"t5", "mt5", "longt5", "pop2piano", "umt5", "switch_transformers", "udop"})
"""Model types that scale their outputs where `tie_word_embeddings` is not false. transformers 5 keeps stored
embeddings apart that differ, whatever it says."""


@dataclass(frozen=True, eq=False)
class Settled:
    """What becomes of a family.

    Attributes:
        edits: what is done to its stored tensors.
        added: its members that the base does not store and that are parameters of their own now.
        untied: its members are no longer one parameter.
        shifted: members that compute something else than in the live adapter, where each has its own update.
    """

    edits: Mapping[str, tuple[Edit, ...]] = field(default_factory=dict)
    added: Mapping[str, NewTensor] = field(default_factory=dict)
    untied: bool = False
    shifted: tuple[str, ...] = ()


def settle(
    base: BaseModel, family: TiedFamily, changes: Changes, copies: Mapping[str, Tensor], *, untie: bool
) -> Settled:
    """Say what each member becomes.

    PEFT merges every member's update into the one parameter; only whole copies of `modules_to_save` leave it.

    Args:
        base: the base model.
        family: its tied embeddings.
        changes: of its members.
        copies: the tensors that were trained as a member's whole copy.
        untie: give each member its own update only, as the live adapter does.
    """
    own = {member: _own(member, changes, copies) for member in family.members}
    together = tuple(edit for member, edit in changes if member not in copies)
    merged = {m: own[m] if untie or m in copies else together for m in family.members}
    shifted = tuple(m for m in family.members if not _same(own[m], merged[m]))
    source = merged[family.source]
    untied = not all(_same(edits, source) for edits in merged.values())
    kept = untied and base.model_type in SCALES_BY_TYING
    edits = {m: edits for m, edits in merged.items() if m in base.tensors}
    stored = base.stored(family.source)
    added = {
        m: NewTensor(stored.dtype, shape_after(stored.shape, edits), family.source, edits)
        for m, edits in merged.items()
        if m not in base.tensors and untied and not (kept and _same(edits, source))
    }
    return Settled(edits, added, untied, shifted)


def untied_biases(
    base: BaseModel, untied: Iterable[str], edits: Mapping[str, tuple[Edit, ...]]
) -> dict[str, NewTensor]:
    """The biases that untied output embeddings need: in a masked language model's head they are tied as well."""
    added = {}
    for output in untied:
        stem, found, _ = output.rpartition("decoder.weight")
        source, name = f"{stem}bias", f"{stem}decoder.bias"
        if found and source in base.tensors and name not in base.tensors:
            stored, changes = base.stored(source), edits.get(source, ())
            added[name] = NewTensor(stored.dtype, shape_after(stored.shape, changes), source, tuple(changes))
    return added


def shape_after(shape: tuple[int, ...], edits: Sequence[Edit]) -> tuple[int, ...]:
    """The shape of a tensor after its edits."""
    for edit in edits:
        if isinstance(edit, Replacement):
            shape = tuple(edit.tensor.shape)
        elif isinstance(edit, Padding):
            shape = (*shape[:-1], edit.size)
    return shape


def _own(member: str, changes: Changes, copies: Mapping[str, Tensor]) -> tuple[Edit, ...]:
    if member in copies:
        return (Replacement(copies[member]),)
    return tuple(edit for whose, edit in changes if whose in (None, member))


def _same(one: Sequence[Edit], other: Sequence[Edit]) -> bool:
    return len(one) == len(other) and all(
        a is b or (isinstance(a, Replacement) and isinstance(b, Replacement) and torch.equal(a.tensor, b.tensor))
        for a, b in zip(one, other, strict=True)
    )
