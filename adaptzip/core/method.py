"""What a method is: a family of parametrisations of low-rank updates, in coordinates that one step can quantise."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor

from adaptzip.core.adapter import LoraFactors
from adaptzip.core.basis import Basis
from adaptzip.core.compressed import Site, TensorSpec
from adaptzip.core.sensitivity import Sensitivity
from adaptzip.core.survey import Allowance, Candidate, Survey
from adaptzip.errors import RefusedError, UsageError

Function = Callable[[Tensor], Tensor]
"""What becomes of a layer's outputs (..., d)."""

BASIS_U = "basis.U"
BASIS_V = "basis.V"
"""Roles of a module's frozen basis, U (out, k) and V (in, k), among the tensors of a method that needs one."""


class Profile(Protocol):
    """What is kept of every module at once: enough to predict sizes and errors, and small."""

    @property
    def energy(self) -> float:
        """|dW|^2, weighted where there are sensitivities."""
        ...

    @property
    def scores(self) -> Sequence[float]:
        """Squared error saved per stored number by each unit of rank, falling; as many as the rank may be large."""
        ...


@dataclass(frozen=True, eq=False)
class FitContext:
    """What a fit may use besides the modules.

    Attributes:
        device: where to compute.
        seed: of every random choice.
        basis: the frozen basis, for methods with `needs_basis`.
        sensitivities: by module; empty where there is no calibration.
        ranks: the largest rank of each module, where an allocation was made; None leaves it to the method.
        progress: called with the share of `prepare` that is done.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    seed: int = 0
    basis: Basis | None = None
    sensitivities: Mapping[str, Sensitivity] = field(default_factory=lambda: MappingProxyType({}))
    ranks: Mapping[str, int] | None = None
    progress: Callable[[float], None] | None = None


class Method(ABC):
    """One family. Stateless; everything that a file needs is in its config, its tensors, `Site` and the basis.

    The real tensors of a method are in coordinates where a squared error in a tensor is, up to one factor for all, a
    squared error in the update. They are quantised one role after another, shared tensors first, and each later
    role is fitted again to what the earlier ones became (`target`).

    Wherever `tensors` or `done` are passed, they hold by role the shared tensors, the module's own, and with
    `needs_basis` the module's `BASIS_U` and `BASIS_V`.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    summary: ClassVar[str]
    paper: ClassVar[str]
    config_type: ClassVar[type[Any]]
    roles: ClassVar[tuple[str, ...]]
    shared_roles: ClassVar[tuple[str, ...]] = ()
    """Roles of the tensors that are stored once for the whole adapter."""
    needs_basis: ClassVar[bool] = False
    gained: ClassVar[bool] = True
    """Whether `fit` is given modules multiplied by the gain of their sensitivity (undone after `reconstruct`). A method
    whose coordinates are tied across modules can't have that, and weighs errors by the context's sensitivities."""
    linear: ClassVar[bool] = True
    """Whether it stands for updates of weights. What does not is a `FunctionMethod`: trained, and never merged."""
    fixed_ranks: ClassVar[bool] = False
    """Whether ranks follow from the config and the fit alone, so that only `candidates` can meet a parameter budget."""

    training_options: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    """Options that are set where training follows the fit, so that the fit need not be good yet."""

    training_rate: ClassVar[float] = 0.03
    """Learning rate of Adam, as a share of the root mean square that spreads the update's energy evenly over the
    trained numbers."""

    grows: ClassVar[bool] = False
    """Whether a module's tensors can be made one unit of rank larger while they are trained (`grown`)."""

    soft_roles: ClassVar[tuple[str, ...]] = ()
    """Roles of what `soften` makes; none where a method selects nothing."""

    soft_rate: ClassVar[float] = 0.01
    """Learning rate of Adam for the soft tensors."""

    default_basis: ClassVar[Literal["", "base", "update"]] = ""
    """With `needs_basis`, the basis that is meant where none is given: the base weights', or the update's own."""

    @property
    def spans_modules(self) -> bool:
        """Whether the method looks at the whole adapter before it fits any module."""
        own = type(self)
        return own.candidates is not Method.candidates or own.prepare is not Method.prepare

    def candidates(self, survey: Survey, config: Any, allowance: Allowance) -> Sequence[Candidate]:
        """Settings worth fitting, best first, with what `config` leaves open decided.

        Raises:
            CheckFailedError: if nothing fits the allowance; of bytes, `Allowance` says what is proposed then.
        """
        return (Candidate(config),)

    def prepare(self, modules: Mapping[str, LoraFactors], config: Any, context: FitContext) -> tuple[Any, Any]:
        """Fit what spans modules. Returns the settled config and a state for `fit` and `shared_target`.

        `modules` are all modules that are not zero, in the dtype and on the device they were read in.

        Raises:
            RefusedError, CheckFailedError: if the method can't represent the adapter.
        """
        return config, None

    @abstractmethod
    def fit(
        self, modules: Mapping[str, LoraFactors], config: Any, prepared: Any, context: FitContext
    ) -> dict[str, Any]:
        """Some modules' updates in the method's coordinates, before quantisation; modules are float32 on the device."""

    @abstractmethod
    def profile(self, fitted: Any) -> Profile:
        """The summary of a fitted module that `rank` and `predict` work on."""

    @abstractmethod
    def rank(self, profile: Any, step: float) -> int:
        """The rank worth coding at a quantiser step."""

    @abstractmethod
    def predict(self, profile: Any, rank: int, step: float) -> tuple[float, float]:
        """Expected (bits, squared error) of a module coded at `rank` and `step`."""

    def max_rank(self, site: Site, config: Any) -> int:
        """The largest rank a module of this shape may have in a file."""
        return min(site.out, site.width)

    def factor_rank(self, site: Site, rank: int, config: Any) -> int:
        """The rank of the factors that `reconstruct` makes of a block of `rank`."""
        return rank

    @abstractmethod
    def layout(self, site: Site, rank: int, config: Any) -> tuple[TensorSpec, ...]:
        """The tensors stored for a module of `rank`, in the order of `roles`."""

    def shared_layout(self, config: Any) -> tuple[TensorSpec, ...]:
        """The tensors stored once, in the order of `shared_roles`."""
        return ()

    def shared_target(self, prepared: Any, role: str, done: Mapping[str, Tensor]) -> Tensor:
        """What to quantise for a shared role, (rows, width), given the shared tensors before it."""
        raise NotImplementedError(f"method {self.name!r} shares no tensors")

    def predict_shared(self, prepared: Any, config: Any, step: float) -> float:
        """Expected bits of the shared tensors at a step."""
        return 0.0

    @abstractmethod
    def target(self, fitted: Any, role: str, rank: int, done: Mapping[str, Tensor]) -> Tensor:
        """What to code for `role`, (rows, width), given the tensors of the roles before it.

        Whole numbers in range for kinds `index` and `simplex`, else the numbers to quantise.
        """

    @abstractmethod
    def squared_error(self, fitted: Any, tensors: Mapping[str, Tensor]) -> float:
        """|dW - dW'|^2 of the module for coded tensors, weighted where there are sensitivities."""

    @abstractmethod
    def reconstruct(self, tensors: Mapping[str, Tensor], site: Site, config: Any) -> tuple[Tensor, Tensor]:
        """Factors A (rank, in) and B (out, rank) with dW' = B @ A; differentiable in the real tensors."""

    def grown(
        self, tensors: Mapping[str, Tensor], full: Mapping[str, Tensor], site: Site, rank: int, config: Any
    ) -> dict[str, Tensor]:
        """A module's tensors of `rank` with one unit more, which leaves the update as it is.

        Here for methods whose tensors of a rank begin with those of the rank before, number by number: what is added
        is zero, but for directions, which are taken from `full`, the same module's tensors at a larger rank.

        Raises:
            UsageError: if the method can't.
        """
        if not self.grows:
            raise UsageError(f"the ranks of method {self.name!r} can't grow while it is trained")
        found = {}
        for spec in self.layout(site, rank + 1, config):
            like = full[spec.role].flatten()[: spec.numbers]
            new = like.clone() if spec.directions else torch.zeros_like(like)
            if spec.role in tensors:
                new[: tensors[spec.role].numel()] = tensors[spec.role].flatten()
            found[spec.role] = new.reshape(spec.rows, spec.width)
        return found

    def soften(self, tensors: Mapping[str, Tensor], site: Site, config: Any) -> dict[str, Tensor]:
        """Real tensors, by role of `soft_roles`, that stand for a module's whole numbers while these are trained."""
        return {}

    def relaxed(self, soft: Mapping[str, Tensor], site: Site, config: Any) -> dict[str, Tensor]:
        """What `reconstruct` is given of roles of whole numbers meanwhile, differentiable in the soft tensors."""
        return {}

    def harden(self, soft: Mapping[str, Tensor], site: Site, config: Any) -> dict[str, Tensor]:
        """The tensors of whole numbers that soft ones come to, as they decode; `harden(soften(tensors))` is `tensors`
        but for the order of equal shares."""
        return {}


class FunctionMethod(Method):
    """A family that changes no weight: functions behind layers' outputs, which only training makes.

    A site (d, d) is that of a layer whose outputs have the width d. `reconstruct` gives the two matrices of its
    function: A (b, d) takes an output to b numbers, B (d, b) takes what becomes of these back.
    """

    linear = False

    @abstractmethod
    def places(self, layers: Mapping[str, int], config: Any) -> dict[str, Site]:
        """The layers of a model that get a function, sorted by name, of all its layers and their outputs' widths.

        Raises:
            RefusedError: if there is none.
        """

    @abstractmethod
    def start(
        self, sites: Mapping[str, Site], ranks: Mapping[str, int], config: Any, seed: int
    ) -> dict[str, dict[str, Tensor]]:
        """The tensors that training begins with, by module and role: those of the identity, or near it."""

    @abstractmethod
    def apply(self, tensors: Mapping[str, Tensor], site: Site, config: Any) -> Callable[[Tensor], Tensor]:
        """The function of outputs (..., d); differentiable in the real tensors."""

    def refusal(self) -> RefusedError:
        """Why it can't be made from an adapter alone."""
        return RefusedError(
            f"method {self.name!r} is not linear, so that no update can be turned into it: it has to be trained",
            hint=f"adaptzip distill --teacher ADAPTER --base MODEL --data FILE --to {self.name} --budget SIZE",
        )

    def fit(
        self, modules: Mapping[str, LoraFactors], config: Any, prepared: Any, context: FitContext
    ) -> dict[str, Any]:
        raise self.refusal()

    def profile(self, fitted: Any) -> Profile:
        raise self.refusal()

    def rank(self, profile: Any, step: float) -> int:
        raise self.refusal()

    def predict(self, profile: Any, rank: int, step: float) -> tuple[float, float]:
        raise self.refusal()

    def target(self, fitted: Any, role: str, rank: int, done: Mapping[str, Tensor]) -> Tensor:
        raise self.refusal()

    def squared_error(self, fitted: Any, tensors: Mapping[str, Tensor]) -> float:
        raise self.refusal()
