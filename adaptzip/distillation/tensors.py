"""The tensors that a method stores of a whole adapter, while they are trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor

from adaptzip.adz.coding.coders import AnyCoder
from adaptzip.adz.coding.modules import rounded
from adaptzip.core.compressed import TensorSpec
from adaptzip.core.function_method import FunctionMethod
from adaptzip.core.gains import divisor
from adaptzip.distillation.student import Update
from adaptzip.fitting.fits import FittedAdapter

FIRST_STEP = 0.25
"""The quantiser's first step as a share of the tensors' root mean square, where a fit or functions that keep next to
nothing have none; the budget decides the others."""

Place = tuple[str, str]
"""Where a tensor is: its module, or "" where all share it, and its role."""


@dataclass(frozen=True, eq=False)
class Tensors:
    """What a method stores of a whole adapter, as it trains.

    Attributes:
        shared: tensors that all modules share, by role.
        modules: the tensors of each module that has a rank, by role.
        ranks: its rank.
        held: places of real tensors that stay as they are.
    """

    shared: dict[str, Tensor]
    modules: dict[str, dict[str, Tensor]]
    ranks: dict[str, int]
    held: frozenset[Place] = frozenset()

    @property
    def numbers(self) -> int:
        """How many there are in all tensors."""
        return sum(tensor.numel() for _, tensor in self.items())

    def items(self) -> Iterator[tuple[Place, Tensor]]:
        """Every tensor, by module ("" for shared ones) and role."""
        yield from ((("", role), tensor) for role, tensor in self.shared.items())
        for name, roles in self.modules.items():
            yield from (((name, role), tensor) for role, tensor in roles.items())

    def to(self, device: torch.device) -> Tensors:
        """The same on a device."""
        return self.replaced({place: tensor.to(device) for place, tensor in self.items()})

    def replaced(self, new: Mapping[Place, Tensor]) -> Tensors:
        """The same with other tensors in some places."""
        shared = {role: new.get(("", role), tensor) for role, tensor in self.shared.items()}
        modules = {
            name: {role: new.get((name, role), tensor) for role, tensor in roles.items()}
            for name, roles in self.modules.items()
        }
        return Tensors(shared, modules, self.ranks, self.held)


def scale_of(tensors: Tensors) -> float:
    """Root mean square of the numbers that are not zero, which those that are come to have the size of."""
    values = torch.cat([tensor.detach().double().reshape(-1) for _, tensor in tensors.items()])
    return sqrt(float(values.square().sum()) / max(1, int((values != 0).sum())))


def start(fitted: FittedAdapter, ranks: Mapping[str, int], step: float) -> Tensors:
    """The tensors of a fit at these ranks, before quantisation; coded at `step` they give the file of the fit.

    Each is fitted to what those before it become at that step, as in `code_modules`.

    Raises:
        CheckFailedError: if the step is so small that levels overflow the format.
    """
    coder, method = fitted.coder, fitted.method
    shared: dict[str, Tensor] = {}
    done: dict[str, Tensor] = {}
    for spec in method.shared_layout(coder.config):
        shared[spec.role] = method.shared_target(fitted.prepared, spec.role, done)
        done[spec.role] = _decoded(shared[spec.role], spec, step)
    modules: dict[str, dict[str, Tensor]] = {}
    for name, found in fitted.fits(list(ranks)):
        known = {**done, **coder.basis_tensors(name)}
        own: dict[str, Tensor] = {}
        for spec in method.layout(coder.sites[name], ranks[name], coder.config):
            target = method.target(found, spec.role, ranks[name], known)
            own[spec.role] = target.float() / spec.bound if spec.kind == "simplex" else target
            known[spec.role] = _decoded(own[spec.role], spec, step)
        modules[name] = own
    return Tensors(shared, {name: modules[name] for name in ranks}, dict(ranks))


def _decoded(tensor: Tensor, spec: TensorSpec, step: float) -> Tensor:
    return rounded([tensor], step)[0] if spec.kind == "real" else tensor


def trained_places(coder: AnyCoder, tensors: Tensors) -> list[Place]:
    """Places of the real tensors that are not held: those that gradients reach."""
    real = {("", spec.role) for spec in coder.method.shared_layout(coder.config) if spec.kind == "real"}
    for name, rank in tensors.ranks.items():
        layout = coder.method.layout(coder.sites[name], rank, coder.config)
        real |= {(name, spec.role) for spec in layout if spec.kind == "real"}
    return [place for place, _ in tensors.items() if place in real - tensors.held]


def trained_of(coder: AnyCoder, tensors: Tensors) -> dict[Place, Tensor]:
    """Copies of the tensors that are trained, by place."""
    every = dict(tensors.items())
    return {place: every[place].detach().clone() for place in trained_places(coder, tensors)}


def factors_of(coder: AnyCoder, gains: Mapping[str, int], tensors: Tensors) -> dict[str, Update]:
    """The factors that the tensors stand for, of rank 0 for modules without any, or the functions.

    Differentiable in the real tensors.
    """
    method = coder.method
    if isinstance(method, FunctionMethod):
        every = tensors.modules.items()
        return {n: method.apply({**tensors.shared, **own}, coder.sites[n], coder.config) for n, own in every}
    device = next(tensor.device for _, tensor in tensors.items())
    found: dict[str, Update] = {
        name: (torch.zeros(0, site.width, device=device), torch.zeros(site.out, 0, device=device))
        for name, site in coder.sites.items()
    }
    for name, own in tensors.modules.items():
        known = {**tensors.shared, **coder.basis_tensors(name), **own}
        A, B = method.reconstruct(known, coder.sites[name], coder.config)
        found[name] = (A * divisor(gains[name]) if gains.get(name) else A, B)
    return found
