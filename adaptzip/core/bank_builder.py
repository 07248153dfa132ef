"""What a method adds whose shared tensor may be a bank that many adapters refer to: how such a bank is fitted."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import Tensor

from adaptzip.core.adapter import LoraFactors
from adaptzip.core.bank import BankShape
from adaptzip.core.family import ConfigT, Family
from adaptzip.core.method import FitContext

Fleet: TypeAlias = Callable[[], Iterator[Mapping[str, LoraFactors]]]
"""What goes over the modules of many adapters, one adapter at a time and always in the same order."""


@dataclass(frozen=True, eq=False)
class FittedBank:
    """A bank before it is coded.

    Attributes:
        vectors: (h, length), float32; the last is zero.
        shape: how adapters are coded with it.
        step: the quantiser step at which its error hardly counts.
        adapters: how many it was fitted to.
    """

    vectors: Tensor
    shape: BankShape
    step: float
    adapters: int


class BankBuilder(Family[ConfigT]):
    """A family that can be coded with a bank of many adapters (`FitContext.bank`), and fits one."""

    takes_bank = True

    @abstractmethod
    def build_bank(self, fleet: Fleet, config: ConfigT, context: FitContext) -> FittedBank:
        """Fit a bank to many adapters; what `config` leaves open is chosen by a sample of them.

        Raises:
            RefusedError: if every update is zero.
            UsageError, CheckFailedError: if no bank of these settings can be.
        """

    @abstractmethod
    def with_bank(self, config: ConfigT, shape: BankShape) -> ConfigT:
        """The configuration with what a bank settles.

        Raises:
            UsageError: if it asks for another bank.
        """


AnyBankBuilder: TypeAlias = BankBuilder[Any]
"""A family with banks, whose types only it knows."""
