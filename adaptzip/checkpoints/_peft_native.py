"""What PEFT's folders of a method's own tensors share: what they have no place for, extras and configuration."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from adaptzip.checkpoints._config import CONFIG_NAME, ONLY, WEIGHT_NAMES
from adaptzip.checkpoints._effects import extra_effect, loaded_key
from adaptzip.checkpoints._keys import PREFIX
from adaptzip.checkpoints._native import Native, NativeModule
from adaptzip.checkpoints.peft.targeting import exact_targets
from adaptzip.core.adapter import Adapter
from adaptzip.core.layouts import PLAIN
from adaptzip.errors import RefusedError
from adaptzip.files.tensors import build_header, pending, write_tensors

LORA = "export it with `as_='peft'`, as a LoRA, or merge it into its base model"
"""What to do with an adapter that a dialect has no place for."""
_KEPT = ("auto_mapping", "modules_to_save", "revision", "task_type")
"""Fields of the source's configuration that mean the same to every method of PEFT."""


def kept_modules(native: Native) -> dict[str, NativeModule]:
    """The modules that are not zero.

    Raises:
        RefusedError: if there is none.
    """
    modules = {name: module for name, module in native.modules.items() if module.tensors}
    if not modules:
        raise RefusedError("every update of the adapter is zero, so there is nothing that PEFT could load")
    return modules


def refuse_layouts(modules: Mapping[str, NativeModule], title: str) -> None:
    """Refuse modules that are no linear layers, have gains, or do not all lie alike.

    Raises:
        RefusedError: naming the module.
    """
    for name, module in modules.items():
        if module.layout not in PLAIN:
            what = module.layout.replace("_", " ")
            raise RefusedError(f"module {name} is of layout {what}, and {title} has linear ones only", hint=LORA)
        if module.gain != 1:
            raise RefusedError(f"module {name} has a gain of its own, which nothing common can hold", hint=LORA)
    transposed = [name for name, module in modules.items() if module.layout == "transposed"]
    if 0 < len(transposed) < len(modules):
        raise RefusedError(
            f"{len(transposed)} of {len(modules)} modules lie transposed, such as {transposed[0]}; {title} has "
            "one fan_in_fan_out for all",
            hint=LORA,
        )


def refuse_extras(adapter: Adapter, title: str) -> None:
    """Refuse what has no place beside the factors.

    Raises:
        RefusedError: naming it.
    """
    config = adapter.meta.config
    for name, factors in adapter.modules.items():
        for what, tensor in (("a DoRA magnitude", factors.magnitude), ("a LoRA bias", factors.bias)):
            if tensor is not None:
                raise RefusedError(f"module {name} has {what}, for which {title} has no place", hint=LORA)
    for key in adapter.extras:
        if extra_effect(key, config, adapter.modules).role == "token_rows":
            raise RefusedError(f"{key} are trained token rows, for which {title} has no place", hint=LORA)
    if config.get("layer_replication"):
        raise RefusedError(f"the adapter needs layer_replication, which {title} lacks", hint=LORA)


def write_folder(
    native: Native, tensors: Mapping[str, Tensor], targets: Collection[str], own: Mapping[str, Any], folder: Path
) -> None:
    """Write adapter_config.json and adapter_model.safetensors into `folder`.

    Args:
        tensors: of the method, by key.
        targets: the modules that are not zero.
        own: the method's fields of the configuration, its `peft_type` among them.
    """
    waiting = {key: pending(tensor) for key, tensor in {**tensors, **_extras(native, targets)}.items()}
    with (folder / WEIGHT_NAMES[0]).open("wb") as handle:
        write_tensors(handle, waiting, build_header(waiting, {"format": "pt"}))
    config = build_config(native, targets, own)
    (folder / CONFIG_NAME).write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")


def build_config(native: Native, targets: Collection[str], own: Mapping[str, Any]) -> dict[str, Any]:
    """PEFT's configuration of a method, whose modules are named in full."""
    meta = native.adapter.meta
    biases = {"all": "all"} | dict.fromkeys(ONLY, f"{own['peft_type'].lower()}_only")
    return {
        **{name: meta.config.get(name) for name in _KEPT},
        "base_model_name_or_path": meta.base_model,
        "bias": biases.get(str(meta.config.get("bias")), "none"),
        "fan_in_fan_out": any(module.layout == "transposed" for module in native.modules.values()),
        "inference_mode": True,
        "layers_pattern": None,
        "layers_to_transform": None,
        "target_modules": exact_targets(targets),
        **own,
    }


def _extras(native: Native, targets: Collection[str]) -> dict[str, Tensor]:
    """The extras by the keys that PEFT expects: a module that is no longer a target has no base layer."""
    left_out = native.modules.keys() - set(targets)
    renamed = {}
    for key, tensor in native.adapter.extras.items():
        module, _, leaf = key.removeprefix(PREFIX).rpartition(".base_layer.")
        renamed[f"{PREFIX}{module}.{leaf}" if module in left_out else loaded_key(key, targets)] = tensor
    return renamed
