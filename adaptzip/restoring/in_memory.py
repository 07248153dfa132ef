"""An adapter as a dialect's own tensors and configuration, in memory instead of in files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adaptzip.checkpoints import Checkpoint, SafetensorsWriter, WriteOptions, Writer, resolved, vet, vet_numbers, writer
from adaptzip.checkpoints._keys import plain_keys
from adaptzip.core.adapter import Adapter, named_in
from adaptzip.errors import UsageError
from adaptzip.files.tensors import header_entries
from adaptzip.restoring.content import factor_content
from adaptzip.restoring.exporting import DTYPES
from adaptzip.restoring.placing import check_meaning

_THE_ADAPTER = Path("the adapter")


@dataclass(frozen=True, eq=False)
class Loadable:
    """What a program that loads a dialect is given.

    Attributes:
        tensors: by the keys of the dialect's file.
        config: its configuration; {} where it has none.
        adapter: what they mean.
    """

    tensors: dict[str, Tensor]
    config: Mapping[str, Any]
    adapter: Adapter


def state_dict(
    adapter: Adapter, dialect: str = "peft", *, dtype: torch.dtype | None = None, drop_extras: bool = False
) -> dict[str, Tensor]:
    """The tensors alone; see `Adapter.state_dict`."""
    return loadable(adapter, dialect, dtype=dtype, drop_extras=drop_extras).tensors


def loadable(
    adapter: Adapter, dialect: str, *, dtype: torch.dtype | None = None, drop_extras: bool = False
) -> Loadable:
    """What a dialect's files would hold, once its own reader found the adapter in it.

    Args:
        adapter: from memory, or as it was read.
        dialect, dtype, drop_extras: as for `Adapter.state_dict`.

    Raises:
        UsageError, RefusedError, CheckFailedError: as `Adapter.state_dict`.
        CheckpointError: if the adapter is malformed.
    """
    target = _target(dialect, dtype)
    adapter = resolved(adapter)
    vet(adapter, "the adapter")
    vet_numbers(adapter)
    options = WriteOptions(dtype=dtype, named=True)
    wanted = factor_content(adapter, target, options, drop_extras).adapter
    found = target.contents(wanted, options)
    tensors = {key: waiting.make().detach().to(waiting.dtype).contiguous() for key, waiting in found.tensors.items()}
    config: dict[str, Any] = {} if found.config is None else json.loads(found.config)
    weights = _THE_ADAPTER / target.files.weights[0]
    plain = plain_keys(tensors, config, weights)
    source = Checkpoint(
        _THE_ADAPTER,
        weights,
        {plain[key]: tensor for key, tensor in tensors.items()},
        header_entries(found.header).get("__metadata__", {}),
        found.header if all(key == name for key, name in plain.items()) else None,
        config if found.config is not None else None,
        found.config,
        modules=named_in(wanted),
    )
    check_meaning(source, _THE_ADAPTER, target, wanted, options)
    return Loadable(tensors, config, wanted)


def _target(dialect: str, dtype: torch.dtype | None) -> SafetensorsWriter:
    """Raises: UsageError: if the dialect has no tensors by key, or no such dtype."""
    if dtype is not None and dtype not in DTYPES.values():
        raise UsageError(f"there is no dtype {dtype!r} to export in", hint=f"known: {', '.join(DTYPES)}")
    target = writer(dialect)
    if not isinstance(target, SafetensorsWriter):
        kind = "holds a method's own tensors" if not isinstance(target, Writer) else "is not one safetensors file"
        raise UsageError(f"the dialect {dialect!r} {kind}", hint="write a folder of it with adaptzip.export")
    return target
