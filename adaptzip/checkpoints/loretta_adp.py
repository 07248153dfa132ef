"""LoRETTA_adp: bottleneck adapters of tensor trains, adapter_config.json beside adapter_model.bin.

Yang, Zhou, Wong and Zhang 2024, arXiv:2402.11417. The file holds cores (r_{i-1}, k_i, r_i) and biases of two layers
under `base_model.model.<module>.adapter_down.layer` and `.adapter_up.layer`. Contracted, the cores of `down` are a
matrix (d, b) in row-major order and those of `up` one (b, d), and x becomes

    x + scaling * (act(x down + down_bias) up + up_bias)

where x is what the module puts out, or what is fed to it: the former for the layers that close a block's attention or
feed-forward part, the latter for those that open it. That is not linear, so that no weight can hold it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from adaptzip.checkpoints._base import Files, Signature, WriteOptions
from adaptzip.checkpoints._config import CONFIG_NAME, WEIGHT_NAMES, shown
from adaptzip.checkpoints._functions import FunctionDialect, LayerFunctions
from adaptzip.checkpoints._keys import PREFIX
from adaptzip.checkpoints._native import Native
from adaptzip.checkpoints._parts import AGAIN
from adaptzip.checkpoints._trained_heads import train_matrix, with_whole_layers
from adaptzip.core.function_method import Function
from adaptzip.errors import CheckpointError, RefusedError, UsageError

_PART = re.compile(re.escape(PREFIX) + r"(.+)\.adapter_(down|up)\.layer\.(bias|tensor\.factors\.(\d{1,4}))")
_BEHIND = ("dense", "down_proj", "fc2", "fc_out", "c_proj", "dense_4h_to_h")
_BEFORE = ("gate_proj", "up_proj", "fc1", "fc_in", "c_fc", "dense_h_to_4h")
"""The layers whose inputs are changed; the package tells by these names as well."""
_ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "gelu": functional.gelu,
    "relu": functional.relu,
    "tanh": torch.tanh,
}

Sides = dict[str, dict[str, str]]
"""The keys of a module's tensors by side, "down" or "up", and "bias" or a core's number."""


class _LorettaAdp(FunctionDialect):
    """The dialect `loretta-adp`."""

    name = "loretta-adp"
    title = "LoRETTA_adp"
    judged_by = "the authors' logits"
    lacks = "updates: it holds functions, which are never merged"
    files = Files(config=CONFIG_NAME, written=(CONFIG_NAME, WEIGHT_NAMES[1]))
    signature = (Signature(r"^base_model\.model\..*\.adapter_(down|up)\.", "a LoRETTA_adp"),)
    takes = ("loretta-adp",)

    def functions(
        self, tensors: Mapping[str, Tensor], config: Mapping[str, Any] | None, where: object
    ) -> LayerFunctions:
        activation, scaling = _settings(config, where)
        modules, extras = _classified(with_whole_layers(tensors, Path(str(where))), where)
        made = {name: _function(tensors, name, sides, activation, scaling, where) for name, sides in modules.items()}
        places = {name: _is_before(name, where) for name in modules}
        behind = {name: function for name, function in made.items() if not places[name]}
        return LayerFunctions(behind, {name: made[name] for name in made if places[name]}, extras)

    def write_native(self, native: Native, folder: Path, options: WriteOptions) -> None:
        """The tensors and the configuration as they were."""
        if options.portable or options.dtype is not None:
            raise UsageError(
                "LoRETTA_adp's files are written as they were", hint="leave `portable=True` and `dtype=` out"
            )
        if native.modules or native.adapter.meta.dialect != self.name:
            raise RefusedError(
                "the functions of a distilled file are trains in other modes than LoRETTA's",
                hint="`adaptzip eval` runs them; what was kept with `compress --lossless` is written back",
            )
        meta = native.adapter.meta
        text = json.dumps(dict(meta.config), indent=2) if meta.config_text is None else meta.config_text
        (folder / CONFIG_NAME).write_bytes(text.encode())
        torch.save({key: tensor.clone() for key, tensor in native.adapter.extras.items()}, folder / WEIGHT_NAMES[1])


def _settings(config: Mapping[str, Any] | None, where: object) -> tuple[Callable[[Tensor], Tensor], float]:
    """The activation, and what the function's part beside x is multiplied by."""
    if config is None:
        raise CheckpointError(
            f"{where}: is a LoRETTA_adp without adapter_config.json, so its activation and scale are unknown",
            hint="put the adapter's own adapter_config.json beside it",
        )
    for field in ("use_parallel_adapter", "use_adapterp"):
        if config.get(field):
            raise RefusedError(
                f"{where}: {field} is set, which puts its functions elsewhere", hint="use LoRETTA for it"
            )
    named, scaling = config.get("non_linearity"), config.get("scaling", 1.0)
    if not isinstance(named, str) or named not in _ACTIVATIONS:
        known = ", ".join(_ACTIVATIONS)
        raise RefusedError(
            f"{where}: non_linearity is {shown(named)}, expected one of {known}", hint="use LoRETTA for it"
        )
    if isinstance(scaling, bool) or not isinstance(scaling, int | float) or not abs(scaling) < 1e30:
        raise CheckpointError(f"{where}: scaling is {shown(scaling)}, expected a number", hint=AGAIN)
    return _ACTIVATIONS[named], float(scaling)


def _classified(tensors: Mapping[str, Tensor], where: object) -> tuple[dict[str, Sides], dict[str, Tensor]]:
    """The keys of each module's tensors, and all other tensors."""
    modules: dict[str, Sides] = {}
    extras = {}
    for key, tensor in tensors.items():
        found = _PART.fullmatch(key)
        if found is not None:
            modules.setdefault(found[1], {}).setdefault(found[2], {})[found[4] or "bias"] = key
        elif not key.startswith(PREFIX) or ".adapter_" in key or ".tensor." in key:
            raise CheckpointError(f"{where}: the key {key} has no meaning in a LoRETTA_adp", hint=AGAIN)
        else:
            extras[key] = tensor
    if not modules:
        raise CheckpointError(f"{where}: holds no functions of LoRETTA_adp", hint=AGAIN)
    return dict(sorted(modules.items())), extras


def _is_before(name: str, where: object) -> bool:
    """Whether a module's inputs are changed, and not its outputs."""
    leaf = name.rpartition(".")[2]
    if leaf not in (*_BEFORE, *_BEHIND):
        raise RefusedError(
            f"{where}: nothing says whether the function of {name} is before the layer or behind it",
            hint=f"known: {', '.join((*_BEFORE, *_BEHIND))}",
        )
    return leaf in _BEFORE


def _function(
    tensors: Mapping[str, Tensor],
    name: str,
    sides: Sides,
    activation: Callable[[Tensor], Tensor],
    scaling: float,
    where: object,
) -> Function:
    """What becomes of vectors (..., d)."""
    flat, biases = {}, {}
    for side in ("down", "up"):
        keys = dict(sides.get(side, {}))
        if "bias" not in keys:
            raise CheckpointError(f"{where}: module {name} has no adapter_{side}.layer.bias", hint=AGAIN)
        biases[side] = tensors[keys.pop("bias")]
        flat[side] = train_matrix({int(i): tensors[key] for i, key in keys.items()}, f"{where}: {name}.adapter_{side}")
    b, d = biases["down"].numel(), biases["up"].numel()
    finite = all(bool(torch.isfinite(bias).all()) for bias in biases.values())
    if not finite or not b * d or any(matrix.numel() != b * d for matrix in flat.values()):
        found = " and ".join(str(matrix.numel()) for matrix in flat.values())
        raise CheckpointError(
            f"{where}: module {name} has trains of {found} numbers, expected {d} x {b} as its biases, "
            "which must be finite, are long",
            hint=AGAIN,
        )
    down, up = flat["down"].reshape(d, b).T.contiguous(), flat["up"].reshape(b, d).T.contiguous()

    def function(x: Tensor) -> Tensor:
        inner = activation(functional.linear(x, down.to(x), biases["down"].to(x)))
        return x + scaling * functional.linear(inner, up.to(x), biases["up"].to(x))

    return function


DIALECT = _LorettaAdp()
