"""Modules in batches of a bounded size, side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

import torch

from adaptzip.core.adapter import LoraFactors
from adaptzip.core.workers import parallel_map

WORKING_BYTES = 32 * 2**20
"""Bytes of factors that one batch may hold; the copies that QR and SVD need are a small multiple of it."""

R = TypeVar("R")

_GPU_NUMBERS = 3_000_000
_LEAST_NUMBERS, _MOST_NUMBERS = 2**18, 1_500_000
"""Numbers in a batch on a CPU: enough to hide what a batch costs by itself, and few enough for its memory."""
_SMALL_PARTS, _LARGE_PARTS = 4, 64
"""Batches that small adapters are cut into even so, and those that large ones need not exceed, for many cores."""


def over_batches(
    function: Callable[[list[str]], R],
    names: Sequence[str],
    modules: Mapping[str, LoraFactors],
    device: torch.device,
) -> Iterator[R]:
    """`function` of every batch of names, in order: side by side on a CPU, one after another on a GPU.

    Batches do not depend on the number of threads, since sums over batches of other sizes may round otherwise.
    """
    size = _GPU_NUMBERS
    if device.type == "cpu":
        size = _batch_numbers(sum(modules[name].parameters for name in names))
    return parallel_map(function, batches(names, modules, size), device=device)


def _batch_numbers(numbers: int) -> int:
    """Numbers in a batch of an adapter of `numbers`, on a CPU."""
    small = min(_LEAST_NUMBERS, numbers // _SMALL_PARTS + 1)
    return max(small, min(_MOST_NUMBERS, numbers // _LARGE_PARTS + 1))


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


def group_by_shape(modules: Mapping[str, LoraFactors], *, working_bytes: int = WORKING_BYTES) -> list[list[str]]:
    """Module names in batches of equal (out, in, rank), each of at most `working_bytes` of float32 factors.

    Names keep the mapping's order within a shape, shapes the order of their first name; a module larger than
    the limit is a batch of its own.
    """
    shapes: dict[tuple[int, int, int], list[str]] = {}
    for name, module in modules.items():
        shapes.setdefault((*module.shape, module.rank), []).append(name)
    batches = []
    for (out, width, rank), names in shapes.items():
        size = max(1, working_bytes // max(1, 4 * rank * (out + width)))
        batches += [names[i : i + size] for i in range(0, len(names), size)]
    return batches
