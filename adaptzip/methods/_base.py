"""What a method is: a family of parametrisations of low-rank updates, in coordinates that one step can quantise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol

from torch import Tensor

from adaptzip.adapter import LoraFactors
from adaptzip.compressed import Site, TensorSpec


class Profile(Protocol):
    """What is kept of every module at once: enough to predict sizes and errors, and small."""

    @property
    def energy(self) -> float:
        """|dW|^2."""
        ...

    @property
    def scores(self) -> Sequence[float]:
        """Squared error saved per stored number by each unit of rank, falling."""
        ...


class Method(Protocol):
    """One family. Stateless; everything that a file needs is in its config, its tensors and `Site`.

    The tensors of a method are in coordinates where a squared error in a tensor is, up to the tensor's sensitivity,
    a squared error in the update. They are quantised one role after another, and each later role is fitted again to
    what the earlier ones became (`target`).
    """

    name: ClassVar[str]
    version: ClassVar[int]
    summary: ClassVar[str]
    paper: ClassVar[str]
    config_type: ClassVar[type[Any]]
    roles: ClassVar[tuple[str, ...]]

    def layout(self, site: Site, rank: int) -> tuple[TensorSpec, ...]:
        """The tensors stored for a module of `rank`, in the order of `roles`."""
        ...

    def fit(self, modules: Mapping[str, LoraFactors], config: Any) -> dict[str, Any]:
        """The update of each module in the method's coordinates, before quantisation."""
        ...

    def profile(self, fitted: Any) -> Profile:
        """The summary of a fitted module that `rank` and `predict` work on."""
        ...

    def rank(self, profile: Any, step: float) -> int:
        """The rank worth coding at a quantiser step."""
        ...

    def predict(self, profile: Any, rank: int, step: float) -> tuple[float, float]:
        """Expected (bits, squared error) of a module coded at `rank` and `step`."""
        ...

    def target(self, fitted: Any, role: str, rank: int, done: Mapping[str, Tensor]) -> Tensor:
        """What to quantise for `role`, (rows, width), given the quantised tensors of the roles before it."""
        ...

    def squared_error(self, fitted: Any, tensors: Mapping[str, Tensor]) -> float:
        """|dW - dW'|^2 of the module for quantised tensors."""
        ...

    def reconstruct(self, tensors: Mapping[str, Tensor], site: Site) -> tuple[Tensor, Tensor]:
        """Factors A (rank, in) and B (out, rank) with dW' = B @ A; differentiable in the tensors."""
        ...
