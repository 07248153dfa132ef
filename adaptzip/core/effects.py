"""What the tensors beside an adapter's factors do to the base model, in words that no checkpoint dialect owns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

Role = Literal["replace", "add", "token_rows", "original", "ignore"]
"""replace: overwrites the base's tensor. add: is added to it. token_rows: overwrites some of its rows. original: is the
untrained weight of a module that a trained copy replaces, and counts in the modules that share that weight. ignore:
does nothing."""

HEAD_NAMES = ("classifier", "score", "qa_outputs")
"""Modules that are a task's head, of which a copy is trained where an adapter names none."""


@dataclass(frozen=True)
class Effect:
    """What one extra does.

    Attributes:
        role: see `Role`.
        tensor: the name that the base model's tensor has, or would have.
        rows: of `token_rows`, the row that each of the extra's rows replaces; None where the adapter does not say.
        copied: of `replace`, whether a copy of the whole module was trained, which shares its weight with no other
            module any more and may be a head that the base lacks.
        placed: whether `tensor` is the base's name for sure; a tensor that the base lacks can't be added if not.
    """

    role: Role
    tensor: str
    rows: tuple[int, ...] | None = None
    copied: bool = False
    placed: bool = True


@dataclass(frozen=True)
class Effects:
    """What an adapter does to the base model beside its updates.

    Attributes:
        extras: what each extra does, by its key.
        task: the task that it was trained for, by PEFT's name of it such as "SEQ_CLS"; None where it names none.
        layers: (first, past the last) of the base's layers that its model stacks, where it repeats or leaves out some;
            () for the base's own layers.
        trained_tied: whether it was trained to keep tied embeddings one parameter.
        copies_stay_tied: whether trained copies of embeddings are put on all modules that share them.
        updates_stay_tied: whether updates of embeddings are.
        rows_by_module: whether token rows are given by module, and not for the input embedding and what it is tied to.
    """

    extras: Mapping[str, Effect] = field(default_factory=lambda: MappingProxyType({}))
    task: str | None = None
    layers: tuple[tuple[int, int], ...] = ()
    trained_tied: bool = False
    copies_stay_tied: bool = False
    updates_stay_tied: bool = False
    rows_by_module: bool = False

    def __getstate__(self) -> dict[str, Any]:
        # Views of mappings can't be pickled.
        return {**self.__dict__, "extras": dict(self.extras)}
