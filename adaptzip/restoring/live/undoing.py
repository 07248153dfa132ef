"""Leaving a model as it was when an adapter cannot be put into it after all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def as_it_was(model: nn.Module) -> Iterator[None]:
    """Take back all that is done to a model's modules, settings and flags where the block fails; not to the numbers in
    its tensors, of which loading makes new ones alone.
    """
    kept = [_Kept(module) for module in model.modules()]
    needed = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        yield
    except BaseException:
        for one in kept:
            one.restore()
        for parameter, flag in needed:
            parameter.requires_grad_(flag)
        raise


class _Kept:
    """A module's attributes, and what the dictionaries, lists and sets among them hold.

    These are given back their content in place, since PEFT shares them between modules.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module, self._class = module, type(module)
        self._attributes = dict(vars(module))
        held = self._attributes.values()
        self._content = [(one, _copied(one)) for one in held if isinstance(one, dict | list | set)]

    def restore(self) -> None:
        """Give the module what it had."""
        attributes = vars(self._module)
        attributes.clear()
        attributes.update(self._attributes)
        self._module.__class__ = self._class
        for one, content in self._content:
            one.clear()
            (one.extend if isinstance(one, list) else one.update)(content)


def _copied(content: Any) -> Any:
    for kind in (dict, list, set):
        if isinstance(content, kind):
            return kind(content)
    raise TypeError(f"expected a dictionary, list or set, found {type(content)}")
