"""What a method is: a family of parametrisations of low-rank updates, in coordinates that one step can quantise."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar, Generic, Protocol, TypeAlias, TypeVar, cast

import torch
from torch import Tensor

from adaptzip.core.adapter import LoraFactors
from adaptzip.core.bank import Bank
from adaptzip.core.basis import Basis
from adaptzip.core.compressed import Site
from adaptzip.core.effort import Effort
from adaptzip.core.family import ConfigT, Family
from adaptzip.core.foresight import Foresight, OneByOne
from adaptzip.core.sensitivity import Sensitivity
from adaptzip.core.survey import Allowance, Candidate, Survey


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


@dataclass(frozen=True)
class FrameShape:
    """How much of a module's known directions is used.

    Attributes:
        sides: as `Family.frame_sides` has them.
        size: directions, the same on each side.
    """

    sides: int
    size: int


FitT = TypeVar("FitT")
ProfileT = TypeVar("ProfileT", bound=Profile)
StateT = TypeVar("StateT")


@dataclass(frozen=True, eq=False)
class FitContext:
    """What a fit may use besides the modules.

    Attributes:
        device: where to compute.
        seed: of every random choice.
        basis: the frozen basis, for methods with `needs_basis`; the frames of some modules, for those with
            `takes_frame`; the bank, where it stays outside the file.
        bank: what a method with `takes_bank` codes with, wherever it will lie; None for one of its own.
        sensitivities: by module; empty where there is no calibration.
        ranks: the largest rank of each module, where an allocation was made; None leaves it to the method.
        sites: every module of the adapter as `reconstruct` will be given it, zero updates included.
        progress: called with the share of `prepare` that is done.
        effort: how much work may be spent on a smaller result.

    Example:
        >>> context = adaptzip.FitContext(seed=3)
        >>> context.device, context.basis, len(context.sensitivities)
        (device(type='cpu'), None, 0)
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    seed: int = 0
    basis: Basis | None = None
    bank: Bank | None = None
    sensitivities: Mapping[str, Sensitivity] = field(default_factory=lambda: MappingProxyType({}))
    ranks: Mapping[str, int] | None = None
    sites: Mapping[str, Site] = field(default_factory=lambda: MappingProxyType({}))
    progress: Callable[[float], None] | None = None
    effort: Effort = "default"


class Method(Family[ConfigT], Generic[ConfigT, FitT, ProfileT, StateT]):
    """A family that stands for updates of weights, and that any adapter's updates can be fitted to.

    Its types are those of its options, of one fitted module, of what is kept of a module (`Profile`), and of what
    `prepare` hands to `fit`; the last is None for a method that looks at each module alone:
    `class Svd(Method[Config, SvdFit, SvdProfile, None])`. A method that can also be trained is a `Trainable` as well.

    The real tensors of a method are in coordinates where a squared error in a tensor is, up to one factor for all, a
    squared error in the update. They are quantised one role after another, shared tensors first, and each later
    role is fitted again to what the earlier ones became (`target`).

    Its name, roles, `layout`, `reconstruct` and whatever else a file is told by are those of a `Family`
    (`adaptzip.core.family`).
    """

    gained: ClassVar[bool] = True
    """Whether `fit` is given modules multiplied by the gain of their sensitivity (undone after `reconstruct`). A method
    whose coordinates are tied across modules can't have that, and weighs errors by the context's sensitivities."""
    fixed_ranks: ClassVar[bool] = False
    """Whether ranks follow from the config and the fit alone, so that only `candidates` can meet a parameter budget;
    with a bank that is given (`FitContext.bank`) they may follow the step all the same."""
    spans_modules: ClassVar[bool] = False
    """Whether it looks at the whole adapter before it fits any module: without, neither `candidates` nor `prepare` is
    asked, and a method that overrides one of them has to say so."""

    fits_little: ClassVar[bool] = False
    """Whether a fit keeps next to nothing of an update, so that only training makes its files act like it: no choice
    between methods falls on it, and training begins with all that the settings hold."""

    degree: ClassVar[int | None] = None
    """The power of the step that a decoded update grows with, levels as they are: 1 for a product in which one tensor
    is quantised and the others are directions or frozen, 2 where two are. Files of a budget are then made larger by
    what a fit at a large error shrinks them; None leaves them as they are."""

    def candidates(self, survey: Survey, config: ConfigT, allowance: Allowance) -> Sequence[Candidate[ConfigT]]:
        """Settings worth fitting, best first, with what `config` leaves open decided.

        Raises:
            CheckFailedError: if nothing fits the allowance; of bytes, `Allowance` says what is proposed then.
        """
        return (Candidate(config),)

    def prepare(
        self, modules: Mapping[str, LoraFactors], config: ConfigT, context: FitContext
    ) -> tuple[ConfigT, StateT]:
        """Fit what spans modules. Returns the settled config and a state for `fit` and `shared_target`.

        `modules` are all modules that are not zero, in the dtype and on the device they were read in.

        Raises:
            RefusedError, CheckFailedError: if the method can't represent the adapter.
        """
        # A method that leaves this as it is has None for its state.
        return config, cast("StateT", None)

    @abstractmethod
    def fit(
        self, modules: Mapping[str, LoraFactors], config: ConfigT, prepared: StateT, context: FitContext
    ) -> dict[str, FitT]:
        """Some modules' updates in the method's coordinates, before quantisation; modules are float32 on the device."""

    @abstractmethod
    def profile(self, fitted: FitT) -> ProfileT:
        """The summary of a fitted module that `rank` and `predict` work on."""

    @abstractmethod
    def rank(self, profile: ProfileT, step: float) -> int:
        """The rank worth coding at a quantiser step."""

    @abstractmethod
    def predict(self, profile: ProfileT, rank: int, step: float) -> tuple[float, float]:
        """Expected (bits, squared error) of a module coded at `rank` and `step`."""

    def foresight(self, profiles: Sequence[ProfileT]) -> Foresight:
        """`rank` and `predict` of many modules, which are asked hundreds of times; here one after another."""
        return OneByOne(self, profiles)

    def frame_gain(self, profile: ProfileT, step: float, most: int | None = None) -> float:
        """Expected bits that a module's frame saves at a step and a rank of `most`, errors counted; 0 without one."""
        return 0.0

    def narrower(self, profile: ProfileT, size: int) -> Mapping[FrameShape, ProfileT]:
        """The summaries of a module in its frame of `size` directions, and in the first of them or on fewer sides."""
        return {FrameShape(1, size): profile}

    def kept_in_frame(self, profile: ProfileT) -> list[float]:
        """Energy of each component without what lies outside a module's frame, if there is one; [] by methods that
        take none."""
        return []

    def shared_target(self, prepared: StateT, role: str, done: Mapping[str, Tensor]) -> Tensor:
        """What to quantise for a shared role, (rows, width), given the shared tensors before it."""
        raise NotImplementedError(f"method {self.name!r} shares no tensors")

    def predict_shared(self, prepared: StateT, config: ConfigT, step: float) -> float:
        """Expected bits of the shared tensors at a step."""
        return 0.0

    @abstractmethod
    def target(self, fitted: FitT, role: str, rank: int, done: Mapping[str, Tensor]) -> Tensor:
        """What to code for `role`, (rows, width), given the tensors of the roles before it.

        Whole numbers in range for kinds `index` and `simplex`, else the numbers to quantise.
        """

    @abstractmethod
    def squared_error(self, fitted: FitT, tensors: Mapping[str, Tensor]) -> float:
        """|dW - dW'|^2 of the module for coded tensors, weighted where there are sensitivities."""

    def targets(self, asked: Sequence[tuple[FitT, str, int, Mapping[str, Tensor]]]) -> list[Tensor]:
        """`target` of many modules, each with its fit, role, rank and tensors; here one after another."""
        return [self.target(*one) for one in asked]

    def squared_errors(self, coded: Sequence[tuple[FitT, Mapping[str, Tensor]]]) -> list[float]:
        """`squared_error` of many modules, each with its fit and tensors; here one after another."""
        return [self.squared_error(*one) for one in coded]


AnyMethod: TypeAlias = Method[Any, Any, Any, Any]
"""A method whose types only it knows."""
