"""The `.bank` file: what is written is read, and anything else is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from adaptzip.bases.bank_file import KEY, _content, coded_bank, is_bank, read_bank, write_bank
from adaptzip.core.bank import BankShape
from adaptzip.core.bank_builder import FittedBank
from adaptzip.core.basis import Basis, BasisReference
from adaptzip.errors import FormatError, OutputError, RefusedError, UsageError

SHAPE = BankShape(rank=2, length=5, vectors=9, top_k=2, levels=64)


def fitted(shape: BankShape = SHAPE, seed: int = 0) -> FittedBank:
    vectors = torch.randn(shape.vectors, shape.length, generator=torch.Generator().manual_seed(seed))
    vectors[-1] = 0
    return FittedBank(vectors, shape, 0.125, 3)


@pytest.fixture
def bank() -> Basis:
    return coded_bank(fitted())


@pytest.fixture
def path(bank: Basis, tmp_path: Path) -> Path:
    write_bank(bank, tmp_path / "x.bank")
    return tmp_path / "x.bank"


def test_what_is_written_is_read(bank: Basis, path: Path) -> None:
    again = read_bank(path)
    assert bank.bank is not None
    assert again.bank is not None
    assert again.reference == bank.reference == BasisReference("bank", 9, bank.reference.hash, "updates of 3 adapters")
    assert torch.equal(again.bank.vectors, bank.bank.vectors)
    assert (again.bank.shape, again.bank.step, again.bank.chunk) == (SHAPE, 0.125, bank.bank.chunk)
    assert is_bank(path)
    assert str(again) == "Basis(bank, 9 vectors of 5, 2 to a piece, rank 2, updates of 3 adapters)"


def test_the_last_vector_stays_zero_and_the_others_are_near(bank: Basis) -> None:
    assert bank.bank is not None
    off = (bank.bank.vectors - fitted().vectors).abs()
    assert float(off.max()) < 4 * bank.bank.step
    assert not bool(bank.bank.vectors[-1].any())


def test_equal_banks_give_equal_bytes_and_another_another_hash(bank: Basis, path: Path, tmp_path: Path) -> None:
    write_bank(coded_bank(fitted()), tmp_path / "2.bank")
    assert path.read_bytes() == (tmp_path / "2.bank").read_bytes()
    assert coded_bank(fitted(seed=1)).reference.hash != bank.reference.hash
    assert coded_bank(fitted(replace(SHAPE, rank=3))).reference.hash != bank.reference.hash


def test_an_existing_file_is_kept_unless_forced(bank: Basis, tmp_path: Path) -> None:
    (tmp_path / "x.bank").write_bytes(b"mine")
    with pytest.raises(OutputError, match="exists already"):
        write_bank(bank, tmp_path / "x.bank")
    assert (tmp_path / "x.bank").read_bytes() == b"mine"
    assert write_bank(bank, tmp_path / "x.bank", True) == bank.reference


def test_what_cannot_be_written(bank: Basis, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is no bank"):
        write_bank(replace(bank, bank=None), tmp_path / "x.bank")
    with pytest.raises(UsageError, match="a bank of 1048576 x 1048576 numbers"):
        coded_bank(replace(fitted(), shape=replace(SHAPE, vectors=2**20, length=2**20)))


Change = Callable[[dict[str, Tensor], dict[str, Any]], None]


def rewritten(path: Path, change: Change, *, honest: bool = False) -> Path:
    """The file with its tensor and metadata changed; `honest` files have the hash of what they hold."""
    tensors: dict[str, Tensor] = load_file(path)
    with safe_open(path, "pt") as opened:
        value = json.loads(opened.metadata()[KEY])
    change(tensors, value)
    if honest:
        shape = BankShape(**{name: value[name] for name in ("rank", "length", "vectors", "top_k", "levels")})
        value["hash"] = _content(shape, value["step"], tensors["bank"].numpy().tobytes())
    save_file(tensors, path, {KEY: json.dumps(value)})
    return path


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda t, m: t["bank"].add_(1), FormatError, "hash does not match"),
        (lambda t, m: m.update(rank=1), FormatError, "hash does not match"),
        (lambda t, m: m.update(step=0.25), FormatError, "hash does not match"),
        (lambda t, m: m.update(format=2), RefusedError, "bank format 2 is not 1"),
        (lambda t, m: m.update(format=True), FormatError, "no format version"),
        (lambda t, m: m.update(vectors=True), FormatError, "malformed"),
        (lambda t, m: m.update(vectors=2), FormatError, "malformed"),
        (lambda t, m: m.update(vectors=2**20, length=2**20), FormatError, "malformed"),
        (lambda t, m: m.update(vectors=2**21), FormatError, "malformed"),
        (lambda t, m: m.update(top_k=9), FormatError, "malformed"),
        (lambda t, m: m.update(levels=48), FormatError, "malformed"),
        (lambda t, m: m.update(levels=1), FormatError, "malformed"),
        (lambda t, m: m.update(step=1), FormatError, "malformed"),
        (lambda t, m: m.update(step=0.1), FormatError, "malformed"),
        (lambda t, m: m.update(step=-0.125), FormatError, "malformed"),
        (lambda t, m: m.update(step=1e300), FormatError, "malformed"),
        (lambda t, m: m.update(description="x" * 1001), FormatError, "malformed"),
        (lambda t, m: m.pop("hash"), FormatError, "malformed"),
        (lambda t, m: m.update(more=1), FormatError, "malformed"),
        (lambda t, m: t.clear(), FormatError, "expected one tensor"),
        (lambda t, m: t.update(more=torch.ones(2)), FormatError, "expected one tensor"),
        (lambda t, m: t.update(bank=t["bank"].float()), FormatError, "expected one tensor"),
        (lambda t, m: t.update(bank=t["bank"][None]), FormatError, "expected one tensor"),
    ],
)
def test_damaged_files_are_refused(path: Path, change: Change, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        read_bank(rewritten(path, change))
    assert "x.bank" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, m: m.update(vectors=8), "does not end where its tensors do|corrupt|is not zero"),
        (lambda t, m: m.update(vectors=2**14, length=2**14), "cannot hold"),
        (lambda t, m: m.update(step=float(2.0**127)), "not all finite"),
        (lambda t, m: t.update(bank=t["bank"][:0].clone()), "x.bank"),
        (lambda t, m: t.update(bank=t["bank"][:-4].clone()), "x.bank"),
        (lambda t, m: t.update(bank=torch.full((64,), 255, dtype=torch.uint8)), "x.bank"),
    ],
)
def test_files_that_lie_with_a_right_hash_are_refused(path: Path, change: Change, message: str) -> None:
    with pytest.raises(FormatError, match=message) as caught:
        read_bank(rewritten(path, change, honest=True))
    assert "x.bank" in str(caught.value)


def test_a_bank_without_its_zero_vector_is_refused(path: Path, tmp_path: Path) -> None:
    full = coded_bank(replace(fitted(), vectors=fitted().vectors + 1))
    write_bank(full, tmp_path / "full.bank")
    with pytest.raises(FormatError, match="the last is not zero"):
        read_bank(tmp_path / "full.bank")


@pytest.mark.parametrize("content", [b"", b"hello", b"\x10\0\0\0\0\0\0\0{}", b"\xff" * 64])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.bank").write_bytes(content)
    with pytest.raises(FormatError, match=r"x\.bank"):
        read_bank(tmp_path / "x.bank")


def test_a_missing_file_and_another_safetensors_file(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"none\.bank: cannot be read"):
        read_bank(tmp_path / "none.bank")
    save_file({"bank": torch.ones(2)}, tmp_path / "x.safetensors")
    with pytest.raises(FormatError, match="is no bank"):
        read_bank(tmp_path / "x.safetensors")
    assert not is_bank(tmp_path / "x.safetensors")
    assert not is_bank(tmp_path)


def test_every_cut_is_noticed(path: Path, tmp_path: Path) -> None:
    data = path.read_bytes()
    for length in range(0, len(data), 31):
        (tmp_path / "cut.bank").write_bytes(data[:length])
        with pytest.raises(FormatError):
            read_bank(tmp_path / "cut.bank")


def test_metadata_that_is_no_text_is_refused(tmp_path: Path) -> None:
    header = json.dumps({"__metadata__": {KEY: 5}}).encode()
    (tmp_path / "x.bank").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(FormatError, match="is no bank"):
        read_bank(tmp_path / "x.bank")
