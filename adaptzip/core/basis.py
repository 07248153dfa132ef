"""A frozen basis: orthonormal directions of each module's outputs and inputs, between which a core is stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch
    from torch import Tensor

BasisSource = Literal["base", "file", "embedded"]


@dataclass(frozen=True)
class BasisReference:
    """Where a compressed adapter's basis is found.

    Attributes:
        source: "base": recomputed from the base model's weights; "file": an artefact; "embedded": in the file itself.
        size: most directions a module has on either side.
        hash: digest of the base tensors, or of the artefact's content; "" where embedded.
        description: what made it, such as the base model's name or the adapters' count, for messages.
    """

    source: BasisSource
    size: int
    hash: str = ""
    description: str = ""


@dataclass(frozen=True, eq=False)
class ModuleBasis:
    """One module's directions: U (out, k) and V (in, k), float32, the most important first.

    Columns are orthonormal to the rounding of the dtype they were stored in. A side that has fewer directions than
    the other, or than can be told apart from rounding, ends in zero columns.
    """

    U: Tensor
    V: Tensor

    @property
    def size(self) -> int:
        """k, the number of directions on either side."""
        return self.U.shape[1]


@dataclass(frozen=True, eq=False)
class Basis:
    """A basis for many modules.

    Attributes:
        modules: by module name.
        reference: what a file says of it.
    """

    modules: Mapping[str, ModuleBasis]
    reference: BasisReference

    def to(self, device: torch.device) -> Basis:
        """The same on a device."""
        modules = {name: ModuleBasis(m.U.to(device), m.V.to(device)) for name, m in self.modules.items()}
        return replace(self, modules=modules)
