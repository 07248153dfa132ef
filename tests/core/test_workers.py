"""Workers: one core each, results in order, and nothing left changed behind them."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from threadpoolctl import ThreadpoolController

from adaptzip.core.workers import on_one_core, parallel_map


@pytest.fixture(autouse=True)
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def cores(_: object = None) -> int:
    return torch.get_num_threads()


def blas_threads() -> set[int]:
    return {library["num_threads"] for library in ThreadpoolController().select(user_api="blas").info()}


def in_a_new_thread() -> int:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(cores).result()


def test_the_thread_and_its_workers_have_one_core_and_give_it_back() -> None:
    with ThreadpoolController().select(user_api="blas").limit(limits=2):
        with on_one_core():
            assert cores() == 1
            assert blas_threads() == {1}
            assert list(parallel_map(cores, range(4))) == [1] * 4
            with on_one_core():
                assert cores() == 1
            assert cores() == 1
        assert blas_threads() == {2}
    assert cores() == in_a_new_thread() == 3


def test_as_many_workers_as_torch_had_threads_work_side_by_side() -> None:
    meeting = threading.Barrier(3, timeout=30)

    def meet(item: int) -> int:
        meeting.wait()
        return item

    assert list(parallel_map(meet, range(3))) == [0, 1, 2]
    with on_one_core():
        assert list(parallel_map(meet, range(3))) == [0, 1, 2]


def test_outside_the_caller_keeps_its_threads_between_results() -> None:
    found = parallel_map(cores, range(3))
    assert next(found) == 1
    assert cores() == 3
    assert isinstance(found, Generator)
    found.close()
    assert cores() == in_a_new_thread() == 3


def test_within_a_worker_and_on_a_gpu_items_come_one_after_another() -> None:
    def names(device: str) -> set[str]:
        def name(_: int) -> str:
            return threading.current_thread().name

        return set(parallel_map(name, range(8), device=torch.device(device)))

    (within,) = list(parallel_map(names, ["cpu"]))
    assert len(within) == 1
    assert names("cuda") == {threading.current_thread().name}


def test_no_more_than_asked_are_worked_on_at_once() -> None:
    lock, now, peak = threading.Lock(), 0, 0

    def work(item: int) -> int:
        nonlocal now, peak
        with lock:
            now += 1
            peak = max(peak, now)
        torch.randn(200, 200).mm(torch.randn(200, 200))
        with lock:
            now -= 1
        return item

    assert list(parallel_map(work, iter(range(9)), most=2)) == list(range(9))
    assert peak <= 2


def test_an_error_comes_out_in_its_turn_and_gives_the_threads_back() -> None:
    def fail(item: int) -> int:
        if item == 2:
            raise ValueError("no")
        return item

    with pytest.raises(ValueError, match="no"), on_one_core():
        list(parallel_map(fail, range(4)))
    found = parallel_map(fail, range(4))
    assert [next(found), next(found)] == [0, 1]
    with pytest.raises(ValueError, match="no"):
        next(found)
    assert cores() == 3
    assert list(parallel_map(fail, [0, 1])) == [0, 1]
