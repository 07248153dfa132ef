"""Calibration: what a base model and some texts say about which errors of an adapter matter.

The only package that runs models, and so the only one that imports transformers (`pip install 'adaptzip[distill]'`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from adaptzip.checkpoints import resolved
from adaptzip.core.adapter import Adapter
from adaptzip.core.gains import divisor, gain_index
from adaptzip.core.linalg import choose_device
from adaptzip.core.sensitivity import Sensitivity
from adaptzip.errors import UsageError
from adaptzip.fitting.calibration.choosing import (
    EQUAL,
    ERRORS,
    Attribution,
    Copier,
    Sensitivities,
    attribute,
    attributed_weights,
    choose_estimate,
    errors_near,
)
from adaptzip.fitting.calibration.gradients import GradientTally, Importance, importance_of, tally_gradients
from adaptzip.fitting.calibration.moments import (
    InputTally,
    input_sensitivities,
    relative_weights,
    scaled_moments,
    tally_inputs,
)
from adaptzip.models.live.running import Batch, LoadedModel, Loading, load_teacher, sample_texts
from adaptzip.models.texts.examples import read_examples

Use = Literal["inputs", "gradients", "both"]
"""What the estimates may be made of: what modules are fed, gradients of their outputs, or both."""

_TRIED = 4096
"""Estimates are tried on batches of about this many tokens in all, whose outputs are kept in memory."""
_SPLIT = 4
"""Of as many batches or more, every second one is kept from the estimates, to choose between them."""


@dataclass(frozen=True, eq=False)
class Calibration:
    """What calibration found.

    Attributes:
        sensitivities: of every module, with weights as gains have them; none where no estimate was better than equal
            weights.
        importance: IncreLoRA's score of every module; {} without gradients.
        components: the same for every singular component of a module; {} without gradients.
        texts: how many were run; those of which no token counts are not.
        tokens: how many tokens they had.
        estimate: the estimate that was kept, by name.
        distances: what each estimate's coarse copies came to (`choosing.Choice`).
    """

    sensitivities: Mapping[str, Sensitivity]
    importance: Mapping[str, float]
    components: Mapping[str, Tensor]
    texts: int
    tokens: int
    estimate: str
    distances: Mapping[str, float]


def calibrate(
    base: Path,
    adapter: Adapter,
    texts_path: Path,
    *,
    use: Use = "both",
    batch: int = 16,
    max_tokens: int = 256,
    most_texts: int = 256,
    seed: int = 0,
    device: str | torch.device = "auto",
    error: float | None = None,
    compressed: Copier | None = None,
    tokeniser: Path | None = None,
    text_field: str | None = None,
    pair_field: str | None = None,
    completion_field: str | None = None,
) -> Calibration:
    """Estimate how much errors in each module matter, from texts run through the base model with the adapter on it.

    Args:
        base: the base model's folder, with its tokeniser; nothing is downloaded.
        texts_path: a file of texts (`read_examples`).
        use: "inputs", "gradients" or "both"; the first runs the model forwards only, but for the choice.
        batch: texts run together.
        max_tokens: texts are cut to this many tokens.
        most_texts: of more texts, this many are drawn.
        seed: of every random choice.
        error: relative error that the adapter will be compressed to, about; estimates are compared near it. What helps
            at one size may harm at another.
        compressed: what compresses the adapter to the very size; estimates are then compared by what is left of it.
        tokeniser: a folder whose tokeniser is taken, such as the adapter's; None takes the base's.
        text_field, pair_field, completion_field: where the rows of the file have what (`read_examples`).

    Raises:
        CheckpointError: if the texts can't be read.
        BaseModelError: if the base can't be loaded, or is not the adapter's.
        RefusedError: if transformers or a tokeniser is missing, or outputs are not finite.
        CheckFailedError: if none of the texts has a token that counts.
        UsageError: if `use` or the device is unknown, or the model does not read such texts.
    """
    if use not in get_args(Use):
        raise UsageError(f"calibration use {use!r} is unknown", hint=f"uses: {', '.join(get_args(Use))}")
    found = read_examples(texts_path, text_field=text_field, pair_field=pair_field, completion_field=completion_field)
    texts = sample_texts(found, most_texts, seed)
    loaded = load_teacher(base, resolved(adapter), choose_device(device), loading=Loading(tokeniser=tokeniser))
    batches = loaded.batches(texts, batch, max_tokens)
    tokens = sum(part.tokens for part in batches)
    seen, held_out = (batches[::2], batches[1::2]) if len(batches) >= _SPLIT else (batches, batches)
    estimates = _estimates(loaded, adapter, seen, _some(seen), use, seed)
    tried = _some(held_out)
    near = ERRORS if error is None else errors_near(error)
    choice = choose_estimate(loaded, adapter, estimates, tried, near, compressed)
    importance = Importance({}, {}) if use == "inputs" else importance_of(loaded, adapter, batches, seed)
    return Calibration(
        sensitivities={} if choice.name == EQUAL else {n: _as_coded(s) for n, s in estimates[choice.name].items()},
        importance=importance.modules,
        components=importance.components,
        texts=sum(len(part.ids) for part in batches),
        tokens=tokens,
        estimate=choice.name,
        distances=choice.distances,
    )


def _as_coded(sensitivity: Sensitivity) -> Sensitivity:
    """With the weight that a file's gains can hold, so that the error that is minimised is the one that is told."""
    if sensitivity.weight <= 0:
        return sensitivity
    return replace(sensitivity, weight=divisor(gain_index(sensitivity.gain)) ** -2)


def _some(batches: Sequence[Batch]) -> Sequence[Batch]:
    """About `_TRIED` tokens of some batches, spread evenly."""
    return batches[:: -(-sum(part.tokens for part in batches) // _TRIED)]


def _estimates(
    loaded: LoadedModel, adapter: Adapter, batches: Sequence[Batch], tried: Sequence[Batch], use: Use, seed: int
) -> dict[str, Sensitivities]:
    """Everything that might be believed, by name, what is simpler first."""
    inputs: Mapping[str, InputTally] = tally_inputs(loaded, batches)
    seen = input_sensitivities(loaded, inputs)
    found: dict[str, Sensitivities] = {}
    if use != "gradients":
        found |= {"inputs": _without_moments(seen), "inputs, moments": seen}
    if use == "inputs":
        return found
    fisher = _fisher(loaded, tally_gradients(loaded, batches, seed))
    attributions = attribute(loaded, adapter, tried)
    found |= _attributed(attributions, {}, "attributed")
    if use == "gradients":
        return found | {"Fisher": _without_moments(fisher)}
    moments = {name: sensitivity.moments for name, sensitivity in fisher.items()}
    return found | {"Fisher, moments": fisher} | _attributed(attributions, moments, "attributed, moments")


def _attributed(
    attributions: Sequence[Attribution], moments: Mapping[str, Tensor | None], name: str
) -> dict[str, Sensitivities]:
    """Attributed weights, and the same half-way to 1 on a logarithmic scale: half believed."""
    weights = attributed_weights(attributions, moments)
    halved = {module: weight**0.5 for module, weight in weights.items()}
    return {
        called: {module: Sensitivity(weight, moments.get(module)) for module, weight in relative.items()}
        for called, relative in (
            (name, relative_weights(weights, "change nothing")),
            (f"{name}, halved", relative_weights(halved, "change nothing")),
        )
    }


def _fisher(loaded: LoadedModel, tallies: Mapping[str, GradientTally]) -> dict[str, Sensitivity]:
    """Weights and moments where each position counts by the gradient of its output (Kronecker-factored Fisher)."""
    shapes = {name: layer.shape for name, layer in loaded.layers.items()}
    raw = {name: tally.energy / shapes[name][0] / shapes[name][1] for name, tally in tallies.items()}
    weights = relative_weights(raw, "have no gradient")
    return {name: Sensitivity(weights[name], scaled_moments(tallies[name].gram)) for name in tallies}


def _without_moments(sensitivities: Sensitivities) -> dict[str, Sensitivity]:
    return {name: Sensitivity(sensitivity.weight) for name, sensitivity in sensitivities.items()}
