"""What all methods have in common: the tensors that a file holds, and what is made of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any, ClassVar, Generic, Literal, Protocol, TypeAlias, TypeVar

from torch import Tensor

from adaptzip.core.compressed import Site, TensorSpec

BASIS_U = "basis.U"
BASIS_V = "basis.V"
"""Roles of a module's frozen basis, U (out, k) and V (in, k), among the tensors of a method that needs one. A frame has
the second, and on both sides the first as well."""
BASIS_MEAN = "basis.mean"
"""Role of the mean (k, k) in a module's basis, where that has one."""


class MethodConfig(Protocol):
    """A method's options: any frozen dataclass whose fields all have defaults that JSON can hold."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    def __init__(self, **options: Any) -> None: ...


ConfigT = TypeVar("ConfigT", bound=MethodConfig)


class Family(ABC, Generic[ConfigT]):
    """A family of parametrisations: what `Method`, `FunctionMethod` and `Trainable` have in common.

    Stateless; everything that a file needs is in its config, its tensors, `Site` and the basis.

    Wherever `tensors` or `done` are passed, they hold by role the shared tensors, the module's own, with `needs_basis`
    the module's `BASIS_U`, `BASIS_V` and, if it has one, `BASIS_MEAN`, and with `takes_frame` its `BASIS_V` if its
    `Site.frame` is not 0, and its `BASIS_U` if `frame_sides` is 2.
    """

    name: ClassVar[str]
    """What `--to` and a file call it; its entry point has the same name."""
    version: ClassVar[int]
    """Of what a file means, from 1: raised where old files would be read wrongly."""
    summary: ClassVar[str]
    """What it is, in one line of `adaptzip methods`."""
    paper: ClassVar[str]
    """Where it comes from."""
    config_type: type[ConfigT]
    """The class of its options."""
    roles: ClassVar[tuple[str, ...]]
    """Names of the tensors of a module, in the order in which they are coded."""
    shared_roles: ClassVar[tuple[str, ...]] = ()
    """Roles of the tensors that are stored once for the whole adapter."""
    needs_basis: ClassVar[bool] = False
    """Whether modules are put together from a frozen basis that lies elsewhere, or once in the file."""
    takes_frame: ClassVar[bool] = False
    """Whether it codes a module's in-vectors in a frame, known directions of inputs, where the module has one. A role
    that only such modules have is among `roles` all the same."""
    takes_bank: ClassVar[bool] = False
    """Whether its one shared tensor may lie outside the file, in a bank that many adapters refer to."""
    default_basis: ClassVar[Literal["", "base", "update"]] = ""
    """With `needs_basis`, the basis that is meant where none is given: the base weights', or the update's own."""

    same_anywhere: ClassVar[bool] = False
    """Whether `reconstruct` gives the same bits on every device: each operation is rounded by itself, and what is added
    up is exact in any order. Modules without shared tensors, basis and frame may then be decoded on a GPU."""

    @property
    def takes_basis(self) -> bool:
        """Whether a file of it may name a basis."""
        return self.needs_basis or self.takes_frame or self.takes_bank

    def max_rank(self, site: Site, config: ConfigT) -> int:
        """The largest rank a module of this shape may have in a file."""
        return min(site.out, site.width)

    def factor_rank(self, site: Site, rank: int, config: ConfigT) -> int:
        """The rank of the factors that `reconstruct` makes of a block of `rank`."""
        return rank

    def frame_sides(self, config: ConfigT) -> int:
        """Whose vectors are coded in frames, with `takes_frame`: 1, those of inputs; 2, those of outputs as well."""
        return 1

    def with_sides(self, config: ConfigT, sides: int) -> ConfigT:
        """The options for frames on so many sides, or those that are given, where they or the method allow no other."""
        return config

    @abstractmethod
    def layout(self, site: Site, rank: int, config: ConfigT) -> tuple[TensorSpec, ...]:
        """The tensors stored for a module of `rank`, in the order of `roles`."""

    def shared_layout(self, config: ConfigT) -> tuple[TensorSpec, ...]:
        """The tensors stored once, in the order of `shared_roles`."""
        return ()

    @abstractmethod
    def reconstruct(self, tensors: Mapping[str, Tensor], site: Site, config: ConfigT) -> tuple[Tensor, Tensor]:
        """Factors A (rank, in) and B (out, rank) with dW' = B @ A; differentiable in the real tensors."""

    def native(self, tensors: Mapping[str, Tensor], site: Site, config: ConfigT) -> Mapping[str, Tensor]:
        """What dialects that write the method's own tensors are given of a module: these, and what a seed decides."""
        return tensors


AnyFamily: TypeAlias = Family[Any]
"""A family whose types only it knows."""


def fault(family: AnyFamily) -> str | None:
    """What is wrong with what a family of another package, which no type checker saw, says of itself, or None."""
    version = getattr(family, "version", None)
    if not isinstance(version, int) or version < 1:
        return f"has the version {version!r}, expected a whole number from 1"
    for what in ("summary", "paper"):
        if not isinstance(getattr(family, what, None), str):
            return f"has no {what}, expected a line of text"
    for what in ("roles", "shared_roles"):
        roles = getattr(family, what, None)
        if not isinstance(roles, tuple) or not all(isinstance(role, str) for role in roles):
            return f"has the {what} {roles!r}, expected a tuple of names"
    return _fault_of_options(getattr(family, "config_type", None))


def _fault_of_options(config_type: object) -> str | None:
    if not isinstance(config_type, type) or not is_dataclass(config_type):
        return f"has the options {config_type!r}, expected a frozen dataclass"
    if not config_type.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        return f"has options {config_type.__name__} that are no frozen dataclass"
    bare = [f.name for f in fields(config_type) if f.default is MISSING and f.default_factory is MISSING]
    return f"has the option {bare[0]!r} without a default" if bare else None
