"""An adapter in a method's coordinates, ready to be coded at any step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from adaptzip.adz.coding.coders import Coder
from adaptzip.adz.coding.grouping import MOST_BYTES
from adaptzip.adz.coding.modules import CodedBlock, CodedModule, code_modules, code_shared
from adaptzip.core.adapter import Adapter
from adaptzip.core.batching import over_batches
from adaptzip.core.compressed import Site
from adaptzip.core.family import MethodConfig
from adaptzip.core.foresight import Foresight, Ranks
from adaptzip.core.method import AnyMethod, FitContext, Profile
from adaptzip.core.progress import Progress
from adaptzip.core.workers import on_one_core
from adaptzip.errors import UsageError
from adaptzip.fitting.surveys import on_device

SAMPLE_NUMBERS = 4_000_000
"""Larger adapters are measured on this many numbers while the step is searched."""
_FEWER = 4
"""How many times as few where little work may be spent."""


@dataclass(frozen=True, eq=False)
class CodedAdapter:
    """Modules and shared tensors coded at one step; modules of rank 0 are not among them."""

    shared: CodedBlock
    modules: Mapping[str, CodedModule]

    @property
    def bytes(self) -> int:
        """Size of all blocks."""
        return len(self.shared.chunk) + sum(len(module.chunk) for module in self.modules.values())

    @property
    def numbers(self) -> int:
        """Stored numbers."""
        return self.shared.numbers + sum(module.numbers for module in self.modules.values())


NOTHING_CODED = CodedAdapter(CodedBlock(b"", {}, 0), {})


@dataclass(frozen=True, eq=False)
class FittedAdapter:
    """An adapter's modules under one method.

    Attributes:
        coder: the method with its settled config, and the shapes of all modules.
        prepared: the method's state that spans modules.
        context: what the fit may use.
        gains: gain index of every module (`adaptzip.core.gains`); empty where all are 1.
        profiles: summary of every module that is not zero.
        kept: fits of all these modules where they are few enough to keep, else empty.
        sample: modules that stand for all while the step is searched; for most efforts all of them where `kept`.
    """

    coder: Coder[AnyMethod]
    prepared: object
    context: FitContext
    adapter: Adapter
    gains: Mapping[str, int]
    profiles: Mapping[str, Profile]
    kept: Mapping[str, object]
    sample: Sequence[str]

    @property
    def method(self) -> AnyMethod:
        return self.coder.method

    @property
    def config(self) -> MethodConfig:
        """The method's config, settled."""
        return self.coder.config

    @property
    def sites(self) -> Mapping[str, Site]:
        return self.coder.sites

    @property
    def max_rank(self) -> int:
        return self.coder.max_rank

    @property
    def fixed_ranks(self) -> bool:
        """Whether ranks follow from the config and the fit alone; those of a bank that is given may follow the step."""
        return self.method.fixed_ranks and self.context.bank is None

    @property
    def complete(self) -> bool:
        """Whether the sample is the whole adapter."""
        return len(self.sample) == len(self.profiles)

    def few(self, names: Iterable[str]) -> bool:
        """Whether these modules are no more than a sample, so that all of them may be coded at every step."""
        return sum(self.adapter.modules[name].parameters for name in names) <= self.sample_numbers

    @property
    def sample_numbers(self) -> int:
        """Numbers of a sample."""
        return SAMPLE_NUMBERS // (_FEWER if self.context.effort == "fast" else 1)

    @property
    def shared_numbers(self) -> int:
        """Numbers that are stored besides the modules' own: what they share, and an embedded basis."""
        own = 0 if self.coder.given else sum(spec.numbers for spec in self.method.shared_layout(self.config))
        return self.basis_numbers + own

    @property
    def basis_numbers(self) -> int:
        """Numbers of an embedded basis."""
        basis = self.coder.basis
        if basis is None or basis.reference.source != "embedded":
            return 0
        return sum(module.U.numel() + module.V.numel() for module in basis.modules.values())

    def numbers(self, name: str, rank: int) -> int:
        """Numbers stored for a module of `rank`."""
        if not rank:
            return 0
        return sum(spec.numbers for spec in self.method.layout(self.sites[name], rank, self.config))

    @cached_property
    def energies(self) -> Mapping[str, float]:
        """|dW|^2 of each module, weighted where there are sensitivities."""
        return {name: profile.energy for name, profile in self.profiles.items()}

    @cached_property
    def energy(self) -> float:
        """|dW|^2 over all modules."""
        return sum(self.energies.values())

    def ranks(self, step: float, caps: Mapping[str, int] | None = None) -> dict[str, int]:
        """The rank of each module at `step`, at most its cap; modules of rank 0 are left out."""
        found = self._capped(step, caps)
        names = list(self.profiles)
        return {names[row]: int(found[row]) for row in found.nonzero()[0].tolist()}

    def predict(self, step: float, ranks: Mapping[str, int], names: Sequence[str] | None = None) -> tuple[float, float]:
        """Expected (coded bytes, squared error), by the method's own model.

        All modules and what they share; with `names`, these modules alone.
        """
        asked = np.array([ranks.get(name, 0) for name in (self.profiles if names is None else names)], np.int64)
        if names is None:
            return self._expected(step, asked)
        bits, error = self._foresight.predict(step, asked, np.array([self._rows[name] for name in names], np.int64))
        return float(bits.sum()) / 8, float(error.sum())

    def foresee(self, step: float, caps: Mapping[str, int] | None = None) -> tuple[float, float, int]:
        """`predict` at the ranks of a step, and how many modules have one; searches ask it often."""
        found = self._capped(step, caps)
        return *self._expected(step, found), int(np.count_nonzero(found))

    def _capped(self, step: float, caps: Mapping[str, int] | None) -> Ranks:
        found = self._checked(self._foresight.ranks(step), step)
        if caps is None:
            return found
        return np.minimum(found, np.array([caps.get(name, 0) for name in self.profiles], np.int64))

    def _expected(self, step: float, ranks: Ranks) -> tuple[float, float]:
        """Coded bytes and squared error of all modules, what they share included."""
        each = self._foresight.predict(step, ranks)
        bits, error = (float(values.sum()) for values in each)
        if ranks.any():
            bits += self.method.predict_shared(self.prepared, self.config, step)
        return bits / 8, error

    def frame_gains(self, step: float, ranks: Mapping[str, int] | None = None) -> dict[str, float]:
        """Bytes that each module is expected to take less in its frame, at what its error is worth.

        Args:
            ranks: the largest rank of each module; modules that it does not name are left out.
        """
        most = None if ranks is None else np.array([ranks.get(name, 0) for name in self.profiles], np.int64)
        return dict(zip(self.profiles, (self._foresight.frame_gains(step, most) / 8).tolist(), strict=True))

    def fits(self, names: Sequence[str]) -> Iterator[tuple[str, object]]:
        """The fits of these modules, made again where they are too many to keep."""
        if self.kept:
            yield from ((name, self.kept[name]) for name in names)
            return
        for part in over_batches(self.fit_of, names, self.adapter.modules, self.context.device):
            yield from part.items()

    @on_one_core()
    def code(
        self, step: float, ranks: Mapping[str, int], names: Sequence[str], progress: Progress | None = None
    ) -> CodedAdapter:
        """Code what modules share, and those of `names` that have a rank."""
        wanted = [name for name in names if name in ranks]
        if not wanted:
            return NOTHING_CODED
        shared = code_shared(self.coder, self.prepared, step)
        coded: dict[str, CodedModule] = {}
        size = 0

        def code(batch: list[str]) -> dict[str, CodedModule]:
            fits = {n: self.kept[n] for n in batch} if self.kept else self.fit_of(batch)
            return code_modules(self.coder, shared, fits, ranks, step)

        for part in over_batches(code, wanted, self.adapter.modules, self.context.device):
            size += sum(len(module.chunk) for module in part.values())
            # What is too large for a group does not keep its numbers.
            coded |= part if size <= MOST_BYTES else {name: replace(m, blocks=None) for name, m in part.items()}
            if progress is not None:
                progress("coding", len(coded), len(wanted))
        return CodedAdapter(shared, coded)

    def squared_error(self, coded: CodedAdapter, names: Sequence[str]) -> float:
        """|dW - dW'|^2 over `names`; modules that were not coded count whole."""
        modules = coded.modules
        return sum(modules[n].squared_error if n in modules else self.energies[n] for n in names if n in self.energies)

    @cached_property
    def _foresight(self) -> Foresight:
        return self.method.foresight(list(self.profiles.values()))

    @cached_property
    def _rows(self) -> dict[str, int]:
        """Places of the modules among the profiles."""
        return {name: row for row, name in enumerate(self.profiles)}

    def _checked(self, ranks: Ranks, step: float) -> Ranks:
        wrong = None
        if ranks.dtype != np.int64:
            wrong = next((rank for rank in ranks.tolist() if not isinstance(rank, int)), None)
        elif len(ranks) and not (ranks.min() >= 0 and ranks.max() <= self.max_rank):
            wrong = next(rank for rank in ranks.tolist() if not 0 <= rank <= self.max_rank)
        if wrong is not None:
            raise UsageError(
                f"method {self.method.name!r}: rank is {wrong!r} at a step of {step:.3g}, expected a whole number up "
                f"to {self.max_rank}",
                hint="mend the method: no rank is above the number of its scores",
            )
        return ranks

    def fit_of(self, names: Sequence[str]) -> dict[str, object]:
        """The fits of these modules, made anew."""
        modules = {
            name: on_device(self.adapter.modules[name], self.context.device, self.gains.get(name, 0)) for name in names
        }
        fits = self.method.fit(modules, self.config, self.prepared, self.context)
        if not isinstance(fits, Mapping) or fits.keys() != modules.keys():
            raise UsageError(
                f"method {self.method.name!r}: fit has no result for every module that it was given, and no other",
                hint="mend the method",
            )
        return fits
