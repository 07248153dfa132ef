"""An adapter in a method's coordinates, ready to be coded at any step."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

import torch

from adaptzip.adapter import Adapter, LoraFactors
from adaptzip.coding.modules import CodedModule, code_modules
from adaptzip.compressed import Site
from adaptzip.methods._base import Method, Profile
from adaptzip.workers import parallel_map

R = TypeVar("R")
Progress = Callable[[str, float], None]

_KEPT_NUMBERS = 12_000_000
"""Fits of adapters up to this size stay in memory; larger ones are fitted again for every pass."""
_BATCH_NUMBERS = 3_000_000
_SAMPLE_NUMBERS = 4_000_000
"""Larger adapters are measured on this many numbers while the step is searched."""


@dataclass(frozen=True, eq=False)
class FittedAdapter:
    """An adapter's modules under one method.

    Attributes:
        profiles: summary of every module that is not zero.
        sites: every module.
        kept: fits of all these modules where they are few enough to keep, else empty.
        sample: modules that stand for all while the step is searched; all of them where `kept`.
    """

    method: Method
    config: Any
    adapter: Adapter
    device: torch.device
    sites: Mapping[str, Site]
    max_rank: int
    profiles: Mapping[str, Profile]
    kept: Mapping[str, Any]
    sample: Sequence[str]

    @property
    def complete(self) -> bool:
        """Whether the sample is the whole adapter."""
        return len(self.sample) == len(self.profiles)

    def numbers(self, name: str, rank: int) -> int:
        """Numbers stored for a module of `rank`."""
        return sum(spec.numbers for spec in self.method.layout(self.sites[name], rank)) if rank else 0

    @property
    def energy(self) -> float:
        """|dW|^2 over all modules."""
        return sum(profile.energy for profile in self.profiles.values())

    def ranks(self, step: float, caps: Mapping[str, int] | None = None) -> dict[str, int]:
        """The rank of each module at `step`, at most its cap; modules of rank 0 are left out."""
        ranks = {name: self.method.rank(profile, step) for name, profile in self.profiles.items()}
        if caps is not None:
            ranks = {name: min(rank, caps[name]) for name, rank in ranks.items()}
        return {name: rank for name, rank in ranks.items() if rank}

    def predict(self, step: float, ranks: Mapping[str, int], names: Sequence[str] | None = None) -> tuple[float, float]:
        """Expected (coded bytes, squared error) over all modules or `names`, by the method's own model."""
        bits = error = 0.0
        for name in self.profiles if names is None else names:
            b, e = self.method.predict(self.profiles[name], ranks.get(name, 0), step)
            bits, error = bits + b, error + e
        return bits / 8, error

    def code(
        self, step: float, ranks: Mapping[str, int], names: Sequence[str], progress: Progress | None = None
    ) -> dict[str, CodedModule]:
        """Code those of `names` that have a rank."""
        wanted = [name for name in names if name in ranks]
        coded: dict[str, CodedModule] = {}

        def code(batch: list[str]) -> dict[str, CodedModule]:
            fits = {n: self.kept[n] for n in batch} if self.kept else self._fit(batch)
            return code_modules(self.method, fits, ranks, self.sites, self.max_rank, step)

        for part in _over_batches(code, wanted, self.adapter.modules, self.device):
            coded |= part
            if progress is not None:
                progress("coding", len(coded) / len(wanted))
        return coded

    def squared_error(self, coded: Mapping[str, CodedModule], names: Sequence[str]) -> float:
        """|dW - dW'|^2 over `names`; modules that were not coded count whole."""
        return sum(
            coded[n].squared_error if n in coded else self.profiles[n].energy for n in names if n in self.profiles
        )

    def _fit(self, names: Sequence[str]) -> dict[str, Any]:
        return fit_modules(self.method, self.config, self.adapter.modules, names, self.device)


def fit_modules(
    method: Method,
    config: Any,
    modules: Mapping[str, LoraFactors],
    names: Sequence[str],
    device: torch.device,
) -> dict[str, Any]:
    """Fit some modules on a device."""
    return method.fit({name: _on(modules[name], device) for name in names}, config)


def fit_adapter(
    method: Method,
    config: Any,
    adapter: Adapter,
    device: torch.device,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> FittedAdapter:
    """Fit every module, keeping the fits of small adapters and summaries of all."""
    modules = adapter.modules
    sites = {name: Site(*module.shape, module.layout, module.kernel) for name, module in sorted(modules.items())}
    small = adapter.parameters <= _KEPT_NUMBERS
    found: dict[str, Profile] = {}
    kept: dict[str, Any] = {}

    def fit(batch: list[str]) -> tuple[dict[str, Profile], dict[str, Any]]:
        fits = fit_modules(method, config, modules, batch, device)
        return {name: method.profile(fitted) for name, fitted in fits.items()}, fits if small else {}

    for part, fits in _over_batches(fit, list(sites), modules, device):
        found |= part
        kept |= fits
        if progress is not None:
            progress("fitting", len(found) / len(sites))
    profiles = {name: profile for name, profile in found.items() if profile.energy > 0}
    max_rank = max((min(m.rank, *m.shape) for m in modules.values()), default=0)
    sample = list(profiles) if small else _sample(list(profiles), modules, seed)
    return FittedAdapter(method, config, adapter, device, sites, max_rank, profiles, kept, sample)


def _on(module: LoraFactors, device: torch.device) -> LoraFactors:
    """The factors alone, in float32 on a device."""
    return LoraFactors(
        module.A.to(device, torch.float32), module.B.to(device, torch.float32), module.scaling, module.layout
    )


def _over_batches(
    function: Callable[[list[str]], R],
    names: Sequence[str],
    modules: Mapping[str, LoraFactors],
    device: torch.device,
) -> Iterator[R]:
    """`function` of every batch of names, in order: side by side on a CPU, one after another on a GPU."""
    if device.type != "cpu":
        return map(function, _batches(names, modules, _BATCH_NUMBERS))
    numbers = sum(modules[name].parameters for name in names)
    size = min(_BATCH_NUMBERS // 2, numbers // (2 * torch.get_num_threads()) + 1)
    return parallel_map(function, _batches(names, modules, size))


def _batches(names: Sequence[str], modules: Mapping[str, LoraFactors], most: int) -> Iterator[list[str]]:
    """`names` in order, in batches of at most `most` numbers (a larger module is alone)."""
    batch: list[str] = []
    numbers = 0
    for name in names:
        size = modules[name].parameters
        if batch and numbers + size > most:
            yield batch
            batch, numbers = [], 0
        batch.append(name)
        numbers += size
    if batch:
        yield batch


def _sample(names: Sequence[str], modules: Mapping[str, LoraFactors], seed: int) -> list[str]:
    """A random choice of modules of about `_SAMPLE_NUMBERS` numbers."""
    shuffled = random.Random(seed).sample(names, len(names))
    mean = sum(modules[name].parameters for name in names) / len(names)
    return sorted(islice(shuffled, max(1, round(_SAMPLE_NUMBERS / mean))))
