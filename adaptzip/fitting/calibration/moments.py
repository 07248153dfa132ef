"""Second moments of what each module is fed: E |E x|^2 = tr(E M E^T) for an error E of its update, M = E[x x^T]."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from adaptzip.checkpoints import resolved
from adaptzip.core.adapter import Adapter
from adaptzip.core.sensitivity import Sensitivity
from adaptzip.errors import warn
from adaptzip.models.live.finite import watched
from adaptzip.models.live.layers import Layer
from adaptzip.models.live.running import Batch, LoadedModel, Loading, load_teacher
from adaptzip.models.texts.example import Example

WIDEST_MOMENTS = 4096
"""Modules with more inputs get a weight but no moments, which would take more than 64 MiB each."""


@dataclass(eq=False)
class InputTally:
    """Sums over the inputs x of one module.

    Attributes:
        positions: how many there were.
        energy: sum of |x|^2.
        gram: sum of x x^T, (in, in) float64; None where only the energy is kept.
    """

    positions: int = 0
    energy: float = 0.0
    gram: Tensor | None = None


def collect_moments(
    base: Path,
    adapter: Adapter,
    texts: Sequence[str | Example],
    *,
    batch: int = 16,
    max_tokens: int = 256,
    device: torch.device | None = None,
    tokeniser: Path | None = None,
) -> dict[str, Sensitivity]:
    """Sensitivity of every module from its inputs in the base model with the adapter on it.

    `moments` are scaled to trace `in`. `weight` is the sum of |x|^2 over all positions, by `in`, as a share of the
    mean over modules, so that modules which run at every token weigh more than those that run once a text. A module
    without data has weight 1 and no moments, and is named in an AdaptzipWarning.

    Args:
        batch: texts run together.
        max_tokens: texts are cut to this many tokens.
        device: where to run; None is the CPU.
        tokeniser: a folder whose tokeniser is taken, such as the adapter's; None takes the base's.

    Raises:
        BaseModelError, RefusedError: as `load_teacher`.
    """
    loaded = load_teacher(base, resolved(adapter), device or torch.device("cpu"), loading=Loading(tokeniser=tokeniser))
    return input_sensitivities(loaded, tally_inputs(loaded, loaded.batches(texts, batch, max_tokens)))


@torch.no_grad()
def tally_inputs(loaded: LoadedModel, batches: Sequence[Batch]) -> dict[str, InputTally]:
    """Run the model, and add up what the layers see; padding is left out."""
    tallies = {name: InputTally() for name in loaded.layers}
    model = watched(loaded, loaded)
    for batch in batches:
        with observed_inputs(loaded.layers, batch, tallies):
            model(batch)
    return tallies


def input_sensitivities(loaded: LoadedModel, tallies: Mapping[str, InputTally]) -> dict[str, Sensitivity]:
    """Moments and relative weights of tallied inputs."""
    raw = {name: tally.energy / loaded.layers[name].shape[1] for name, tally in tallies.items()}
    weights = relative_weights(raw, "did not run on any of the texts, or are experts of a stacked layer,")
    wide = [name for name, tally in tallies.items() if tally.energy and tally.gram is None]
    wide = [name for name in wide if loaded.layers[name].layout != "embedding"]
    if wide:
        warn(
            f"{len(wide)} modules have more than {WIDEST_MOMENTS} inputs and get a weight only, no moments: "
            f"{', '.join(wide[:3])}"
        )
    return {name: Sensitivity(weights[name], scaled_moments(tallies[name].gram)) for name in tallies}


def relative_weights(raw: Mapping[str, float], reason: str) -> dict[str, float]:
    """Numbers as shares of their mean; those that are 0 become 1, and are named in an AdaptzipWarning."""
    known = [value for value in raw.values() if value > 0]
    without = [name for name, value in raw.items() if value <= 0]
    if without:
        names = ", ".join(without[:3]) + (", ..." if len(without) > 3 else "")
        warn(f"{len(without)} modules {reason} and weigh 1: {names}")
    mean = sum(known) / max(len(known), 1)
    return {name: value / mean if value > 0 else 1.0 for name, value in raw.items()}


@contextmanager
def observed_inputs(layers: Mapping[str, Layer], batch: Batch, tallies: Mapping[str, InputTally]) -> Iterator[None]:
    """While this is open, every run of a layer is added to its tally."""
    last = _LastGram()
    with ExitStack() as hooks:
        for name, layer in layers.items():
            if layer.expert is None:
                add = partial(_add, layer, tallies[name], batch.mask, last)
                hooks.enter_context(layer.module.register_forward_pre_hook(add))
        yield


@dataclass(eq=False)
class _LastGram:
    """The last input and its sums: query, key and value are fed the same tensor."""

    inputs: Tensor | None = None
    positions: int = 0
    energy: float = 0.0
    gram: Tensor | None = None


def _add(layer: Layer, tally: InputTally, mask: Tensor, last: _LastGram, _: nn.Module, args: tuple[Any, ...]) -> None:
    inputs = args[0].detach()
    if isinstance(layer.module, nn.Embedding):
        tally.positions += int(mask.sum()) if inputs.shape == mask.shape else inputs.numel()
        tally.energy = float(tally.positions)
        return
    if last.inputs is not args[0] or layer.layout == "conv":
        rows = input_rows(layer, inputs, mask).float()
        small = rows.shape[1] <= WIDEST_MOMENTS
        last.gram = (rows.T @ rows).double() if small else None
        last.inputs, last.positions = args[0], len(rows)
        last.energy = float(rows.double().square().sum()) if last.gram is None else float(last.gram.trace())
    tally.positions += last.positions
    tally.energy += last.energy
    if last.gram is not None:
        tally.gram = last.gram.clone() if tally.gram is None else tally.gram.add_(last.gram)


def input_rows(layer: Layer, inputs: Tensor, mask: Tensor) -> Tensor:
    """What a layer multiplies its weight with, (positions, in), without padding.

    A convolution's patches are unfolded; of its groups each counts as a position.
    """
    if layer.layout == "conv":
        return _patches(layer.module, inputs)
    flat = inputs.reshape(-1, inputs.shape[-1])
    if inputs.ndim == 3 and inputs.shape[:2] == mask.shape or len(flat) == mask.numel() > len(mask):
        return flat[mask.reshape(-1)]
    return flat


def _patches(module: nn.Module, inputs: Tensor) -> Tensor:
    """(positions, in) of a convolution over one, two or three axes."""
    convolution: Any = module
    kernel, axes, groups = convolution.kernel_size, len(convolution.kernel_size), convolution.groups
    padded = functional.pad(inputs, [n for pad in reversed(convolution.padding) for n in (pad, pad)])
    for axis in range(axes):
        apart, stride = convolution.dilation[axis], convolution.stride[axis]
        padded = padded.unfold(2 + axis, (kernel[axis] - 1) * apart + 1, stride)[..., ::apart]
    grouped = padded.reshape(len(padded), groups, -1, *padded.shape[2:])
    # (texts, group, channel, *place, *kernel) to (texts, group, *place, channel, *kernel).
    order = [0, 1, *range(3, 3 + axes), 2, *range(3 + axes, 3 + 2 * axes)]
    patches: Tensor = grouped.permute(order).flatten(2 + axes).flatten(0, 1 + axes)
    return patches


def scaled_moments(gram: Tensor | None) -> Tensor | None:
    """Moments of trace `in`, float32 on the CPU."""
    if gram is None or not float(gram.trace()) > 0:
        return None
    return (gram * (len(gram) / gram.trace())).float().cpu()
