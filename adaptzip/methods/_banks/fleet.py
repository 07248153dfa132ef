"""A bank for many adapters: fitted to a sample of their modules, then by mini-batches to all of them.

Memory does not grow with the number of adapters: the sample has a size, and each mini-batch is dropped after its step.
A step moves every vector by its gradient over twice what it was used for until then, which for single vectors is the
running mean of online k-means (Sculley, Web-scale k-means clustering, 2010).
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from adaptzip.core.adapter import LoraFactors
from adaptzip.core.bank_builder import Fleet
from adaptzip.core.workers import parallel_map
from adaptzip.methods._banks.factors import Coded, Group, groups
from adaptzip.methods._banks.fit import Shape, fit_bank
from adaptzip.methods._banks.given import coded_with
from adaptzip.methods._banks.refining import differentiated, usage
from adaptzip.methods._banks.sections import sections

SAMPLE_NUMBERS = 2**21
"""Numbers of the factors that a bank is fitted to first."""
BATCH_NUMBERS = 2**19
"""Numbers of the factors of a mini-batch, unless one adapter has more."""
PASSES = 2


@dataclass(frozen=True, eq=False)
class Sample:
    """Modules of many adapters, drawn with equal chances.

    Attributes:
        modules: by the adapter's number and the module's name.
        weights: what a squared error in each counts, so that every adapter counts alike: 1 for one of mean energy.
        energy: what an error is divided by for the weights: the mean |dW|^2 of an adapter.
        adapters: how many adapters there are whose update is not zero.
        numbers: in the factors of all adapters.
    """

    modules: Mapping[str, LoraFactors]
    weights: Mapping[str, float]
    energy: float
    adapters: int
    numbers: int

    @property
    def share(self) -> float:
        """The sample's numbers as a share of all."""
        return sum(module.parameters for module in self.modules.values()) / self.numbers


def energy_of(module: LoraFactors) -> float:
    """|dW|^2."""
    A, B = module.A.double(), module.B.double()
    return float(((A @ A.T) * (B.T @ B)).sum()) * module.scaling**2


def draw(fleet: Fleet, seed: int) -> Sample:
    """The sample: modules of the smallest random keys, drawn in order, so many as there is room for."""
    generator = torch.Generator().manual_seed(seed)
    kept: list[tuple[float, str, LoraFactors, float]] = []
    room, total, adapters, numbers = SAMPLE_NUMBERS, 0.0, 0, 0
    for number, modules in enumerate(fleet()):
        energies = {name: energy_of(module) for name, module in sorted(modules.items())}
        own = sum(energies.values())
        keys = torch.rand(len(energies), generator=generator, dtype=torch.float64).tolist()
        if not own > 0:
            continue
        total, adapters = total + own, adapters + 1
        for key, (name, energy) in zip(keys, energies.items(), strict=True):
            module = modules[name]
            numbers += module.parameters
            if energy > 0 and (room >= module.parameters or key < -kept[0][0]):
                heapq.heappush(kept, (-key, f"{number}/{name}", _copied(module), own))
                room -= module.parameters
            while room < 0 and len(kept) > 1:
                room += heapq.heappop(kept)[2].parameters
    mean = total / max(adapters, 1)
    chosen = sorted(kept, key=lambda one: -one[0])
    return Sample(
        {name: module for _, name, module, _ in chosen},
        {name: mean / own for _, name, _, own in chosen},
        mean,
        adapters,
        numbers,
    )


def fit_fleet(
    fleet: Fleet,
    sample: Sample,
    shape: Shape,
    rank: int,
    seed: int,
    device: torch.device,
    progress: Callable[[float], None] | None = None,
) -> tuple[Tensor, list[Group], list[Coded]]:
    """A bank (h, length) whose last vector is zero, the sample in groups, and its codes for this bank.

    Args:
        shape: of the bank, the zero vector included.
        rank: of every module.
    """  # fmt: skip
    tell = progress or (lambda share: None)
    found = list(groups(sample.modules, dict.fromkeys(sample.modules, rank), sample.weights, device))
    fit = fit_bank(found, replace(shape, h=shape.h - 1), seed, lambda share: tell(share / 2))
    bank = torch.nn.functional.pad(fit.bank, (0, 0, 0, 1))
    used = usage(found, coded_groups(found, bank, shape), bank)
    done = 0
    for _ in range(PASSES):
        for batch in _batches(fleet, sample, rank, device):
            coded = coded_groups(batch, bank, shape)
            used += usage(batch, coded, bank)
            bank = _moved(bank, used, list(zip(batch, coded, strict=True)))
            done += sum(len(group.names) for group in batch)
            tell(min(1.0, 0.5 + done / (2 * PASSES * max(len(sample.modules) / sample.share, 1))))
    bank = bank[bank.square().sum(1).argsort(dim=0, descending=True, stable=True)]
    return bank, found, coded_groups(found, bank, shape, shape.levels)


def coded_groups(batch: list[Group], bank: Tensor, shape: Shape, levels: int | None = None) -> list[Coded]:
    """Codes of groups for a bank."""
    widths = {width for group in batch for width in (group.U.shape[1], group.V.shape[1])}
    known = sections(bank, widths, shape.k)

    def code(group: Group) -> Coded:
        return coded_with(group, bank, shape.k, known, levels)

    return list(parallel_map(code, batch, device=bank.device))


def _copied(module: LoraFactors) -> LoraFactors:
    """The factors alone, in memory of their own."""
    A, B = (factor.detach().to("cpu", torch.float32, copy=True) for factor in (module.A, module.B))
    return LoraFactors(A, B, module.scaling)


def _batches(fleet: Fleet, sample: Sample, rank: int, device: torch.device) -> Iterator[list[Group]]:
    """Groups of some adapters at a time; no adapter is held longer than it takes to group it."""
    batch: list[Group] = []
    room = BATCH_NUMBERS
    for modules in fleet():
        energies = {name: energy_of(module) for name, module in sorted(modules.items())}
        alive = {name: modules[name] for name, energy in energies.items() if energy > 0}
        weights = dict.fromkeys(alive, sample.energy / max(sum(energies.values()), 1e-300))
        batch += groups(alive, dict.fromkeys(alive, rank), weights, device)
        room -= sum(module.parameters for module in alive.values())
        if room <= 0:
            yield batch
            batch, room = [], BATCH_NUMBERS
    if batch:
        yield batch


def _moved(bank: Tensor, used: Tensor, pairs: list[tuple[Group, Coded]]) -> Tensor:
    """The bank after a mini-batch; what was never used, and the zero vector, stay."""
    total = torch.zeros_like(bank)
    for _, gradient in parallel_map(lambda pair: differentiated([pair], bank), pairs, device=bank.device):
        total += gradient
    step = torch.where(used[:, None] > 0, total / (2 * used[:, None]).clamp(min=torch.finfo(bank.dtype).tiny), 0.0)
    step[-1] = 0
    return bank - step
