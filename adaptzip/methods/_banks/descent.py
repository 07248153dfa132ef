"""L-BFGS (Liu and Nocedal 1989) on one tensor, with a line search that goes back until the value falls enough.

torch's own takes more than a second to be imported, and its search for the Wolfe conditions asks for twice the values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

_ENOUGH = 1e-4
"""The share of the fall that the slope promises, which a step must bring (Armijo 1966)."""
_TRIES = 5
_LEAST, _MOST = 0.1, 0.5
"""By what a step that is too long is shortened."""


@dataclass(frozen=True, eq=False)
class Place:
    """Where a descent stands: x, its value, and the gradient there."""

    x: Tensor
    value: float
    gradient: Tensor


def descend(evaluate: Callable[[Tensor], tuple[float, Tensor]], x: Tensor, steps: int, scale: float) -> Place:
    """Where up to `steps` steps from x lead; never to a higher value.

    Args:
        evaluate: the value and the gradient at a tensor like x.
        scale: of the first step, in gradients.
    """
    place = Place(x, *evaluate(x))
    moves: list[tuple[Tensor, Tensor, float]] = []
    for _ in range(steps):
        direction = _direction(place.gradient, moves, scale)
        found = _lower(evaluate, place, direction)
        if found is None:
            break
        change, turn = found.x - place.x, found.gradient - place.gradient
        product = _dot(change, turn)
        if product > torch.finfo(x.dtype).eps * _dot(turn, turn):
            moves.append((change, turn, product))
        place = found
    return place


def _direction(gradient: Tensor, moves: list[tuple[Tensor, Tensor, float]], scale: float) -> Tensor:
    """The way down, as the moves until now tell of the curvature: the recursion of two loops."""
    found, shares = -gradient, []
    for change, turn, product in reversed(moves):
        shares.append(_dot(change, found) / product)
        found = found.sub_(turn, alpha=shares[-1])
    if moves:
        _, turn, product = moves[-1]
        scale = product / _dot(turn, turn)
    found = found.mul_(scale)
    for (change, turn, product), share in zip(moves, reversed(shares), strict=True):
        found = found.add_(change, alpha=share - _dot(turn, found) / product)
    return found


def _lower(evaluate: Callable[[Tensor], tuple[float, Tensor]], place: Place, direction: Tensor) -> Place | None:
    """A place in this direction that is low enough, or None."""
    slope, length = _dot(place.gradient, direction), 1.0
    for _ in range(_TRIES if slope < 0 else 0):
        x = place.x + length * direction
        value, gradient = evaluate(x)
        if value <= place.value + _ENOUGH * length * slope:
            return Place(x, value, gradient)
        # Where the parabola through the value, the slope and the new value is lowest.
        bend = 2 * (value - place.value - length * slope)
        length *= min(max(-slope * length / bend, _LEAST), _MOST)
    return None


def _dot(one: Tensor, other: Tensor) -> float:
    return float((one * other).sum(dtype=torch.float64))
