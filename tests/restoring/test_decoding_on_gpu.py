"""Modules that a GPU decodes: which are asked of it, and, where there is one, that they are those of the CPU."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

import adaptzip
from adaptzip.adz.coding import on_gpu
from adaptzip.adz.coding.coders import AnyCoder
from adaptzip.adz.coding.decoding import decode_module
from adaptzip.adz.coding.on_gpu import decode_on
from adaptzip.bases.updates import build_basis
from adaptzip.core.comparing import same_bits
from adaptzip.core.compressed import Buffer, Compressed
from adaptzip.errors import FormatError
from adaptzip.restoring import decoding
from adaptzip.restoring.reconstruction import coder_of
from adaptzip.testing.adapters import adapter

SHAPES = [(48, 32, 4), (70, 40, 3), (33, 129, 5), (48, 32, 2), (5, 7, 1)]


def apart(compressed: Compressed) -> Compressed:
    """With blocks in place of a group."""
    return dataclasses.replace(compressed, grouped=b"")


@pytest.fixture(scope="module")
def compressed() -> Compressed:
    made = adaptzip.compress(adapter(SHAPES), to="svd", max_error=0.1)
    return dataclasses.replace(apart(made), gains=(0, 1, -3, 8, 0))


class There:
    """A device that decodes all modules but one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[str] = []
        monkeypatch.setattr(decoding, "worthwhile", lambda *_: True)
        monkeypatch.setattr(decoding, "decode_on", self)

    def __call__(
        self, device: torch.device, coder: AnyCoder, chunks: Mapping[str, Buffer], step: float
    ) -> dict[str, dict[str, Tensor]]:
        assert device.type == "cuda"
        self.asked += chunks
        return {name: decode_module(coder, chunk, step, name) for name, chunk in chunks.items() if name != "m.1"}


def test_both_give_the_modules_in_their_order(compressed: Compressed, monkeypatch: pytest.MonkeyPatch) -> None:
    coder, names = coder_of(compressed), [f"m.{i}" for i in (3, 1, 0, 2)]
    before = dict(decoding.decode(compressed, names, coder, lambda _, found, __: found))
    there = There(monkeypatch)
    after = dict(decoding.decode(compressed, names, coder, lambda _, found, __: found, torch.device("cuda")))
    assert there.asked == names
    assert list(after) == list(before) == names
    for name in names:
        assert same_bits(after[name].A, before[name].A)
        assert same_bits(after[name].B, before[name].B)
        assert after[name].gain == before[name].gain


def test_modules_are_asked_for_in_parts(compressed: Compressed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "_TOGETHER_THERE", 1)
    there = There(monkeypatch)
    names = list(compressed.sites)
    found = list(
        decoding.decode(compressed, names, coder_of(compressed), lambda name, _, __: name, torch.device("cuda"))
    )
    assert there.asked == names
    assert found == [(name, name) for name in names]


def test_what_is_not_finite_is_refused(compressed: Compressed, monkeypatch: pytest.MonkeyPatch) -> None:
    There(monkeypatch)
    coder = coder_of(compressed)
    made = coder.method.reconstruct

    def infinite(tensors: Any, site: Any, config: Any) -> tuple[Tensor, Tensor]:
        A, B = made(tensors, site, config)
        return A, B * float("inf")

    monkeypatch.setattr(type(coder.method), "reconstruct", lambda _, *given: infinite(*given))
    with pytest.raises(FormatError, match=r"B of module 'm\.0' holds NaN or infinity"):
        list(decoding.decode(compressed, ["m.0"], coder, lambda name, _, __: name, torch.device("cuda")))


@pytest.mark.parametrize("to", ["loretta", "vblora", "lora-sb", "group"])
def test_other_methods_and_groups_are_not_asked_for(to: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compressed = adaptzip.compress(adapter(SHAPES), to="svd" if to == "group" else to, max_error=0.3)
    compressed = compressed if to == "group" else apart(compressed)
    there = There(monkeypatch)
    names = list(compressed.sites)
    found = decoding.decode(compressed, names, coder_of(compressed), lambda name, _, __: name, torch.device("cuda"))
    assert [name for name, _ in found] == names
    assert not there.asked


def test_a_cpu_is_not_asked(compressed: Compressed, monkeypatch: pytest.MonkeyPatch) -> None:
    there = There(monkeypatch)
    adaptzip.reconstruct(compressed)
    assert not there.asked


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The modules that a GPU decoded, which is worth any trouble here."""
    names: list[str] = []

    def counted(*given: Any) -> dict[str, dict[str, Tensor]]:
        found = decode_on(*given)
        names.extend(found)
        return found

    monkeypatch.setattr(decoding, "worthwhile", lambda *_: True)
    monkeypatch.setattr(decoding, "decode_on", counted)
    return names


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [None, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("method", ["svd", "loretta", "vblora", "lora-sb", "unilora"])
def test_cuda_gives_the_bits_of_the_cpu(method: str, dtype: torch.dtype | None, used: list[str]) -> None:
    compressed = apart(adaptzip.compress(adapter(SHAPES), to=method, max_error=0.99 if method == "unilora" else 0.3))
    there = adaptzip.reconstruct(compressed, device="cuda", dtype=dtype).modules
    here = adaptzip.reconstruct(compressed, dtype=dtype).modules
    assert list(there) == list(here)
    for name, module in here.items():
        for one, other in ((there[name].A, module.A), (there[name].B, module.B)):
            assert one.device.type == "cuda"
            assert one.is_contiguous()
            assert same_bits(one.cpu(), other)
    assert used == (list(here) if method == "svd" else [])
    assert not on_gpu._Work.broken


@pytest.mark.gpu
def test_what_stands_on_a_basis_has_the_bits_of_the_cpu(used: list[str]) -> None:
    source = adapter(SHAPES)
    basis = build_basis([source])
    compressed = apart(adaptzip.compress(source, to="lora-xs", basis=basis, max_error=0.99, min_energy=0.0))
    there, here = (adaptzip.reconstruct(compressed, basis=basis, device=device).modules for device in ("cuda", "cpu"))
    assert all(same_bits(there[name].A.cpu(), module.A) for name, module in here.items())
    assert all(same_bits(there[name].B.cpu(), module.B) for name, module in here.items())
    assert not used


@pytest.mark.gpu
def test_cuda_decodes_many_modules_of_a_file(used: list[str]) -> None:
    shapes = [(64 + i % 7, 48 + i % 5, 4) for i in range(600)]
    compressed = apart(adaptzip.compress(adapter(shapes), to="svd", max_error=0.05))
    there, here = (adaptzip.reconstruct(compressed, device=device).modules for device in ("cuda", "cpu"))
    assert all(same_bits(there[name].A.cpu(), module.A) for name, module in here.items())
    assert all(same_bits(there[name].B.cpu(), module.B) for name, module in here.items())
    assert set(used) == here.keys()
