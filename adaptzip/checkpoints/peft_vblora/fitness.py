"""What of a compressed adapter PEFT's VB-LoRA cannot hold, refused with the nearest setting that it can."""

from __future__ import annotations

from collections.abc import Mapping
from math import gcd

import torch

from adaptzip.checkpoints._native import Native, NativeModule
from adaptzip.checkpoints._peft_native import kept_modules, refuse_extras, refuse_layouts
from adaptzip.checkpoints.peft_vblora.layout import TITLE, Sizes, zero_vector
from adaptzip.errors import RefusedError

_AGAIN = "compress the original adapter again with"


def fitting_sizes(native: Native) -> Sizes:
    """The sizes of an adapter that PEFT's VB-LoRA can hold.

    Raises:
        RefusedError: if it cannot, naming the module and the nearest setting that works.
    """
    modules = kept_modules(native)
    refuse_layouts(modules, TITLE)
    vectors, length = next(iter(modules.values())).tensors["bank"].shape
    _refuse_widths(modules, length)
    rank = _one_rank(modules, length)
    for name, module in modules.items():
        _refuse_repeats(name, module)
    refuse_extras(native.adapter, TITLE)
    return Sizes(rank, vectors, length, next(iter(modules.values())).tensors["A.indices"].shape[1])


def _refuse_widths(modules: Mapping[str, NativeModule], length: int) -> None:
    common = gcd(*(size for module in modules.values() for size in (module.out, module.width)))
    for name, module in modules.items():
        if module.out % length or module.width % length:
            near = " or ".join(f"`options={{'length': {size}}}`" for size in nearest_divisors(common, length))
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
    """The rank of all modules; with a vector of zeros, lower ones can be filled up."""
    ranks = {
        name: len(module.tensors["A.indices"]) // max(1, module.width // length) for name, module in modules.items()
    }
    low, high = min(ranks, key=lambda name: ranks[name]), max(ranks, key=lambda name: ranks[name])
    if ranks[low] != ranks[high] and zero_vector(modules[low].tensors["bank"]) is None:
        raise RefusedError(
            f"module {low} has rank {ranks[low]} and {high} rank {ranks[high]}; PEFT's VB-LoRA has one rank for all",
            hint=f"{_AGAIN} `options={{'uniform': True}}`, and `options={{'rank': N}}` from {ranks[low]} to "
            f"{ranks[high]} where it is to be chosen",
        )
    return ranks[high]


def _refuse_repeats(name: str, module: NativeModule) -> None:
    """Of a vector that is named twice in a mixture, PEFT would forget the first weight."""
    for side in ("A", "B"):
        indices = module.tensors[f"{side}.indices"].sort(1).values
        if bool(torch.eq(indices[:, 1:], indices[:, :-1]).any()):
            raise RefusedError(
                f"module {name} names a vector twice in one mixture, of which PEFT would forget the first",
                hint=f"{_AGAIN} this version of adaptzip",
            )
