"""Outputs that are no numbers: refused, with the text and the layer where they begin."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from adaptzip.errors import RefusedError
from adaptzip.models.live.batch import Batch
from adaptzip.models.live.loaded import LoadedModel

_SHOWN = 40


def watched(loaded: LoadedModel, model: Callable[[Batch], Tensor]) -> Callable[[Batch], Tensor]:
    """A model whose outputs are all finite.

    Args:
        loaded: the model below, whose layers are looked at.
        model: gives the rows of a batch.

    Raises (when it is called):
        RefusedError: where it puts out NaN or infinity.
    """

    def run(batch: Batch) -> Tensor:
        rows = model(batch)
        if not bool(rows.isfinite().all()):
            raise _refusal(loaded, model, batch)
        return rows

    return run


def _refusal(loaded: LoadedModel, model: Callable[[Batch], Tensor], batch: Batch) -> RefusedError:
    found: list[str] = []
    text = batch.ids[0][batch.mask[0]]
    for one in loaded.each(batch):
        found.clear()
        with torch.no_grad(), _first_not_finite(loaded.model, found):
            rows = model(one)
        if not bool(rows.isfinite().all()):
            text = one.ids[0]
            break
    words = loaded.tokeniser.decode(text.tolist())
    start = repr(words if len(words) <= _SHOWN else f"{words[:_SHOWN]}...")
    where = f", first in layer {found[0]}" if found else ""
    return RefusedError(
        f"the outputs for the text {start} are not finite{where}",
        hint="look for NaN and infinity in the weights, as a cast to float16 leaves them",
    )


def _first_not_finite(model: nn.Module, found: list[str]) -> ExitStack:
    """While this is open, the first layer that puts out what is not finite is noted."""

    def note(name: str, module: nn.Module, arguments: Any, output: Any) -> None:
        out = output[0] if isinstance(output, tuple) else output
        if not found and isinstance(out, Tensor) and not bool(out.isfinite().all()):
            found.append(name)

    stack = ExitStack()
    for name, module in model.named_modules():
        if not any(True for _ in module.children()):
            stack.callback(module.register_forward_hook(partial(note, name)).remove)
    return stack
