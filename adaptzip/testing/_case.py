"""What the parts of `MethodTests` share: the method, two adapters, and what was made of them once."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from adaptzip.core.compressed import Compressed
from adaptzip.core.method import AnyMethod
from adaptzip.errors import AdaptzipWarning
from adaptzip.fitting.fits import FittedAdapter
from adaptzip.testing.adapters import adapter
from adaptzip.testing.plugging import registered
from adaptzip.testing.trials import OneModule, code_one, compress, fit, limits_of, needs_file

SOURCE = adapter({"a": (40, 24, 6), "b": (24, 40, 4), "c": (33, 33, 1)}, seed=4, extras={"head": torch.arange(6.0)})
LARGE = adapter({f"l.{i}": (56, 40, 12) for i in range(4)}, seed=5)
"""Large enough that a budget can be filled to 1 %."""
STEP = 0.02


class MethodCase:
    """A method under test; `MethodTests` tells what its attributes mean."""

    method: ClassVar[AnyMethod]
    prediction_factor: ClassVar[float] = 2.5
    scale_free: ClassVar[bool] = True

    @property
    def meets_errors(self) -> bool:
        """Whether an error can be asked for."""
        return not self.method.fits_little

    @pytest.fixture(autouse=True)
    def _registered(self, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
        with registered(self.method, tmp_path_factory.getbasetemp() / f"method-{self.method.name}"):
            yield

    @pytest.fixture
    def basis_file(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """Where a basis of LARGE lies, once a method needs it; beside it, a file's size is that of its modules."""
        return tmp_path_factory.getbasetemp() / "large.basis"


@cache
def fitted(method: AnyMethod) -> FittedAdapter:
    """SOURCE fitted."""
    return fit(method.name, SOURCE)


@cache
def one(method: AnyMethod, module: str = "a") -> OneModule:
    """A module of SOURCE, coded and decoded at STEP."""
    return code_one(fitted(method), module, STEP)


@cache
def made(method: AnyMethod) -> Compressed:
    """SOURCE at a relative error of 0.2, as `limits_of` has it."""
    return compress(method.name, SOURCE, **limits_of(method.name, SOURCE, 0.2))


@cache
def large(method: AnyMethod, basis_file: Path, **limits: Any) -> tuple[Compressed, list[str]]:
    """LARGE within limits, and the warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", AdaptzipWarning)
        compressed = compress(method.name, LARGE, **needs_file(method.name, LARGE, basis_file), **limits)
    return compressed, [str(warning.message) for warning in caught]


def base_role(role: str) -> str:
    """A role without its number: a tensor of which a module has several is called "core.0", "core.1" and so on."""
    stem, _, number = role.rpartition(".")
    return stem if number.isdigit() else role
