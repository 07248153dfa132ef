"""One vetting for adapters from any source: what reading a folder refuses is refused in a file or in memory too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from adaptzip.checkpoints._config import DIFFERENT, ONLY, parse_config
from adaptzip.checkpoints._effects import extra_effect
from adaptzip.checkpoints._keys import PREFIX, refuse_methods
from adaptzip.core.adapter import Adapter
from adaptzip.core.finite import all_finite
from adaptzip.errors import CheckpointError

_REPAIR = "repair the configuration"
_BIASES = (None, "none", "all", *ONLY)


def vet_parts(adapter: Adapter, where: object) -> None:
    """Refuse an adapter whose configuration or extras say of the update what its factors do not.

    The configuration is held against PEFT's fields; others have no meaning here.

    What a configuration leaves out is no reason: whoever writes the adapter fills it in.

    Raises:
        RefusedError: if an extra belongs to another method.
        CheckpointError: if a field has a value of the wrong kind, tensors that it announces are missing, or an extra
            means a part of a factor or the same tensor as another.
    """
    _vet_config(adapter.meta.config, where)
    for field, what, present in (
        ("use_dora", "magnitude", [m.magnitude is not None for m in adapter.modules.values()]),
        ("lora_bias", "bias", [m.bias is not None for m in adapter.modules.values()]),
    ):
        if adapter.meta.config.get(field) and not all(present):
            name = list(adapter.modules)[present.index(False)]
            raise CheckpointError(f"{where}: module {name} has no {what}, but {field} is set", hint=DIFFERENT)
    _vet_extras(adapter.extras, where)
    check_token_rows(adapter.extras, adapter.meta.config, where)


def vet_numbers(adapter: Adapter) -> None:
    """Refuse factors in memory that reading a file would refuse.

    Raises:
        CheckpointError: if one has whole numbers, floats of 8 bits, NaN or infinity.
    """
    for name, module in adapter.modules.items():
        for factor, tensor in (("A", module.A), ("B", module.B)):
            if not (tensor.is_floating_point() and tensor.dtype.itemsize > 1):
                raise CheckpointError(
                    f"module {name!r}: {factor} is {str(tensor.dtype).removeprefix('torch.')}, expected float32, "
                    "float16, bfloat16 or float64"
                )
            if not all_finite(tensor):
                raise CheckpointError(
                    f"module {name!r}: {factor} has numbers that are not finite",
                    hint="the training diverged; use an earlier save",
                )


def _vet_config(raw: Mapping[str, Any], where: object) -> None:
    # The ranks and scales of other dialects than PEFT's own stand elsewhere, or mean something else.
    parse_config({**raw, "r": 1, "lora_alpha": 1, "rank_pattern": {}, "alpha_pattern": {}}, where)
    if not isinstance(raw.get("task_type"), str | None):
        raise CheckpointError(f"{where}: task_type is {raw['task_type']!r}, expected text", hint=_REPAIR)
    if raw.get("bias") not in _BIASES:
        raise CheckpointError(f"{where}: bias is {raw['bias']!r}, expected none, all or lora_only", hint=_REPAIR)


def _vet_extras(extras: Mapping[str, Tensor], where: object) -> None:
    meant: dict[str, str] = {}
    for key in extras:
        refuse_methods(key, where)
        name = key.removeprefix(PREFIX)
        if ".lora_" in f".{name}" or "lora_latent_mapping" in name:
            raise CheckpointError(f"{where}: the extra {key} is named as a part of a module's factors")
        if name in meant:
            raise CheckpointError(f"{where}: the keys {meant[name]} and {key} mean the same tensor")
        meant[name] = key


def check_token_rows(extras: Mapping[str, Tensor], raw: Mapping[str, Any], where: object) -> None:
    """Replaced embedding rows must be as many as the configuration names, in both directions.

    Raises:
        CheckpointError: if they are not.
    """
    effects = {key: extra_effect(key, raw) for key in extras}
    rows = [key for key, effect in effects.items() if effect.role == "token_rows"]
    for key in rows:
        indices = effects[key].rows
        if indices is None or extras[key].ndim != 2 or len(indices) != extras[key].shape[0]:
            there = "none" if indices is None else str(len(indices))
            raise CheckpointError(
                f"{where}: {key} is {list(extras[key].shape)}, but trainable_token_indices "
                f"in adapter_config.json names {there}",
                hint=DIFFERENT,
            )
    if raw.get("trainable_token_indices") and not rows:
        raise CheckpointError(
            f"{where}: trainable_token_indices is set, but there are no rows for these tokens",
            hint=DIFFERENT,
        )
