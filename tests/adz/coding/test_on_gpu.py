"""What a GPU decodes, and when: the kernel is replaced by that of the CPU here."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import adaptzip
from adaptzip.adz.coding import on_gpu
from adaptzip.adz.coding.coders import AnyCoder
from adaptzip.adz.coding.decoding import decode_module
from adaptzip.adz.coding.lanes import Begun, on_cpu
from adaptzip.adz.coding.on_gpu import decode_on, worthwhile
from adaptzip.core import compiled
from adaptzip.core.compressed import Buffer
from adaptzip.errors import FormatError
from adaptzip.restoring.reconstruction import coder_of
from adaptzip.testing.adapters import adapter

CUDA, CPU = torch.device("cuda"), torch.device("cpu")
MANY = [40_000] * 500
"""Lengths of so many blocks that a GPU pays, for two threads."""
KERNEL = "adaptzip.adz.coding.kernels.cuda"


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_gpu._Work, "saved", 0)
    monkeypatch.setattr(on_gpu._Work, "broken", False)
    monkeypatch.setattr(on_gpu, "FIRST_USE", 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(torch.cuda, "device", lambda _: nullcontext())


@pytest.fixture(scope="module")
def coder_and_blocks() -> tuple[AnyCoder, dict[str, Buffer], float]:
    compressed = adaptzip.compress(adapter([(48, 32, 4), (70, 40, 3), (48, 32, 4)]), to="svd", max_error=0.1)
    return coder_of(compressed), dict(zip(compressed.sites, compressed.chunks, strict=True)), compressed.step


def put(monkeypatch: pytest.MonkeyPatch, run: Callable[..., None]) -> None:
    """Let a function be the kernel."""
    grids: Mapping[Any, Any] = type("Grids", (), {"__getitem__": lambda _, grid: run})()
    monkeypatch.setitem(sys.modules, KERNEL, SimpleNamespace(decode=grids))


def by_cpu(*arrays: Tensor, **_: object) -> None:
    *given, _nearly, _models, out, whole = arrays
    numbers, are_whole = on_cpu(Begun(*(array.numpy() for array in given)))
    out.copy_(numbers)
    whole.copy_(torch.tensor(are_whole))


def test_many_modules_are_worth_it_and_few_large_ones_are_not() -> None:
    assert worthwhile(MANY, CUDA)
    assert not worthwhile(MANY, CPU)
    assert not worthwhile([100_000] * 64, CUDA)
    assert not worthwhile([*MANY, 400_000], CUDA)
    assert not worthwhile([4000] * 5000, CUDA)
    assert not worthwhile([], CUDA)


@pytest.mark.parametrize(("layers", "width", "inner", "most"), [(32, 4096, 11008, 1), (80, 8192, 28672, 2)])
def test_models_are_worth_it_against_few_threads(
    layers: int, width: int, inner: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of all seven modules of a layer, at rank 16 and two bits a number."""
    lengths = layers * (4 * [16 * 2 * width // 4] + 3 * [16 * (width + inner) // 4])
    for threads in (1, 2, 4, 8):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        assert worthwhile(lengths, CUDA) == (threads <= most)


def test_many_threads_do_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    assert not worthwhile(MANY, CUDA)


def test_the_first_use_has_to_pay_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = [20_000] * 300
    assert worthwhile(lengths, CUDA)
    monkeypatch.setattr(on_gpu, "FIRST_USE", on_gpu._Work.saved * 5 // 2)
    assert [worthwhile(lengths, CUDA) for _ in range(3)] == [False, True, True]


def test_without_numba_nothing_is_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "available", lambda: False)
    assert not worthwhile(MANY, CUDA)


def test_tensors_are_those_of_the_cpu(
    coder_and_blocks: tuple[AnyCoder, dict[str, Buffer], float], monkeypatch: pytest.MonkeyPatch
) -> None:
    coder, chunks, step = coder_and_blocks
    put(monkeypatch, by_cpu)
    found = decode_on(CPU, coder, chunks, step)
    assert found.keys() == chunks.keys()
    for name, chunk in chunks.items():
        tensors = decode_module(coder, chunk, step, name)
        assert found[name].keys() == tensors.keys()
        assert all(torch.equal(tensor, found[name][role]) for role, tensor in tensors.items())


def test_factors_do_not_share_the_room_of_all(
    coder_and_blocks: tuple[AnyCoder, dict[str, Buffer], float], monkeypatch: pytest.MonkeyPatch
) -> None:
    coder, chunks, step = coder_and_blocks
    put(monkeypatch, by_cpu)
    for tensors in decode_on(CPU, coder, chunks, step).values():
        assert tensors["V"].untyped_storage().nbytes() == 4 * tensors["V"].numel()


def test_what_is_not_whole_is_left_to_the_cpu(
    coder_and_blocks: tuple[AnyCoder, dict[str, Buffer], float], monkeypatch: pytest.MonkeyPatch
) -> None:
    coder, chunks, step = coder_and_blocks

    def all_but_one(*arrays: Tensor, **_: object) -> None:
        by_cpu(*arrays)
        arrays[-1][1] = 0

    put(monkeypatch, all_but_one)
    assert list(decode_on(CPU, coder, chunks, step)) == [*chunks][::2]


def test_an_empty_word_leaves_all_to_the_cpu(
    coder_and_blocks: tuple[AnyCoder, dict[str, Buffer], float], monkeypatch: pytest.MonkeyPatch
) -> None:
    coder, chunks, step = coder_and_blocks
    put(monkeypatch, lambda *_, **__: pytest.fail("a damaged block was decoded"))
    assert decode_on(CPU, coder, {**chunks, "m.1": bytes(8)}, step) == {}


@pytest.mark.parametrize("absent", [True, False])
def test_what_goes_wrong_is_told_once_and_then_left_alone(
    absent: bool,
    coder_and_blocks: tuple[AnyCoder, dict[str, Buffer], float],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("no compiler")

    put(monkeypatch, broken)
    if absent:
        monkeypatch.setitem(sys.modules, KERNEL, None)
    assert worthwhile(MANY, CUDA)
    with caplog.at_level(logging.INFO, "adaptzip"):
        assert decode_on(CPU, *coder_and_blocks) == {}
    assert not worthwhile(MANY, CUDA)
    (record,) = caplog.records
    assert record.levelno == logging.INFO
    assert record.getMessage().startswith("modules are decoded on the CPU, since triton does not run here: ")


def test_a_full_device_is_no_reason_to_give_up(
    coder_and_blocks: tuple[AnyCoder, dict[str, Buffer], float], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.cuda.OutOfMemoryError("full")

    put(monkeypatch, full)
    assert decode_on(CPU, *coder_and_blocks) == {}
    assert worthwhile(MANY, CUDA)


def test_a_rank_out_of_range_is_refused(
    coder_and_blocks: tuple[AnyCoder, dict[str, Buffer], float], monkeypatch: pytest.MonkeyPatch
) -> None:
    coder, chunks, step = coder_and_blocks
    put(monkeypatch, by_cpu)
    monkeypatch.setattr(type(coder.method), "max_rank", lambda *_: 0)
    with pytest.raises(FormatError, match="out of range"):
        decode_on(CPU, coder, chunks, step)
    assert not on_gpu._Work.broken
