"""Training what a method selects, such as vectors of a bank, before it is frozen in whole numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from adaptzip.adz.coding.coders import Coder
from adaptzip.core.compressed import Site
from adaptzip.core.trainable import AnyTrainable
from adaptzip.distillation.tensors import Place, Tensors
from adaptzip.errors import warn

MOST_BYTES = 2**30
"""Soft tensors of all modules take at most this; gradients and Adam's state take as much again three times."""


def softened(coder: Coder[AnyTrainable], tensors: Tensors) -> dict[Place, Tensor]:
    """Soft tensors of all modules; none where the method selects nothing.

    Warns:
        AdaptzipWarning: if they would take more than `MOST_BYTES`, so that there are none.
    """
    found: dict[Place, Tensor] = {}
    size = 0
    for name, own in tensors.modules.items():
        soft = coder.method.soften({**tensors.shared, **own}, coder.sites[name], coder.config)
        size += sum(tensor.nbytes for tensor in soft.values())
        if size > MOST_BYTES:
            warn(f"training the selection would take more than {MOST_BYTES >> 20} MiB: it stays as it was fitted")
            return {}
        found |= {(name, role): tensor for role, tensor in soft.items()}
    return found


def soft_places(coder: Coder[AnyTrainable], places: Mapping[Place, Tensor]) -> list[Place]:
    """Those of the places that soft tensors are in."""
    return [place for place in places if place[1] in coder.method.soft_roles]


def relaxed(coder: Coder[AnyTrainable], parameters: Mapping[Place, Tensor]) -> dict[Place, Tensor]:
    """The parameters with the tensors that soft ones stand for in their place, differentiable."""
    return _in_place(coder, parameters, coder.method.relaxed)


def hardened(coder: Coder[AnyTrainable], parameters: Mapping[Place, Tensor]) -> dict[Place, Tensor]:
    """The parameters with whole numbers in place of soft tensors."""
    return _in_place(coder, parameters, coder.method.harden)


def _in_place(
    coder: Coder[AnyTrainable],
    parameters: Mapping[Place, Tensor],
    make: Callable[[Mapping[str, Tensor], Site, Any], Mapping[str, Tensor]],
) -> dict[Place, Tensor]:
    """The parameters with what is made of each module's soft tensors in their place."""
    found = dict(parameters)
    modules: dict[str, dict[str, Tensor]] = {}
    for name, role in soft_places(coder, found):
        modules.setdefault(name, {})[role] = found.pop((name, role))
    for name, soft in modules.items():
        made = make(soft, coder.sites[name], coder.config)
        found |= {(name, role): tensor for role, tensor in made.items()}
    return found
