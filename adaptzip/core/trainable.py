"""What training needs of a family beside its tensors: rates, ranks that grow, and whole numbers made soft."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor

from adaptzip.core.compressed import Site
from adaptzip.core.family import ConfigT, Family
from adaptzip.errors import UsageError


class Trainable(Family[ConfigT]):
    """A family whose tensors can be trained; every hook has a default, which does for real tensors.

    A method is made trainable by naming it as a second base: `class Svd(Method[...], Trainable[Config])`.
    """

    training_options: ClassVar[Mapping[str, object]] = MappingProxyType({})
    """Options that are set where training follows the fit, so that the fit need not be good yet."""

    training_rate: ClassVar[float] = 0.03
    """Learning rate of Adam, as a share of the root mean square that spreads the update's energy evenly over the
    trained numbers."""

    far_rate: ClassVar[float | None] = None
    """The learning rate where what training starts from is as far from the teacher as no adapter; between the two where
    it is nearer. None for one rate."""

    grows: ClassVar[bool] = False
    """Whether a module's tensors can be made one unit of rank larger while they are trained (`grown`)."""

    soft_roles: ClassVar[tuple[str, ...]] = ()
    """Roles of what `soften` makes; none where a method selects nothing."""

    soft_rate: ClassVar[float] = 0.01
    """Learning rate of Adam for the soft tensors."""

    def rests(self, config: ConfigT) -> tuple[str, ...]:
        """Roles of what lies outside a module's frame, which stay zero where training keeps to the frame."""
        return ()

    def relative_rate(self, role: str, site: Site) -> float:
        """The learning rate of a role of a module's tensors, relative to the method's."""
        return 1.0

    def grown(
        self, tensors: Mapping[str, Tensor], full: Mapping[str, Tensor], site: Site, rank: int, config: ConfigT
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

    def soften(self, tensors: Mapping[str, Tensor], site: Site, config: ConfigT) -> dict[str, Tensor]:
        """Real tensors, by role of `soft_roles`, that stand for a module's whole numbers while these are trained."""
        return {}

    def relaxed(self, soft: Mapping[str, Tensor], site: Site, config: ConfigT) -> dict[str, Tensor]:
        """What `reconstruct` is given of roles of whole numbers meanwhile, differentiable in the soft tensors."""
        return {}

    def harden(self, soft: Mapping[str, Tensor], site: Site, config: ConfigT) -> dict[str, Tensor]:
        """The tensors of whole numbers that soft ones come to, as they decode; `harden(soften(tensors))` is `tensors`
        but for the order of equal shares."""
        return {}


AnyTrainable: TypeAlias = Trainable[Any]
"""A family that can be trained, whose types only it knows."""
