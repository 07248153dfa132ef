"""Files: written the same everywhere, whole or not at all, and read in part."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

import adaptzip
from adaptzip import Adapter, LoraFactors
from adaptzip.adz.coding.coders import AnyCoder
from adaptzip.adz.coding.decoding import decode_many
from adaptzip.adz.container import writer
from adaptzip.adz.container.adapter_config import read_config, write_config
from adaptzip.adz.container.deflate import deflate, inflate
from adaptzip.adz.container.head import read_head, write_head
from adaptzip.adz.container.index import read_index, write_index
from adaptzip.adz.container.metadata import write_metadata
from adaptzip.adz.container.reader import read_header
from adaptzip.core.basis import BasisReference, Start
from adaptzip.core.compressed import Buffer, Compressed, Site
from adaptzip.core.meta import Meta
from adaptzip.core.training_report import TrainingReport
from adaptzip.errors import FormatError, OutputError, RefusedError, UsageError
from adaptzip.testing.adapters import adapter, bits

ROOT = Path(__file__).parents[3]
EXTRAS = {"head.weight": torch.arange(12.0).reshape(3, 4)}


@pytest.fixture(scope="module")
def compressed() -> Compressed:
    source = adapter({"a.0.q": (20, 30, 2), "a.1.q": (20, 30, 2), "b": (9, 7, 1)}, extras=EXTRAS, config={"r": 2})
    return adaptzip.compress(source, max_error=0.2)


lengths = st.integers(0, 2**42 - 1) | st.integers(0, 900) | st.just(0)


@given(st.lists(st.tuples(lengths, st.integers(1, 3)), max_size=50))
def test_lengths_come_back(modules: list[tuple[int, int]]) -> None:
    sites = {str(i): Site(8, width) for i, (_, width) in enumerate(modules)}
    found = [length for length, _ in modules]
    assert read_index(write_index(sites, found), sites) == (tuple(found), 0)


@given(st.binary(max_size=40))
def test_an_index_is_read_in_one_way(data: bytes) -> None:
    sites = {str(i): Site(8, 6 + i % 2) for i in range(5)}
    with contextlib.suppress(FormatError):
        found = read_index(data, sites)
        assert read_index(write_index(sites, *found), sites) == found


@given(st.binary(max_size=3000))
def test_deflated_texts_come_back(text: bytes) -> None:
    assert inflate(deflate(text)) == (text, b"")


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
fields = st.sampled_from(["r", "lora_alpha", "target_modules", "use_dora", "velora_config", "z", "bias", ""])


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(fields, values, max_size=8), st.integers(0, 12), st.booleans())
def test_configurations_come_back(changes: dict[str, Any], number: int, ordered: bool) -> None:
    config = read_config([number, {}]) | changes
    config = dict(sorted(config.items())) if ordered else config
    text = write_config(config)
    assert text is not None
    again = read_config(json.loads(text))
    assert json.dumps(again) == json.dumps(config)


def test_a_usual_configuration_is_short() -> None:
    config = json.loads((ROOT / "fixtures" / "lists-minilm-r16" / "adapter_config.json").read_text())
    text = write_config(config)
    assert text is not None
    assert text.startswith('[1,{"base_model_name_or_path":"sentence-transformers/all-MiniLM-L6-v2",')
    assert len(text) < 300
    newer = ("kasa_config", "lora_ga_config", "monteclora_config", "use_bdlora", "velora_config")
    older = {key: item for key, item in config.items() if key not in newer}
    text = write_config(older)
    assert text is not None
    assert text.startswith("[2,{")
    assert write_config({"r": float("nan")}) is None
    assert write_config({"r": "\ud800"}) is None


def test_the_size_is_known_before_writing(compressed: Compressed, tmp_path: Path) -> None:
    size = writer.write(compressed, tmp_path / "x.adz")
    assert size == writer.size(compressed) == (tmp_path / "x.adz").stat().st_size
    assert sum(writer.sizes(compressed).values()) == size
    parts = {name: part for name, part in read_header(tmp_path / "x.adz").parts.items() if part}
    assert parts == writer.sizes(compressed)
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
        elif field.name == "path":
            assert (before, after) == (None, tmp_path / "x.adz")
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
        basis=BasisReference("file", 7, "h" * 21 + "g", "updates of 3 adapters"),
    )
    writer.write(made, tmp_path / "x.adz")
    again = adaptzip.open(tmp_path / "x.adz")
    assert bytes(again.shared) == made.shared
    assert list(again.gains) == made.gains
    assert again.basis == made.basis
    assert read_header(tmp_path / "x.adz").parts["shared"] == 3


START = Start("uniform", 2**64 - 1, (0, 2**42 - 1), 0.93)


@pytest.mark.parametrize(
    "basis",
    [
        BasisReference("start", 8, start=START),
        BasisReference("start", 8, "h" * 21 + "A", "what it was made of", START),
        BasisReference("reference", 2**20, "h" * 21 + "Q", "team/adapter"),
        BasisReference("base", 3, "h" * 21 + "w"),
    ],
)
def test_frames_are_written_and_read(compressed: Compressed, basis: BasisReference, tmp_path: Path) -> None:
    made = dataclasses.replace(compressed, basis=basis, basis_sizes=(8, 0, 3), gains=(1, -128, 127))
    assert writer.write(made, tmp_path / "x.adz") == writer.size(made)
    again = adaptzip.open(tmp_path / "x.adz")
    assert (again.basis, again.basis_sizes, again.gains) == (basis, (8, 0, 3), (1, -128, 127))


@pytest.mark.parametrize(
    ("start", "said"),
    [
        (dataclasses.replace(START, offsets=(1,)), "has 1 offsets, expected 2: one for each frame"),
        (dataclasses.replace(START, offsets=(1, 2**42)), "out of range"),
        (dataclasses.replace(START, seed=2**64), "out of range: seed 18446744073709551616"),
        (dataclasses.replace(START, correlation=1.01), "correlation"),
    ],
)
def test_a_start_that_no_reader_takes_is_not_written(
    compressed: Compressed, start: Start, said: str, tmp_path: Path
) -> None:
    made = dataclasses.replace(compressed, basis=BasisReference("start", 8, start=start), basis_sizes=(8, 0, 3))
    with pytest.raises(UsageError, match=said):
        writer.write(made, tmp_path / "x.adz")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["short", "h" * 22, "h" * 21 + "+"])
def test_a_hash_that_is_none_is_not_written(compressed: Compressed, text: str, tmp_path: Path) -> None:
    made = dataclasses.replace(compressed.provenance, source_hash=text)
    with pytest.raises(UsageError, match="is not a hash of 22 characters"):
        writer.write(dataclasses.replace(compressed, provenance=made), tmp_path / "x.adz")


REPORT = TrainingReport(
    14243, 750, 90, 1200, "F1", (1.823, 0.06, 0.06), (0, 1, 0.66), (0.6, 0.5, None), (0.2, 0.7, 0.5)
)


def test_what_training_said_is_written_and_read(compressed: Compressed, tmp_path: Path) -> None:
    provenance = dataclasses.replace(compressed.provenance, distilled=REPORT, source_hash="h" * 21 + "A")
    made = dataclasses.replace(compressed, provenance=provenance)
    writer.write(made, tmp_path / "x.adz")
    assert adaptzip.open(tmp_path / "x.adz").provenance == provenance
    assert writer.size(made) - writer.size(compressed) <= 72


@pytest.mark.parametrize("config", [{"r": 2, "x": float("nan")}, {"\ud800": 1}, {"z": 1, "a": 1.0, "r": True}, {}])
def test_any_configuration_is_written_and_read(compressed: Compressed, config: dict[str, Any], tmp_path: Path) -> None:
    made = dataclasses.replace(compressed, meta=Meta(config=config, base_model="b"))
    writer.write(made, tmp_path / "x.adz")
    again = adaptzip.open(tmp_path / "x.adz").meta
    assert json.dumps(again.config) == json.dumps(config)
    assert (again.base_model, again.config_text) == ("b", None)


def test_a_text_that_is_too_long_is_not_written(compressed: Compressed, tmp_path: Path) -> None:
    for config in ({"x": "y" * 2**24}, {"x": "y" * 2**24, "z": float("nan")}):
        made = dataclasses.replace(compressed, meta=Meta(config=config))
        with pytest.raises(RefusedError, match="configuration and metadata have .* bytes, more than 16,777,216"):
            writer.write(made, tmp_path / "x.adz")


def test_a_part_of_the_head_that_is_unknown_is_refused(compressed: Compressed) -> None:
    head = write_head(compressed)
    assert read_head(head).metadata.sites == compressed.sites
    with pytest.raises(RefusedError, match="the head has parts that this version does not know: 0x10"):
        read_head(bytes([head[0] | 128, 2]) + head[1:])


@pytest.mark.parametrize("what", ["gains", "basis_sizes"])
def test_as_many_gains_and_sizes_as_modules_are_demanded(compressed: Compressed, what: str, tmp_path: Path) -> None:
    more = [1] * (len(compressed.sites) + 1)
    made = dataclasses.replace(compressed, basis_payload=b"x", basis=BasisReference("embedded", 1), basis_sizes=[1] * 3)
    changes: dict[str, Any] = {what: more}
    made = dataclasses.replace(made, **changes)
    with pytest.raises(FormatError, match="the head's table is"):
        writer.write(made, tmp_path / "x.adz")


def test_any_safetensors_reader_opens_it(compressed: Compressed, tmp_path: Path) -> None:
    size = writer.write(compressed, tmp_path / "x.adz")
    tensors = load_file(tmp_path / "x.adz")
    start = int.from_bytes((tmp_path / "x.adz").read_bytes()[:8], "little") + 8
    assert {name: tensor.nbytes for name, tensor in tensors.items()} == {"adz": size - start}


def test_the_header_holds_no_time_path_or_command_line(compressed: Compressed, tmp_path: Path) -> None:
    writer.write(compressed, tmp_path / "x.adz")
    data = (tmp_path / "x.adz").read_bytes()
    found = read_header(tmp_path / "x.adz").head
    assert str(tmp_path).encode() not in data
    metadata = json.loads(write_metadata(compressed))
    assert metadata == {
        "modules": [["a.{0-1}.q", 20, 30], ["b", 9, 7]],
        "extras": [["head.weight", [3, 4], "F32", "BF16"]],
        "adapter": [0, {"r": 2}],
        "by": f"adaptzip {adaptzip.__version__}",
    }
    assert found.metadata.patterns == (("a.{0-1}.q", Site(20, 30)), ("b", Site(9, 7)))


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

    def counted(coder: AnyCoder, chunks: Mapping[str, Buffer], *rest: Any) -> Any:
        calls.extend(chunks)
        return decode_many(coder, chunks, *rest)

    monkeypatch.setattr("adaptzip.restoring.decoding.decode_many", counted)
    monkeypatch.setattr("adaptzip.restoring.extras.unpack_tensors", lambda _: pytest.fail("extras were unpacked"))
    part = adaptzip.reconstruct(tmp_path / "x.adz", modules=["b"])
    assert calls == ["b"]
    assert list(part.modules) == ["b"]
    assert bits(part.modules["b"].B) == bits(whole.modules["b"].B)


def test_opening_decodes_nothing(compressed: Compressed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer.write(compressed, tmp_path / "x.adz")
    for function in ("decode_many", "decode_group"):
        monkeypatch.setattr(f"adaptzip.restoring.decoding.{function}", lambda *_: pytest.fail("a module was decoded"))
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
    monkeypatch.setattr("adaptzip.adz.container.head.MAX_HEAD", 200)
    modules = {f"{i * 7919}x": LoraFactors(torch.zeros(1, 2), torch.zeros(2, 1)) for i in range(60)}
    with pytest.raises(RefusedError, match="more than 200"):
        adaptzip.compress(Adapter(modules, {}, Meta()), tmp_path / "x.adz")
    assert not list(tmp_path.iterdir())


def test_odd_names_survive_a_file(tmp_path: Path) -> None:
    names = ["", "a,b", "{", "}", "\\", "1-2", "x\ny", 'q"uote', "é", "07", "7", "a.b[3]"]
    source = Adapter({name: LoraFactors(torch.ones(1, 2), torch.ones(2, 1)) for name in names}, {'"': torch.ones(1)})
    adaptzip.compress(source, tmp_path / "x.adz", max_error=0.5)
    again = adaptzip.reconstruct(tmp_path / "x.adz")
    assert list(again.modules) == sorted(names)
    assert list(again.extras) == ['"']
