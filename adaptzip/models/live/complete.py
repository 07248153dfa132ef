"""Whether base and adapter together make a whole model, and how to say it where they don't."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from adaptzip.core.adapter import Adapter
from adaptzip.errors import BaseModelError, RefusedError
from adaptzip.models.extras import WHICH, extra_tensors
from adaptzip.models.heads import trained_head
from adaptzip.models.kinds import WITH_HEAD, Kind
from adaptzip.models.live.forward import forward

_UNUSED = ("pooler.",)
"""What embeddings of texts make no use of."""
_TRIED = 8
"""Tokens of a text that is tried."""


@dataclass(frozen=True, eq=False)
class Parts:
    """A model that was loaded from a base model's folder.

    Attributes:
        missing: names of its tensors that the folder lacks, which are random.
        other: the same of those that the folder has in another shape: (in the folder, in the model) by name.
    """

    model: nn.Module
    missing: set[str]
    other: Mapping[str, tuple[list[int], list[int]]] = field(default_factory=dict)


def check_complete(
    base: Path, kind: Kind, parts: Parts, adapter: Adapter | None = None, *, tasks: bool = False
) -> list[str]:
    """Refuse a model some of whose weights would be random.

    Args:
        base: the folder, for messages.
        adapter: its extras count as there.
        tasks: whether the user can name another task.

    Returns:
        The names of the tensors that the base lacks, for which there is an extra.

    Raises:
        RefusedError: if a tensor is neither in the base nor in the adapter.
    """
    brought = extra_tensors(adapter) if adapter else {}
    needed = sorted(
        name
        for name in parts.missing | parts.other.keys()
        if kind != "encoder" or not any(part in name for part in _UNUSED)
    )
    lacking = [name for name in needed if not any(name == extra or name.endswith(f".{extra}") for extra in brought)]
    if not lacking:
        return needed
    name, runs = lacking[0], type(parts.model).__name__
    if name in parts.other:
        found, taken = parts.other[name]
        head = "the adapter with its trained head, or " if kind in WITH_HEAD else ""
        raise RefusedError(
            f"{base}: {name} is {found}, where config.json makes it {taken} in {runs}, and the adapter brings none",
            hint=f"give {head}a config.json that fits the weights{_now(kind, tasks)}",
        )
    what = f"{base}: {name}, which {runs} has, is neither in the base nor in the adapter, so that its"
    if kind not in WITH_HEAD:
        raise RefusedError(f"{what} outputs mean nothing", hint=f"give the base model's whole folder{_or(kind, tasks)}")
    headless = adapter is None or trained_head(adapter) is None
    give = "adapter with its trained head" if headless else "base model that the adapter and its head were trained on"
    raise RefusedError(f"{what} classes mean nothing", hint=f"give the {give}{_or(kind, tasks)}")


def check_embeds(base: Path, model: Any) -> None:
    """Refuse an encoder that can't be run on tokens alone, or that has no last hidden states.

    Raises:
        RefusedError: if it has several inputs, or puts out something else.
    """
    try:
        model.get_input_embeddings()
    except NotImplementedError as error:
        raise RefusedError(
            f"{base}: {type(model).__name__} is no encoder of texts alone, whose embeddings could be compared",
            hint="give the folder of its text model, if the adapter was trained on that",
        ) from error
    ids = torch.zeros(1, _TRIED, dtype=torch.int64)
    try:
        with torch.no_grad():
            output = forward(model, ids, ids == 0)
    except RefusedError:
        return  # Zeros may be no text to it; what it makes of texts is told when it is run on them.
    if getattr(output, "last_hidden_state", None) is None:
        raise RefusedError(
            f"{base}: {type(model).__name__} puts out no hidden states of its tokens, which embeddings are made of",
            hint="give a base model whose text encoder does",
        )


def _or(kind: Kind, tasks: bool) -> str:
    return f", or another `kind=`{_now(kind, tasks)}" if tasks else ""


def _now(kind: Kind, tasks: bool) -> str:
    return f"; it is run for `kind='{kind}'` now" if tasks else ""


@contextmanager
def naming_base(adapter: Adapter, kind: Kind, *, tasks: bool) -> Iterator[None]:
    """Say in the hints of errors about another base model which one the adapter names, and what it is run for."""
    try:
        yield
    except BaseModelError as error:
        if error.hint != WHICH:
            raise
        named = adapter.meta.base_model
        hint = f"is this the adapter's base model, {named}?" if named else WHICH
        run = f" It is run for `kind='{kind}'`" if tasks else ""
        raise BaseModelError(str(error), hint=hint + run) from error
