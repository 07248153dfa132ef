"""What of a compressed adapter PEFT's VB-LoRA cannot hold, refused with the nearest setting that it can."""

from __future__ import annotations

from collections.abc import Mapping
from math import gcd

import torch

from adaptzip.checkpoints._effects import extra_effect
from adaptzip.checkpoints._native import Native, NativeModule
from adaptzip.checkpoints.peft_vblora.layout import Sizes
from adaptzip.core.adapter import Adapter
from adaptzip.core.layouts import PLAIN
from adaptzip.errors import RefusedError

_LORA = "export it with --as peft, as a LoRA, or merge it into its base model"
_AGAIN = "compress the original adapter again with"


def fitting_sizes(native: Native) -> Sizes:
    """The sizes of an adapter that PEFT's VB-LoRA can hold.

    Raises:
        RefusedError: if it cannot, naming the module and the nearest setting that works.
    """
    modules = {name: module for name, module in native.modules.items() if module.tensors}
    if not modules:
        raise RefusedError("every update of the adapter is zero, so there is nothing that PEFT could load")
    _refuse_layouts(modules)
    vectors, length = next(iter(modules.values())).tensors["bank"].shape
    _refuse_widths(modules, length)
    rank = _one_rank(modules, length)
    for name, module in modules.items():
        _refuse_repeats(name, module)
    refuse_extras(native.adapter)
    return Sizes(rank, vectors, length, next(iter(modules.values())).tensors["A.indices"].shape[1])


def _refuse_layouts(modules: Mapping[str, NativeModule]) -> None:
    for name, module in modules.items():
        if module.layout not in PLAIN:
            what = module.layout.replace("_", " ")
            raise RefusedError(
                f"module {name} is of layout {what}, and PEFT's VB-LoRA has linear ones only", hint=_LORA
            )
        if module.gain != 1:
            raise RefusedError(f"module {name} has a gain of its own, which no common bank can hold", hint=_LORA)
    transposed = [name for name, module in modules.items() if module.layout == "transposed"]
    if 0 < len(transposed) < len(modules):
        raise RefusedError(
            f"{len(transposed)} of {len(modules)} modules lie transposed, such as {transposed[0]}; PEFT's VB-LoRA has "
            "one fan_in_fan_out for all",
            hint=_LORA,
        )


def _refuse_widths(modules: Mapping[str, NativeModule], length: int) -> None:
    common = gcd(*(size for module in modules.values() for size in (module.out, module.width)))
    for name, module in modules.items():
        if module.out % length or module.width % length:
            near = " or ".join(f"-s length={size}" for size in nearest_divisors(common, length))
            raise RefusedError(
                f"module {name} is {module.out} x {module.width}, and PEFT's VB-LoRA needs widths that its vector "
                f"length, here {length}, divides",
                hint=f"{_AGAIN} {near}, which divides all its widths",
            )


def nearest_divisors(number: int, wanted: int) -> tuple[int, ...]:
    """The divisors of a number nearest to what was wanted: the largest below it and the smallest above."""
    divisors = [d for d in range(1, number + 1) if number % d == 0]
    below, above = [d for d in divisors if d < wanted], [d for d in divisors if d > wanted]
    return (*below[-1:], *above[:1])


def _one_rank(modules: Mapping[str, NativeModule], length: int) -> int:
    ranks = {
        name: len(module.tensors["A.indices"]) // max(1, module.width // length) for name, module in modules.items()
    }
    low, high = min(ranks, key=lambda name: ranks[name]), max(ranks, key=lambda name: ranks[name])
    if ranks[low] != ranks[high]:
        raise RefusedError(
            f"module {low} has rank {ranks[low]} and {high} rank {ranks[high]}; PEFT's VB-LoRA has one rank for all",
            hint=f"{_AGAIN} -s uniform=true, and -s rank=N from {ranks[low]} to {ranks[high]} where it is to be chosen",
        )
    return ranks[low]


def _refuse_repeats(name: str, module: NativeModule) -> None:
    """Of a vector that is named twice in a mixture, PEFT would forget the first weight."""
    for side in ("A", "B"):
        indices = module.tensors[f"{side}.indices"].sort(1).values
        if bool(torch.eq(indices[:, 1:], indices[:, :-1]).any()):
            raise RefusedError(
                f"module {name} names a vector twice in one mixture, of which PEFT would forget the first",
                hint=f"{_AGAIN} this version of adaptzip",
            )


def refuse_extras(adapter: Adapter) -> None:
    """Refuse what PEFT's VB-LoRA has no place for beside the factors.

    Raises:
        RefusedError: naming it.
    """
    config = adapter.meta.config
    for name, factors in adapter.modules.items():
        for what, tensor in (("a DoRA magnitude", factors.magnitude), ("a LoRA bias", factors.bias)):
            if tensor is not None:
                raise RefusedError(f"module {name} has {what}, for which PEFT's VB-LoRA has no place", hint=_LORA)
    for key in adapter.extras:
        if extra_effect(key, config, adapter.modules).role == "token_rows":
            raise RefusedError(f"{key} are trained token rows, for which PEFT's VB-LoRA has no place", hint=_LORA)
    if config.get("layer_replication"):
        raise RefusedError("the adapter needs layer_replication, which PEFT's VB-LoRA lacks", hint=_LORA)
