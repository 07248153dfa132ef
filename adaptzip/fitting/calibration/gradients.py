"""What gradients say of an adapter's modules: Fisher information of their outputs, first steps and importance."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from math import sqrt
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from adaptzip.core.adapter import Adapter
from adaptzip.core.layouts import PLAIN
from adaptzip.errors import RefusedError
from adaptzip.fitting.calibration.moments import WIDEST_MOMENTS, input_rows
from adaptzip.models.live.finite import watched
from adaptzip.models.live.layers import Layer
from adaptzip.models.live.running import NO_LABEL, Batch, LoadedModel, load_base
from adaptzip.models.texts.example import Example

BETA = 0.85
"""Decay of both averages of IncreLoRA's importance."""
_TEMPERATURE = 0.05
_DRAWS = 2


@dataclass(eq=False)
class GradientTally:
    """Sums over the positions of one module, x its input there and g the gradient of its output.

    Attributes:
        energy: sum of |g|^2 |x|^2.
        output_energy: sum of |g|^2.
        gram: sum of |g|^2 x x^T, (in, in) float64; None where only energies are kept.
    """

    energy: float = 0.0
    output_energy: float = 0.0
    gram: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Importance:
    """IncreLoRA's importance.

    Attributes:
        modules: by module, the average of sum |dW dL/ddW| / sqrt(numbers) times that of its uncertainty.
        components: by module, |sigma_k u_k^T (dL/ddW) v_k| of each singular component, (k,), averaged over batches.
    """

    modules: Mapping[str, float]
    components: Mapping[str, Tensor]


def tally_gradients(loaded: LoadedModel, batches: Sequence[Batch], seed: int) -> dict[str, GradientTally]:
    """Run the model forwards and backwards, and add up inputs and gradients of its layers."""
    generator = torch.Generator().manual_seed(seed)
    tallies = {name: GradientTally() for name in loaded.layers}
    for batch in batches:
        with _from_embeddings(loaded.model), _observed_gradients(loaded.layers, batch, tallies):
            output = watched(loaded, loaded)(batch)
            for draw in range(_DRAWS):
                _drawn_loss(loaded, output, generator).backward(retain_graph=draw + 1 < _DRAWS)  # type: ignore[no-untyped-call]
    return tallies


def module_gradients(
    base: Path,
    texts: Sequence[str | Example],
    modules: Sequence[str],
    *,
    batch: int = 16,
    max_tokens: int = 256,
    device: torch.device | None = None,
    tokeniser: Path | None = None,
) -> dict[str, Tensor]:
    """Gradient of the base model's loss with respect to each module's weight, (out, in) float32, mean over batches.

    A causal language model's loss is the cross entropy of the next token, a seq2seq model's that of writing the text
    again. An encoder without a head has no loss of its own: there it is the cross entropy of finding the second half of
    each text, among those of its batch, by the cosine of its embedding to the first half's (temperature 0.05).

    Args:
        tokeniser: a folder whose tokeniser is taken, such as an adapter's; None takes the base's.

    Raises:
        BaseModelError: as `load_base`, or if a module is not in the model.
        RefusedError: as `load_base`, or if no text is long enough for the loss.
    """
    loaded = load_base(base, modules, device or torch.device("cpu"), tokeniser)
    sums = {name: torch.zeros(layer.shape, device=layer.weight.device) for name, layer in loaded.layers.items()}
    count = 0
    for part in loaded.batches(texts, batch, max_tokens):
        loss = _own_loss(loaded, part)
        if loss is None:
            continue
        count += 1
        for name, gradient in _weight_gradients(loaded, loss).items():
            sums[name] += gradient
    if not count:
        raise RefusedError(
            f"{base}: none of the texts is long enough for a gradient",
            hint="give texts of at least two tokens, and for an encoder at least two texts of two words",
        )
    return {name: total / count for name, total in sums.items()}


def importance_of(loaded: LoadedModel, adapter: Adapter, batches: Sequence[Batch], seed: int) -> Importance:
    """IncreLoRA's importance of each module (Zhang et al. 2023, arXiv 2308.12043), averaged over batches.

    The loss is the next token's cross entropy for a causal model; a classifier has no labels here, and its loss is that
    of labels drawn from its own distributions.

    Args:
        loaded: the base model with the adapter's layers.
        batches: taken in a random order, which `seed` decides.
    """
    generator = torch.Generator().manual_seed(seed)
    average, uncertainty = dict.fromkeys(adapter.modules, 0.0), dict.fromkeys(adapter.modules, 0.0)
    parts = {name: module.svd() for name, module in adapter.modules.items()}
    components = {name: torch.zeros(len(S)) for name, (_, S, _) in parts.items()}
    count = 0
    for place in torch.randperm(len(batches), generator=generator).tolist():
        loss = _own_loss(loaded, batches[place]) if loaded.kind == "causal" else None
        if loss is None:
            output = watched(loaded, loaded)(batches[place])
            loss = _drawn_loss(loaded, output, generator) / len(output)
        count += 1
        for name, gradient in _weight_gradients(loaded, loss).items():
            sensitivity = float((adapter.modules[name].delta().to(gradient) * gradient).abs().sum())
            sensitivity /= sqrt(gradient.numel())
            average[name] = BETA * average[name] + (1 - BETA) * sensitivity
            uncertainty[name] = BETA * uncertainty[name] + (1 - BETA) * abs(sensitivity - average[name])
            U, S, Vt = parts[name]
            components[name] += (S * ((U.T @ gradient.cpu()) * Vt).sum(1)).abs()
    scores = {name: average[name] * uncertainty[name] for name in average}
    return Importance(scores, {name: total / max(count, 1) for name, total in components.items()})


def _weight_gradients(loaded: LoadedModel, loss: Tensor) -> dict[str, Tensor]:
    """Gradient of a loss by each layer's weight, in the update's orientation."""
    parameters = list({id(layer.parameter): layer.parameter for layer in loaded.layers.values()}.values())
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    by_id = {id(p): torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)}
    return {name: layer.as_update(by_id[id(layer.parameter)]) for name, layer in loaded.layers.items()}


def _own_loss(loaded: LoadedModel, batch: Batch) -> Tensor | None:
    """The loss on the texts themselves, with weights that have gradients; None where they are too short."""
    for layer in loaded.layers.values():
        layer.parameter.requires_grad_(True)
    if loaded.kind == "encoder":
        return _halves_loss(loaded, batch)
    return _next_token_loss(loaded, replace(batch, labels=batch.targets))


def _next_token_loss(loaded: LoadedModel, batch: Batch) -> Tensor | None:
    """Mean cross entropy of every token, of a causal model but the first of each text."""
    labels = loaded.rows_labels(batch)
    if labels is None or not bool((labels != NO_LABEL).any()):
        return None
    return functional.cross_entropy(watched(loaded, loaded)(batch), labels, ignore_index=NO_LABEL)


def _halves_loss(loaded: LoadedModel, batch: Batch) -> Tensor | None:
    """Which second half belongs to which first half, told by the cosines of their embeddings."""
    middle = batch.mask.sum(1, keepdim=True) // 2
    place = batch.mask.long().cumsum(1) - 1
    long = middle[:, 0] > 0
    if int(long.sum()) < 2:
        return None
    first = Batch(batch.ids[long], (batch.mask & (place < middle))[long], apart=batch.apart)
    second = Batch(batch.ids[long], (batch.mask & (place >= middle))[long], apart=batch.apart)
    a, b = (functional.normalize(watched(loaded, loaded)(half), dim=1) for half in (first, second))
    return functional.cross_entropy(a @ b.T / _TEMPERATURE, torch.arange(len(a), device=a.device))


def _drawn_loss(loaded: LoadedModel, output: Tensor, generator: torch.Generator) -> Tensor:
    """Sum of the losses of labels drawn from the model's own output, or of random directions of embeddings."""
    if loaded.kind == "encoder":
        direction = torch.randn(output.shape, generator=generator).to(output)
        return (functional.normalize(output, dim=1) * direction).sum()
    if loaded.kind == "scores":
        # The gradient of a Gaussian's log-likelihood at a number drawn from it.
        return (output * torch.randn(output.shape, generator=generator).to(output)).sum()
    if loaded.kind == "multilabel":
        drawn = torch.bernoulli(output.detach().sigmoid().cpu(), generator=generator).to(output)
        return functional.binary_cross_entropy_with_logits(output, drawn, reduction="sum")
    label = torch.multinomial(output.detach().softmax(1).cpu(), 1, generator=generator).to(output.device)
    return -output.log_softmax(1).gather(1, label).sum()


@contextmanager
def _from_embeddings(model: nn.Module) -> Iterator[None]:
    """Let gradients start at every embedding, with every weight frozen.

    Encoder and decoder may each have tables of their own, and some models write into what their embeddings put out.
    """
    with ExitStack() as hooks:
        for module in model.modules():
            if isinstance(module, nn.Embedding):
                hooks.enter_context(
                    module.register_forward_hook(lambda _, __, output: output.requires_grad_(True).clone())
                )
        yield


@contextmanager
def _observed_gradients(
    layers: Mapping[str, Layer], batch: Batch, tallies: Mapping[str, GradientTally]
) -> Iterator[None]:
    with ExitStack() as hooks:
        for name, layer in layers.items():
            if layer.expert is None:
                observe = partial(_observe, layer, tallies[name], batch.mask)
                hooks.enter_context(layer.module.register_forward_hook(observe))
        yield


def _observe(
    layer: Layer, tally: GradientTally, mask: Tensor, _: nn.Module, args: tuple[Any, ...], output: Any
) -> None:
    # A router puts out what it has chosen as well, and is not told by the gradient of any one of its outputs.
    if isinstance(output, tuple) or not output.requires_grad:
        return
    add: Callable[[Tensor], None] = partial(_add_outputs, tally)
    if layer.layout in PLAIN:
        rows = input_rows(layer, args[0].detach(), mask)
        add = partial(_add_products, tally, layer, rows, mask)
    output.register_hook(add)


def _add_outputs(tally: GradientTally, gradient: Tensor) -> None:
    energy = float(gradient.double().square().sum())
    tally.energy += energy
    tally.output_energy += energy


def _add_products(tally: GradientTally, layer: Layer, rows: Tensor, mask: Tensor, gradient: Tensor) -> None:
    energy = input_rows(layer, gradient, mask).float().square().sum(1)
    tally.output_energy += float(energy.double().sum())
    if rows.shape[1] > WIDEST_MOMENTS:
        tally.energy += float((energy * rows.square().sum(1)).double().sum())
        return
    gram = (rows.T @ (rows * energy.unsqueeze(1))).double()
    tally.energy += float(gram.trace())
    tally.gram = gram if tally.gram is None else tally.gram.add_(gram)
