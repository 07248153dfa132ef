"""Worker threads, each with torch on one core: the same sums, and so the same bytes, however many there are.

How torch and BLAS share out one sum depends on the number of their threads, and with it the last bits of the sum. What
decides bytes therefore runs `on_one_core`, and what takes long there is cut into parts that do not depend on the number
of threads, for `parallel_map`.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from itertools import islice
from typing import Any, TypeVar

import torch
from threadpoolctl import ThreadpoolController

T = TypeVar("T")
R = TypeVar("R")
_CPU = torch.device("cpu")


class _Local(threading.local):
    """What a thread knows of itself: whether it is a worker, and the pool that stands ready for it."""

    worker = False
    pool: ThreadPoolExecutor | None = None


_local = _Local()


@contextmanager
def on_one_core() -> Iterator[None]:
    """torch on one core in this thread, and as many workers for `parallel_map` as torch had threads. Also a decorator.

    Within another one, and within a worker, it changes nothing.
    """
    if _local.worker or _local.pool is not None:
        yield
        return
    threads = torch.get_num_threads()
    with _pool(threads) as pool:
        _local.pool = pool
        torch.set_num_threads(1)
        try:
            yield
        finally:
            _local.pool = None


def parallel_map(
    function: Callable[[T], R], items: Iterable[T], *, device: torch.device = _CPU, most: int | None = None
) -> Iterator[R]:
    """`function` of every item, in order: side by side on a CPU, one after another on a GPU and within a worker.

    torch's own threads meet after every operation, which costs more than the operation where tensors are small, and
    far more where the machine has other work. When the caller stops early, items that have not begun are dropped.

    Args:
        most: items worked on at once, where each takes much memory.
    """
    if most is not None:
        rest = iter(items)
        while portion := list(islice(rest, most)):
            yield from parallel_map(function, portion, device=device)
        return
    if _local.worker or device.type != "cpu":
        yield from map(function, items)
    elif _local.pool is not None:
        yield from _local.pool.map(function, items)
    else:
        with _pool(torch.get_num_threads()) as pool:
            yield from pool.map(function, items)


def alone(function: Callable[[T], R], item: T) -> R:
    """`function` of one item, as a worker would call it: for what takes less time than workers need to begin.

    It must not depend on BLAS, which keeps its threads.
    """
    threads, was_worker = torch.get_num_threads(), _local.worker
    _begin()
    try:
        return function(item)
    finally:
        _local.worker = was_worker
        torch.set_num_threads(threads)


@contextmanager
def _pool(threads: int) -> Iterator[ThreadPoolExecutor]:
    """Workers; at the end this thread, and those to come, have `threads` cores again."""
    with _one_blas_thread:
        pool = ThreadPoolExecutor(threads, initializer=_begin)
        try:
            yield pool
        finally:
            try:
                pool.shutdown(cancel_futures=True)
            finally:
                torch.set_num_threads(threads)


class _OneBlasThread:
    """numpy's and scipy's BLAS on one thread for as long as anyone asks: the whole process has one number of them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._askers = 0
        self._limit: Any = None

    def __enter__(self) -> None:
        with self._lock:
            if not self._askers:
                self._limit = _libraries(len(sys.modules)).select(user_api="blas").limit(limits=1)
            self._askers += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._askers -= 1
            if not self._askers:
                self._limit.restore_original_limits()


@lru_cache(1)
def _libraries(_: int) -> ThreadpoolController:
    """Those loaded now; looked up again once more is imported."""
    return ThreadpoolController()


_one_blas_thread = _OneBlasThread()


def _begin() -> None:
    _local.worker = True
    torch.set_num_threads(1)
