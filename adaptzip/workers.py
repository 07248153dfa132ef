"""Worker threads for many small tensor operations."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")


def parallel_map(function: Callable[[T], R], items: Iterable[T], *, threads: int | None = None) -> Iterator[R]:
    """`function` of every item, in order, on as many threads as torch uses, each running torch on one core.

    torch's own threads meet after every operation, which costs more than the operation where tensors are small, and
    far more where the machine has other work. When the caller stops early, items that have not begun are dropped.
    """
    pool = ThreadPoolExecutor(threads or torch.get_num_threads(), initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield from pool.map(function, items)
    finally:
        pool.shutdown(cancel_futures=True)
