"""Files: written the same everywhere, whole or not at all, and read in part."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

import adaptzip
from adaptzip import Adapter, LoraFactors
from adaptzip.adz.coding import entropy
from adaptzip.adz.container import writer
from adaptzip.adz.container.deflate import deflate, inflate
from adaptzip.adz.container.header import MAX_MODULES
from adaptzip.adz.container.reader import read_header
from adaptzip.adz.container.streams import read_lengths, write_lengths
from adaptzip.adz.container.tables import Tables, read_tables, write_tables
from adaptzip.core.basis import BasisReference
from adaptzip.core.compressed import Compressed
from adaptzip.core.meta import Meta
from adaptzip.errors import FormatError, OutputError, RefusedError
from adaptzip.testing.adapters import adapter, bits

ROOT = Path(__file__).parents[3]
EXTRAS = {"head.weight": torch.arange(12.0).reshape(3, 4)}


@pytest.fixture(scope="module")
def compressed() -> Compressed:
    source = adapter({"a.0.q": (20, 30, 2), "a.1.q": (20, 30, 2), "b": (9, 7, 1)}, extras=EXTRAS, config={"r": 2})
    return adaptzip.compress(source, max_error=0.2)


@given(st.lists(st.integers(0, 2**42 - 1), max_size=50))
def test_lengths_come_back(lengths: list[int]) -> None:
    assert read_lengths(write_lengths(lengths)) == lengths


@pytest.mark.parametrize("data", [b"\x80", b"\x80\0", b"\xff" * 6 + b"\1", bytes(MAX_MODULES + 1)])
def test_malformed_lengths_are_refused(data: bytes) -> None:
    with pytest.raises(FormatError, match="index"):
        read_lengths(data)


@given(st.binary(max_size=3000))
def test_deflated_texts_come_back(text: bytes) -> None:
    assert inflate(deflate(text)) == text


@given(
    st.binary(max_size=60),
    st.binary(max_size=20),
    st.lists(st.integers(-128, 127), max_size=9),
    st.lists(st.integers(0, 999), max_size=9),
    st.lists(st.integers(0, 9999), max_size=9),
)
def test_tables_come_back(config: bytes, header: bytes, gains: list[int], sizes: list[int], lengths: list[int]) -> None:
    tables = Tables(config, (), header, tuple(gains), tuple(sizes), tuple(lengths))
    assert read_tables(memoryview(write_tables(tables))) == tables


def test_the_size_is_known_before_writing(compressed: Compressed, tmp_path: Path) -> None:
    size = writer.write(compressed, tmp_path / "x.adz")
    assert size == writer.size(compressed) == (tmp_path / "x.adz").stat().st_size
    assert sum(writer.sizes(compressed).values()) == size
    assert read_header(tmp_path / "x.adz").header_bytes == writer.sizes(compressed)["header"]


@pytest.mark.parametrize("grouped", [True, False])
def test_what_is_opened_is_what_was_written(compressed: Compressed, tmp_path: Path, grouped: bool) -> None:
    assert compressed.grouped
    compressed = compressed if grouped else dataclasses.replace(compressed, grouped=b"")
    writer.write(compressed, tmp_path / "x.adz")
    again = adaptzip.open(tmp_path / "x.adz")
    for field in dataclasses.fields(Compressed):
        before, after = getattr(compressed, field.name), getattr(again, field.name)
        if field.name == "chunks":
            assert [bytes(chunk) for chunk in after] == ([] if grouped else [bytes(chunk) for chunk in before])
        elif field.name == "extras":
            assert after.entries == before.entries
            assert bytes(after.payload) == bytes(before.payload)
        else:
            assert after == before, field.name
    writer.write(again, tmp_path / "y.adz")
    assert (tmp_path / "x.adz").read_bytes() == (tmp_path / "y.adz").read_bytes()


def test_what_methods_share_and_stand_on_is_written_too(compressed: Compressed, tmp_path: Path) -> None:
    count = len(compressed.sites)
    made = dataclasses.replace(
        compressed,
        shared=b"\1\2\3",
        gains=list(range(-1, count - 1)),
        basis=BasisReference("file", 7, "h" * 22, "updates of 3 adapters"),
    )
    writer.write(made, tmp_path / "x.adz")
    again = adaptzip.open(tmp_path / "x.adz")
    assert bytes(again.shared) == made.shared
    assert list(again.gains) == made.gains
    assert again.basis == made.basis
    assert list(read_header(tmp_path / "x.adz").streams)[:3] == ["tables", "shared", "modules"]


@pytest.mark.parametrize("what", ["gains", "basis_sizes"])
def test_as_many_gains_and_sizes_as_modules_are_demanded(compressed: Compressed, what: str, tmp_path: Path) -> None:
    more = [1] * (len(compressed.sites) + 1)
    changes: dict[str, Any] = {what: more, "basis_payload": b"x"}
    made = dataclasses.replace(compressed, **changes)
    writer.write(made, tmp_path / "x.adz")
    with pytest.raises(FormatError, match=f"there are {len(more)} .* for {len(compressed.sites)} modules"):
        adaptzip.open(tmp_path / "x.adz")


def test_any_safetensors_reader_lists_the_streams(compressed: Compressed, tmp_path: Path) -> None:
    writer.write(compressed, tmp_path / "x.adz")
    streams = load_file(tmp_path / "x.adz")
    assert {name: stream.nbytes for name, stream in streams.items()} == {
        name: size for name, size in writer.sizes(compressed).items() if name != "header"
    }


def test_the_header_holds_no_time_path_or_command_line(compressed: Compressed, tmp_path: Path) -> None:
    writer.write(compressed, tmp_path / "x.adz")
    start = bytes(read_header(tmp_path / "x.adz").start)
    metadata = json.loads(json.loads(start[8:])["__metadata__"]["adaptzip"])
    assert metadata.keys() == {
        "by", "error", "format", "hash", "max_rank", "method", "modules", "parameters", "source", "step",
    }  # fmt: skip
    assert str(tmp_path).encode() not in start
    assert metadata["modules"] == [["a.{0-1}.q", 20, 30], ["b", 9, 7]]
    assert metadata["by"] == f"adaptzip {adaptzip.__version__}"


SCRIPT = """
import sys, torch
torch.set_num_threads(int(sys.argv[1]))
sys.path.insert(0, ".")
from adaptzip.testing.adapters import adapter
import adaptzip
source = adapter({"b": (70, 50, 4), "a": (50, 70, 3), "c": (9, 7, 1)}, extras={"x": torch.ones(3), "e": torch.ones(2)})
adaptzip.compress(source, sys.argv[2], max_error=0.3)
"""


def test_equal_input_gives_equal_bytes_in_other_processes(tmp_path: Path) -> None:
    found = set()
    for run, threads in enumerate((1, 3)):
        path = tmp_path / f"{run}.adz"
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONHASHSEED": str(run)}
        subprocess.run([sys.executable, "-c", SCRIPT, str(threads), str(path)], check=True, cwd=ROOT, env=environment)
        found.add(hashlib.sha256(path.read_bytes()).hexdigest())
    assert len(found) == 1


def test_the_order_of_modules_and_extras_does_not_matter() -> None:
    source = adapter({"b": (9, 7, 1), "a": (20, 30, 2)}, extras={"x": torch.ones(3), "e": torch.ones(2)})
    turned = Adapter(dict(reversed([*source.modules.items()])), dict(reversed([*source.extras.items()])), source.meta)
    one, other = (adaptzip.compress(each, max_error=0.4) for each in (source, turned))
    assert list(map(bytes, one.chunks)) == list(map(bytes, other.chunks))
    assert (one.modules, one.extras) == (other.modules, other.extras)


def test_reading_one_module_decodes_no_other(
    compressed: Compressed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer.write(dataclasses.replace(compressed, grouped=b""), tmp_path / "x.adz")
    whole = adaptzip.reconstruct(tmp_path / "x.adz")
    calls: list[str] = []
    decode = entropy.decode

    def counted(*arguments: Any) -> Any:
        calls.append(arguments[-1])
        return decode(*arguments)

    monkeypatch.setattr(entropy, "decode", counted)
    monkeypatch.setattr(
        "adaptzip.restoring.reconstruction.unpack_tensors", lambda _: pytest.fail("extras were unpacked")
    )
    part = adaptzip.reconstruct(tmp_path / "x.adz", modules=["b"])
    assert calls == ["b"]
    assert list(part.modules) == ["b"]
    assert bits(part.modules["b"].B) == bits(whole.modules["b"].B)


def test_opening_decodes_nothing(compressed: Compressed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer.write(compressed, tmp_path / "x.adz")
    for function in ("decode", "decode_group"):
        monkeypatch.setattr(entropy, function, lambda *_: pytest.fail("a module was decoded"))
    assert adaptzip.open(tmp_path / "x.adz").modules == ("a.0.q", "a.1.q", "b")


def test_an_output_is_not_replaced_unasked(compressed: Compressed, tmp_path: Path) -> None:
    path = tmp_path / "x.adz"
    path.write_text("mine")
    with pytest.raises(OutputError, match="exists"):
        writer.write(compressed, path)
    assert path.read_text() == "mine"
    writer.write(compressed, path, force=True)
    assert len(path.read_bytes()) == writer.size(compressed)


def test_a_header_that_no_reader_takes_is_not_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("adaptzip.adz.container.streams.MAX_HEADER", 300)
    modules = {f"{i * 7919}x": LoraFactors(torch.zeros(1, 2), torch.zeros(2, 1)) for i in range(60)}
    with pytest.raises(RefusedError, match="more than 300"):
        adaptzip.compress(Adapter(modules, {}, Meta()), tmp_path / "x.adz")
    assert not list(tmp_path.iterdir())


def test_odd_names_survive_a_file(tmp_path: Path) -> None:
    names = ["", "a,b", "{", "}", "\\", "1-2", "x\ny", 'q"uote', "é", "07", "7", "a.b[3]"]
    source = Adapter({name: LoraFactors(torch.ones(1, 2), torch.ones(2, 1)) for name in names}, {'"': torch.ones(1)})
    adaptzip.compress(source, tmp_path / "x.adz", max_error=0.5)
    again = adaptzip.reconstruct(tmp_path / "x.adz")
    assert list(again.modules) == sorted(names)
    assert list(again.extras) == ['"']
