"""Where training runs: one device, or several processes that `accelerate launch` started."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from adaptzip.core.linalg import choose_device
from adaptzip.errors import CheckFailedError, RefusedError
from adaptzip.models.live.forward import is_out_of_memory


@dataclass(frozen=True, eq=False)
class Machines:
    """The processes of a run.

    Attributes:
        device: of this process.
        index: of this process.
        count: of processes.
        accelerator: accelerate's, where there are several.
    """

    device: torch.device
    index: int = 0
    count: int = 1
    accelerator: Any = None

    @property
    def first(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.index == 0

    def share(self, items: list[int]) -> list[int]:
        """This process's part of a batch."""
        return items[self.index :: self.count]

    def average(self, gradients: Iterable[Tensor | None]) -> None:
        """Replace gradients by their mean over processes, in place."""
        if self.accelerator is None:
            return
        for gradient in gradients:
            if gradient is not None:
                gradient.copy_(self.accelerator.reduce(gradient, reduction="mean"))

    def align(self, tensors: Iterable[Tensor]) -> None:
        """Replace tensors by the first process's, in place: two machines may fit them differently in the last bits."""
        if self.accelerator is None:
            return
        for tensor in tensors:
            tensor.copy_(self.accelerator.reduce(tensor if self.first else torch.zeros_like(tensor), reduction="sum"))

    def agree(self, value: float) -> float:
        """The first process's number, for all."""
        if self.accelerator is None:
            return value
        answer = torch.tensor([value if self.first else 0.0], device=self.device)
        return float(self.accelerator.reduce(answer, reduction="sum").item())

    def half(self) -> AbstractContextManager[Any]:
        """bfloat16 autocast on CUDA; nothing elsewhere."""
        return torch.autocast("cuda", torch.bfloat16) if self.device.type == "cuda" else nullcontext()


def find_machines(device: str | torch.device) -> Machines:
    """The processes that were launched, or this one alone.

    Raises:
        RefusedError: if several were launched, and accelerate is missing.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Machines(choose_device(device))
    try:
        from accelerate import Accelerator  # type: ignore[import-untyped]
    except ImportError as error:
        raise RefusedError(
            "training in several processes needs the package accelerate", hint="pip install 'adaptzip[distill]'"
        ) from error
    accelerator = Accelerator(cpu=str(device) == "cpu")
    return Machines(accelerator.device, accelerator.process_index, accelerator.num_processes, accelerator)


@contextmanager
def within_memory(texts: int) -> Iterator[None]:
    """Say what to do where memory runs out on so many texts at once.

    Raises:
        CheckFailedError: then.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        fewer = f"`micro={texts // 2}`, or " if texts > 1 else ""
        raise CheckFailedError(
            f"out of memory with {texts} texts at once", hint=f"try {fewer}a smaller `max_tokens=`"
        ) from error
