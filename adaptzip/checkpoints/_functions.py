"""Dialects of files that hold functions of layers' inputs or outputs, which no update of weights is the same as."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from adaptzip.checkpoints._base import Checkpoint, NativeWriter
from adaptzip.checkpoints._registry import dialects
from adaptzip.core.function_method import Function


@dataclass(frozen=True, eq=False)
class LayerFunctions:
    """What a file puts on a model.

    Attributes:
        behind: what becomes of each layer's outputs (..., out), by the layer's name.
        before: what becomes of each layer's inputs (..., in) before it sees them.
        extras: every other tensor, by the key that PEFT would give it.
    """

    behind: Mapping[str, Function]
    before: Mapping[str, Function]
    extras: Mapping[str, Tensor]


class FunctionDialect(NativeWriter):
    """A dialect of functions. A `.adz` keeps the tensors of its files as they are, as extras, and it writes them back.

    Its signature tells its files, and the first method that it takes is the one that they are kept under.
    """

    @abstractmethod
    def functions(
        self, tensors: Mapping[str, Tensor], config: Mapping[str, Any] | None, where: object
    ) -> LayerFunctions:
        """Understand every tensor: it becomes part of a function or an extra, or is refused by name.

        Args:
            tensors: by their keys in the file.
            config: its configuration; None where there is none.
            where: what messages call the file.

        Raises:
            CheckpointError: if the file is malformed, or its configuration is missing.
            RefusedError: if it is valid but asks for something else.
        """


def function_dialect(source: Checkpoint) -> FunctionDialect | None:
    """The dialect of functions that a checkpoint is of, or None."""
    found = (each for each in dialects().values() if isinstance(each, FunctionDialect))
    return next((each for each in found if any(own.fits(source.tensors) for own in each.signature)), None)
