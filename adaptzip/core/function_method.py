"""What a method is that changes no weight: functions behind a model's layers, which only training makes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeAlias, TypeVar

from torch import Tensor

from adaptzip.core.compressed import Site
from adaptzip.core.family import MethodConfig
from adaptzip.core.trainable import Trainable
from adaptzip.errors import RefusedError

Function = Callable[[Tensor], Tensor]
"""What becomes of a layer's outputs (..., d)."""


class RankedConfig(MethodConfig, Protocol):
    """Options among which there is the rank of every function; None leaves it to the budget."""

    @property
    def rank(self) -> int | None: ...


RankedT = TypeVar("RankedT", bound=RankedConfig)


class FunctionMethod(Trainable[RankedT]):
    """A family that changes no weight: functions behind layers' outputs, which only training makes.

    It stands beside `Method`: there is nothing to fit, and nothing to merge. A site (d, d) is that of a layer whose
    outputs have the width d. `reconstruct` gives the two matrices of its function: A (b, d) takes an output to b
    numbers, B (d, b) takes what becomes of these back.
    """

    @abstractmethod
    def places(self, layers: Mapping[str, int], config: RankedT) -> dict[str, Site]:
        """The layers of a model that get a function, sorted by name, of all its layers and their outputs' widths.

        Raises:
            RefusedError: if there is none.
        """

    @abstractmethod
    def start(
        self, sites: Mapping[str, Site], ranks: Mapping[str, int], config: RankedT, seed: int
    ) -> dict[str, dict[str, Tensor]]:
        """The tensors that training begins with, by module and role: those of the identity, or near it."""

    @abstractmethod
    def apply(self, tensors: Mapping[str, Tensor], site: Site, config: RankedT) -> Function:
        """The function of outputs (..., d); differentiable in the real tensors."""

    def refusal(self) -> RefusedError:
        """Why it can't be made from an adapter alone."""
        return RefusedError(
            f"method {self.name!r} is not linear, so that no update can be turned into it: it has to be trained",
            hint=f"`adaptzip distill --teacher ADAPTER --base MODEL --data FILE --to {self.name} --budget SIZE`",
        )


AnyFunctionMethod: TypeAlias = FunctionMethod[Any]
"""A family of functions whose types only it knows."""
