"""What is known of an adapter before any method is fitted: shapes and spectra, and what may be spent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeAlias

import numpy as np
from numpy.typing import NDArray

from adaptzip.core.compressed import Site
from adaptzip.core.family import ConfigT, MethodConfig


@dataclass(frozen=True, eq=False)
class Survey:
    """An adapter in outline.

    Attributes:
        sites: every module's shape.
        singular: singular values of every update, float64 and falling; empty where the update is zero.
    """

    sites: Mapping[str, Site]
    singular: Mapping[str, NDArray[np.float64]]

    @property
    def energy(self) -> float:
        """|dW|^2 over all modules."""
        return float(sum(np.square(values).sum() for values in self.singular.values()))


@dataclass(frozen=True)
class Allowance:
    """What coded modules and shared tensors may cost together; None is no limit.

    Attributes:
        parameters: stored numbers.
        bytes: coded bytes; what the file takes besides, such as header and extras, is off already. Where nothing is
            expected to fit, a method proposes its smallest setting: its size is certain once it is fitted.
        error: relative error |dW - dW'| / |dW|.
    """

    parameters: int | None = None
    bytes: int | None = None
    error: float | None = None


@dataclass(frozen=True)
class Candidate(Generic[ConfigT]):
    """One setting of a method, and what it is expected to give.

    Attributes:
        config: the method's configuration, nothing left open.
        bytes: expected coded bytes, or None where the method can't tell before it is fitted.
        parameters: stored numbers, or None likewise.
        error: expected relative error, or None likewise.
    """

    config: ConfigT
    bytes: int | None = None
    parameters: int | None = None
    error: float | None = None


AnyCandidate: TypeAlias = Candidate[MethodConfig]
"""A setting of a method whose types only it knows."""
