"""Asking a method whether it can be trained."""

from __future__ import annotations

from adaptzip.adz.coding.coders import AnyCoder, Coder
from adaptzip.core.family import AnyFamily
from adaptzip.core.trainable import AnyTrainable, Trainable
from adaptzip.errors import RefusedError


def as_trainable(method: AnyFamily) -> AnyTrainable:
    """The method as one that can be trained.

    Raises:
        RefusedError: if it can't.
    """
    if not isinstance(method, Trainable):
        raise RefusedError(
            f"method {method.name!r} can't be trained: it says nothing of how (`adaptzip.Trainable`)",
            hint=f"use `adaptzip compress --to {method.name}`, or distill with another `to=`",
        )
    return method


def trained(coder: AnyCoder) -> Coder[AnyTrainable]:
    """What modules are coded with, of a method that can be trained.

    Raises:
        RefusedError: as `as_trainable`.
    """
    return Coder(as_trainable(coder.method), coder.config, coder.sites, coder.max_rank, coder.basis)
