"""The `.basis` file: what is written is read, and anything else is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from adaptzip.bases.artefact import KEY, read_basis, round_basis, write_basis
from adaptzip.bases.updates import build_basis
from adaptzip.core.basis import Basis, BasisReference
from adaptzip.core.projection import captured_energy
from adaptzip.errors import FormatError, OutputError, RefusedError, UsageError
from adaptzip.testing.adapters import adapter

SHAPES = {"a.0.q": (40, 24, 4), "a.0.v": (12, 24, 4)}


@pytest.fixture
def basis() -> Basis:
    return build_basis([adapter(SHAPES), adapter(SHAPES, seed=7)])


def test_what_is_written_is_read(tmp_path: Path, basis: Basis) -> None:
    reference = write_basis(basis, tmp_path / "x.basis")
    again = read_basis(tmp_path / "x.basis")
    assert again.reference == reference == BasisReference("file", 8, reference.hash, "updates of 2 adapters")
    for name, module in basis.modules.items():
        assert torch.equal(again.modules[name].U, module.U)
        assert torch.equal(again.modules[name].V, module.V)


def test_equal_bases_give_equal_bytes_and_another_another_hash(tmp_path: Path, basis: Basis) -> None:
    first = write_basis(basis, tmp_path / "1.basis")
    write_basis(Basis(dict(reversed([*basis.modules.items()])), basis.reference), tmp_path / "2.basis")
    assert (tmp_path / "1.basis").read_bytes() == (tmp_path / "2.basis").read_bytes()
    other = write_basis(build_basis([adapter(SHAPES)]), tmp_path / "3.basis")
    assert other.hash != first.hash


def test_float16_halves_the_file_and_costs_little(tmp_path: Path, basis: Basis) -> None:
    write_basis(basis, tmp_path / "wide.basis")
    write_basis(basis, tmp_path / "half.basis", dtype="float16")
    wide, half = ((tmp_path / name).stat().st_size for name in ("wide.basis", "half.basis"))
    assert half < 0.6 * wide
    read = read_basis(tmp_path / "half.basis")
    rounded = round_basis(basis, torch.float16)
    for name, module in rounded.modules.items():
        assert torch.equal(read.modules[name].U, module.U)
        assert torch.equal(round_basis(rounded, torch.float16).modules[name].V, module.V)
    error = captured_energy(adapter(SHAPES).modules, read).error
    assert 0 < error < 5e-4


def test_an_existing_file_is_kept_unless_forced(tmp_path: Path, basis: Basis) -> None:
    path = tmp_path / "x.basis"
    path.write_bytes(b"mine")
    with pytest.raises(OutputError, match="exists already"):
        write_basis(basis, path)
    assert path.read_bytes() == b"mine"
    write_basis(basis, path, True)
    assert read_basis(path).modules.keys() == basis.modules.keys()


def test_what_cannot_be_written(tmp_path: Path, basis: Basis) -> None:
    with pytest.raises(UsageError, match="dtype 'int8' is unknown"):
        write_basis(basis, tmp_path / "x.basis", dtype="int8")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="no modules"):
        write_basis(Basis({}, basis.reference), tmp_path / "x.basis")


Change = Callable[[dict[str, Tensor], dict[str, Any]], None]


def rewritten(path: Path, change: Change) -> Path:
    """The file with tensors and metadata changed, otherwise valid safetensors."""
    tensors: dict[str, Tensor] = load_file(path)
    with safe_open(path, "pt") as opened:
        metadata: Mapping[str, str] = opened.metadata()
    value = json.loads(metadata[KEY])
    change(tensors, value)
    save_file(tensors, path, {KEY: json.dumps(value)})
    return path


def test_a_mean_is_kept_exactly(basis: Basis, tmp_path: Path) -> None:
    """Whatever the dtype of the directions, since it may be of any magnitude."""
    mean = 1e6 * torch.randn(8, 8, generator=torch.Generator().manual_seed(0))
    name = "a.0.q"
    modules = {**basis.modules, name: replace(basis.modules[name], mean=mean)}
    reference = write_basis(replace(basis, modules=modules), tmp_path / "x.basis", dtype="float16")
    found = read_basis(tmp_path / "x.basis")
    assert found.reference == reference
    assert {name for name, module in found.modules.items() if module.mean is not None} == {name}
    assert torch.equal(found.modules[name].mean, mean)
    assert torch.equal(found.modules[name].leading(3).mean, mean[:3, :3])
    assert reference.hash != write_basis(basis, tmp_path / "y.basis", dtype="float16").hash


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda t, m: t["a.0.q.U"].add_(1e-3), FormatError, "hash does not match"),
        (lambda t, m: m.update(format=2), RefusedError, "basis format 2 is not 1"),
        (lambda t, m: m.update(format="1"), FormatError, "no format version"),
        (lambda t, m: m.update(size=7), FormatError, "its size is 7"),
        (lambda t, m: m.update(size=True), FormatError, "malformed"),
        (lambda t, m: m.update(size=0), FormatError, "malformed"),
        (lambda t, m: m.pop("hash"), FormatError, "malformed"),
        (lambda t, m: m.update(more=1), FormatError, "malformed"),
        (lambda t, m: t.pop("a.0.q.V"), FormatError, "lacks the other"),
        (lambda t, m: t.update({"a.0.q.W": torch.ones(2)}), FormatError, "no side of a module's basis"),
        (lambda t, m: t.update({"a.0.q.U": torch.ones(40)}), FormatError, "expected"),
        (lambda t, m: t.update({"a.0.q.U": torch.ones(40, 3)}), FormatError, "expected"),
        (lambda t, m: t.update({"a.0.q.U": t["a.0.q.U"].half()}), FormatError, "both F32 or both F16"),
        (lambda t, m: t.update({"a.0.q.U": t["a.0.q.U"].double()}), FormatError, "both F32 or both F16"),
        (lambda t, m: t["a.0.q.U"].fill_(float("nan")), FormatError, "no direction has"),
        (lambda t, m: t["a.0.q.V"].fill_(float("inf")), FormatError, "no direction has"),
        (lambda t, m: t.clear(), FormatError, "its size is 8"),
        (lambda t, m: t.update({"a.0.q.mean": torch.ones(7, 8)}), FormatError, r"expected \[8, 8\] F32, finite"),
        (lambda t, m: t.update({"a.0.q.mean": torch.ones(8, 8).half()}), FormatError, "F32, finite"),
        (lambda t, m: t.update({"a.0.q.mean": torch.full((8, 8), float("nan"))}), FormatError, "F32, finite"),
        (lambda t, m: t.update({"a.0.x.mean": torch.ones(8, 8)}), FormatError, "module a.0.x has one side"),
        (lambda t, m: t.update({"a.0.q.mean": torch.ones(8, 8)}), FormatError, "hash does not match"),
    ],
)
def test_damaged_files_are_refused(
    tmp_path: Path, basis: Basis, change: Change, error: type[Exception], message: str
) -> None:
    write_basis(basis, tmp_path / "x.basis")
    with pytest.raises(error, match=message) as caught:
        read_basis(rewritten(tmp_path / "x.basis", change))
    assert "x.basis" in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x10\0\0\0\0\0\0\0{}", b"\xff" * 64])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.basis"
    path.write_bytes(content)
    with pytest.raises(FormatError, match="x.basis"):
        read_basis(path)


def test_a_missing_file_and_another_safetensors_file(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="none.basis: cannot be read"):
        read_basis(tmp_path / "none.basis")
    save_file({"a": torch.ones(2)}, tmp_path / "x.safetensors")
    with pytest.raises(FormatError, match="is no basis"):
        read_basis(tmp_path / "x.safetensors")


def test_every_cut_is_noticed(tmp_path: Path, basis: Basis) -> None:
    write_basis(basis, tmp_path / "x.basis")
    data = (tmp_path / "x.basis").read_bytes()
    for length in range(0, len(data), 97):
        (tmp_path / "cut.basis").write_bytes(data[:length])
        with pytest.raises(FormatError):
            read_basis(tmp_path / "cut.basis")


@pytest.mark.parametrize("sides", [((0, 1), (4, 1)), ((4, 1), (0, 1)), ((0, 0), (0, 0))])
def test_a_side_of_no_numbers_is_refused(sides: tuple[tuple[int, int], ...], tmp_path: Path, basis: Basis) -> None:
    write_basis(basis, tmp_path / "x.basis")
    with safe_open(tmp_path / "x.basis", "pt") as opened:
        metadata = opened.metadata()
    save_file({"m.U": torch.zeros(sides[0]), "m.V": torch.zeros(sides[1])}, tmp_path / "y.basis", metadata)
    with pytest.raises(FormatError, match="module m has U"):
        read_basis(tmp_path / "y.basis")


def test_metadata_that_is_no_text_is_refused(tmp_path: Path) -> None:
    header = json.dumps({"__metadata__": {KEY: 5}}).encode()
    (tmp_path / "x.basis").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(FormatError, match="is no basis"):
        read_basis(tmp_path / "x.basis")
