"""Which estimate of the sensitivities to believe: the one whose coarse copies of the adapter stay closest to it.

Every estimate is a local or a decorrelated view of a model that is neither, and which one is right depends on the
model: a classifier that is sure of itself has almost no gradient where its adapter does most. So each is tried: the
adapter is rounded under it to a few sizes, put on the base, and compared with the adapter itself on the texts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import exp, log

import torch
from torch import Tensor

from adaptzip.core.adapter import Adapter
from adaptzip.core.sensitivity import Sensitivity
from adaptzip.fitting.calibration.coarse import Updates, change, coordinates, copy_of_error, copy_of_size
from adaptzip.models.live.finite import watched
from adaptzip.models.live.running import Batch, LoadedModel

Sensitivities = Mapping[str, Sensitivity]
Copier = Callable[[Sensitivities], Adapter]
"""Compresses the adapter to the size asked for, errors weighted by sensitivities, and gives back what is left of it."""

ERRORS = (0.2, 0.35, 0.5)
"""Relative errors of the unweighted copies whose sizes the estimates are compared at, where nothing else is known."""
_NEAR = (0.9, 1.0, 1.1)
_LARGEST_ERROR = 0.95
EQUAL = "equal"
"""The estimate that every module weighs the same, which is always among those tried."""
_ATTRIBUTED_ERRORS = (0.25, 0.5)
_STATIONS = (0.25, 0.75)
_FLOOR = 0.05
"""Smallest attributed weight, as a share of the mean."""


@dataclass(frozen=True)
class Choice:
    """What was believed.

    Attributes:
        name: of the estimate.
        distances: by estimate, the distance of its coarse copies from the adapter as a share of the unweighted ones',
            in the geometric mean over sizes.
    """

    name: str
    distances: Mapping[str, float]


def errors_near(error: float) -> tuple[float, ...]:
    """Relative errors to compare estimates at for a file of about this relative error."""
    return tuple(min(error * factor, _LARGEST_ERROR) for factor in _NEAR)


def choose_estimate(
    loaded: LoadedModel,
    adapter: Adapter,
    estimates: Mapping[str, Sensitivities],
    batches: Sequence[Batch],
    errors: Sequence[float] = ERRORS,
    compressed: Copier | None = None,
) -> Choice:
    """Try estimates at the sizes of unweighted copies of some relative errors, or on compressed copies of one size.

    Kept is the best on the whole of those that do no harm at any size, and equal weights if there is none.
    """
    tried: Mapping[str, Sensitivities] = {EQUAL: {}, **estimates}
    copies: dict[tuple[str, int], Updates] = {}
    if compressed is None:
        sizes = _sizes(adapter, errors)
        for estimate, sensitivities in tried.items():
            found = {
                name: coordinates(module, sensitivities.get(name, Sensitivity()))
                for name, module in adapter.modules.items()
            }
            copies |= {(estimate, place): copy_of_size(found, size) for place, size in enumerate(sizes)}
    else:
        copies = {(estimate, 0): _updates(compressed(sensitivities)) for estimate, sensitivities in tried.items()}
    count = len({place for _, place in copies})
    measured = _distances(loaded, adapter, copies, batches)
    shares, harmless = {}, []
    for estimate in (EQUAL, *estimates):
        ratios = [measured[estimate, i] / max(measured[EQUAL, i], 1e-12) for i in range(count)]
        shares[estimate] = exp(sum(log(max(ratio, 1e-12)) for ratio in ratios) / len(ratios))
        if estimate == EQUAL or max(ratios) < 1:
            harmless.append(estimate)
    return Choice(min(harmless, key=lambda name: shares[name]), shares)


def _sizes(adapter: Adapter, errors: Sequence[float]) -> list[float]:
    plain = {name: coordinates(module, Sensitivity()) for name, module in adapter.modules.items()}
    return [copy_of_error(adapter.modules, plain, error)[1] for error in errors]


def _updates(copy: Adapter) -> Updates:
    return {name: (m.B.float() * m.scaling, m.A.float()) for name, m in copy.modules.items()}


@dataclass(frozen=True, eq=False)
class Attribution:
    """How the distance of a coarse copy is shared out over modules.

    Attributes:
        changes: dW' - dW of each module, (out, in).
        shares: what of the distance is due to it.
    """

    changes: Mapping[str, Tensor]
    shares: Mapping[str, float]

    def weights(self, moments: Mapping[str, Tensor | None]) -> dict[str, float]:
        """Shares by (moment-weighted) squared errors, with mean about 1."""
        found = {}
        for name, error in self.changes.items():
            square = moments.get(name)
            size = float(((error if square is None else error @ square) * error).sum())
            found[name] = self.shares[name] / size if size > 0 else 0.0
        mean = sum(max(weight, 0.0) for weight in found.values()) / len(found)
        return {name: max(weight / mean, _FLOOR) if mean > 0 else 1.0 for name, weight in found.items()}


def attribute(loaded: LoadedModel, adapter: Adapter, batches: Sequence[Batch]) -> list[Attribution]:
    """Share out the distance of coarse copies.

    It is integrated along the way from the adapter to the copy, so that it is shared out in full (integrated gradients;
    Sundararajan et al. 2017, arXiv 1703.01365).
    """
    plain = {name: coordinates(module, Sensitivity()) for name, module in adapter.modules.items()}
    copies = [copy_of_error(adapter.modules, plain, error)[0] for error in _ATTRIBUTED_ERRORS]
    return [_attribute(loaded, adapter, copy, batches) for copy in copies]


def attributed_weights(attributions: Sequence[Attribution], moments: Mapping[str, Tensor | None]) -> dict[str, float]:
    """The mean of what several attributions give."""
    found = [attribution.weights(moments) for attribution in attributions]
    return {name: sum(weights[name] for weights in found) / len(found) for name in found[0]}


def _attribute(loaded: LoadedModel, adapter: Adapter, copy: Updates, batches: Sequence[Batch]) -> Attribution:
    changes = {name: change(module, copy[name]) for name, module in adapter.modules.items()}
    for layer in loaded.layers.values():
        layer.parameter.requires_grad_(True)
    shares = dict.fromkeys(changes, 0.0)
    with torch.no_grad():
        teacher = [watched(loaded, loaded)(batch) for batch in batches]
    for station in _STATIONS:
        with _moved(loaded, adapter, copy, station):
            for batch, expected in zip(batches, teacher, strict=True):
                for name, gradient in _gradients(loaded, loaded.distance(expected, loaded(batch))).items():
                    shares[name] += float((gradient.cpu() * changes[name]).sum())
    return Attribution(changes, shares)


def _distances(
    loaded: LoadedModel, adapter: Adapter, copies: Mapping[tuple[str, int], Updates], batches: Sequence[Batch]
) -> dict[tuple[str, int], float]:
    """Summed distance of every copy from the adapter."""
    totals = dict.fromkeys(copies, 0.0)
    with torch.no_grad():
        teacher = [watched(loaded, loaded)(batch) for batch in batches]
        for key, copy in copies.items():
            with _moved(loaded, adapter, copy):
                for batch, expected in zip(batches, teacher, strict=True):
                    totals[key] += float(loaded.distance(expected.double(), loaded(batch).double()))
    return totals


def _gradients(loaded: LoadedModel, loss: Tensor) -> dict[str, Tensor]:
    parameters = [layer.parameter for layer in loaded.layers.values()]
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return {
        name: layer.as_update(torch.zeros_like(layer.parameter) if gradient is None else gradient)
        for (name, layer), gradient in zip(loaded.layers.items(), found, strict=True)
    }


@contextmanager
def _moved(loaded: LoadedModel, adapter: Adapter, copy: Updates, share: float = 1.0) -> Iterator[None]:
    """The model with every module moved by a share of its way to the copy; the weights are put back exactly."""
    kept = {name: layer.weight.clone() for name, layer in loaded.layers.items()}
    try:
        with torch.no_grad():
            for name, layer in loaded.layers.items():
                moved = layer.as_weight(change(adapter.modules[name], copy[name])) * share
                layer.weight.add_(moved.to(layer.weight))
        yield
    finally:
        with torch.no_grad():
            for name, layer in loaded.layers.items():
                layer.weight.copy_(kept[name])
