"""A dialect of another package, the whole of it in this file: factors called down and up, and their scale beside them.

toy.safetensors holds `toy/<module>/down` (rank, in), `toy/<module>/up` (out, rank) and `whole/<tensor>` of what is
trained whole; toy.json has the scale of each module under "strength".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from adaptzip.checkpoints import PREFIX, Checkpoint, Files, Reader, Signature, WriteOptions, Writer
from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.core.meta import Meta
from adaptzip.errors import CheckpointError, RefusedError, UsageError

WEIGHTS, CONFIG = "toy.safetensors", "toy.json"


class Toy(Reader, Writer):
    """The dialect `toy`; see the module's description."""

    name = "toy"
    title = "Toy"
    files = Files((WEIGHTS,), CONFIG, (WEIGHTS, CONFIG))
    signature = (Signature(r"^toy/", "a Toy"),)

    def read(self, source: Checkpoint) -> Adapter:
        strengths = _strengths(source)
        parts: dict[str, dict[str, Tensor]] = {}
        extras: dict[str, Tensor] = {}
        for key, tensor in source.tensors.items():
            kind, _, rest = key.partition("/")
            module, _, part = rest.rpartition("/")
            if kind == "whole" and rest:
                extras[PREFIX + rest] = tensor
            elif kind == "toy" and module and part in ("down", "up"):
                parts.setdefault(module, {})[part] = _finite(source, key, tensor)
            else:
                raise CheckpointError(f"{source.weights}: the key {key} has no meaning in a Toy", hint="save it again")
        modules = {name: _factors(source, name, own, strengths) for name, own in sorted(parts.items())}
        config = dict(source.config or {})
        return Adapter(modules, extras, Meta(self.name, MappingProxyType(config), config.get("base_model")))

    def write(self, adapter: Adapter, folder: Path, options: WriteOptions) -> None:
        if options.portable:
            raise UsageError("Toy has no portable profile", hint="leave --portable out")
        tensors = {f"whole/{key.removeprefix(PREFIX)}": tensor.contiguous() for key, tensor in adapter.extras.items()}
        for name, module in adapter.modules.items():
            _check_plain(name, module)
            tensors[f"toy/{name}/down"] = module.A.to(options.dtype or module.A.dtype).contiguous()
            tensors[f"toy/{name}/up"] = module.B.to(options.dtype or module.B.dtype).contiguous()
        save_file(tensors, folder / WEIGHTS)
        own = {"base_model": adapter.meta.base_model, "task_type": adapter.resolved.task}
        strengths = {name: module.scaling for name, module in adapter.modules.items()}
        text = json.dumps({**own, "strength": strengths}, indent=2, sort_keys=True)
        (folder / CONFIG).write_text(text, encoding="utf-8")


def _strengths(source: Checkpoint) -> Mapping[str, Any]:
    found = (source.config or {}).get("strength")
    if not isinstance(found, Mapping):
        raise CheckpointError(f"{source.weights}: {CONFIG} with the strengths is missing", hint="put it beside it")
    return found


def _finite(source: Checkpoint, key: str, tensor: Tensor) -> Tensor:
    if not tensor.is_floating_point() or not bool(torch.isfinite(tensor).all()):
        raise CheckpointError(f"{source.weights}: {key} has numbers that are not finite", hint="use an earlier save")
    return tensor


def _factors(source: Checkpoint, name: str, parts: Mapping[str, Tensor], strengths: Mapping[str, Any]) -> LoraFactors:
    if len(parts) != 2 or name not in strengths:
        raise CheckpointError(f"{source.weights}: module {name} lacks down, up or its strength", hint="save it again")
    down, up = parts["down"], parts["up"]
    if down.ndim != 2 or up.ndim != 2 or len(down) != up.shape[1]:
        raise CheckpointError(
            f"{source.weights}: module {name} has down {list(down.shape)} and up {list(up.shape)}, expected (rank, in) "
            "and (out, rank)",
            hint="save it again",
        )
    return LoraFactors(down, up, float(strengths[name]))


def _check_plain(name: str, module: LoraFactors) -> None:
    if module.layout != "linear" or module.magnitude is not None or module.bias is not None:
        raise RefusedError(f"module {name} is no plain linear layer, which Toy has no place for", hint="use --as peft")


DIALECT = Toy()
