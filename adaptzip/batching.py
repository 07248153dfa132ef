"""Modules in batches of a bounded size, side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

import torch

from adaptzip.adapter import LoraFactors
from adaptzip.workers import parallel_map

R = TypeVar("R")

_BATCH_NUMBERS = 3_000_000


def over_batches(
    function: Callable[[list[str]], R],
    names: Sequence[str],
    modules: Mapping[str, LoraFactors],
    device: torch.device,
) -> Iterator[R]:
    """`function` of every batch of names, in order: side by side on a CPU, one after another on a GPU."""
    if device.type != "cpu":
        return map(function, batches(names, modules, _BATCH_NUMBERS))
    numbers = sum(modules[name].parameters for name in names)
    size = min(_BATCH_NUMBERS // 2, numbers // (2 * torch.get_num_threads()) + 1)
    return parallel_map(function, batches(names, modules, size))


def batches(names: Sequence[str], modules: Mapping[str, LoraFactors], most: int) -> Iterator[list[str]]:
    """`names` in order, in batches of at most `most` numbers (a larger module is alone)."""
    batch: list[str] = []
    numbers = 0
    for name in names:
        size = modules[name].parameters
        if batch and numbers + size > most:
            yield batch
            batch, numbers = [], 0
        batch.append(name)
        numbers += size
    if batch:
        yield batch
