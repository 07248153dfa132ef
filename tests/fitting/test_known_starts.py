"""Adapters that PEFT made, coded in the frames of where they began: from the folder to a file, and back into PEFT."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from math import sqrt
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForSequenceClassification

import adaptzip
from adaptzip.adz.container import writer
from adaptzip.bases.artefact import write_basis
from adaptzip.bases.starts.files import write_start
from adaptzip.bases.starts.found import KeptStart
from adaptzip.bases.updates import build_basis
from adaptzip.core.comparing import diff, same_bits
from adaptzip.core.sensitivity import Sensitivity
from adaptzip.errors import AdaptzipWarning, RefusedError, UsageError
from adaptzip.fitting.compression import make_from
from adaptzip.fitting.loading import load_source
from adaptzip.fitting.requests import Request
from adaptzip.fitting.seed_search import SeedSearch, search
from tests.bases.starts.made import tiny_llama
from tests.cases.started import config, folder, train

pytestmark = pytest.mark.starts

Make = Callable[[], nn.Module]


def classifier() -> nn.Module:
    made = LlamaConfig(
        vocab_size=60, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, num_labels=3, pad_token_id=0,
    )  # fmt: skip
    model: nn.Module = LlamaForSequenceClassification(made)
    return model


class Convolved(nn.Module):
    """Two convolutions and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(8, 24, 3, padding=1), nn.Conv2d(24, 24, 3, padding=1)
        self.last = nn.Linear(24, 40)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last(self.second(self.first(x)).mean((2, 3)))
        return y


CASES: dict[str, tuple[int, LoraConfig, Make, int]] = {
    "seed 1337": (1337, config(), tiny_llama, 6),
    "normal": (42, config(init_lora_weights="gaussian"), tiny_llama, 6),
    "head": (42, config(task_type="SEQ_CLS"), classifier, 4),
    "ranks": (3407, config(rank_pattern={"up_proj": 4}), tiny_llama, 6),
    "embeddings": (42, config(target_modules=["embed_tokens", "q_proj", "up_proj"]), tiny_llama, 6),
    "convolutions": (0, config(target_modules=["first", "second", "last"]), Convolved, 2),
    "DoRA": (42, config(use_dora=True), tiny_llama, 6),
}


def deltas(path: Path, make: Make) -> dict[str, Tensor]:
    """What PEFT adds to each weight of a base, by a folder's adapter."""
    torch.manual_seed(12345)
    model: Any = PeftModel.from_pretrained(make(), str(path))
    found = {}
    for name, module in model.named_modules():
        if hasattr(module, "get_delta_weight"):
            found[name] = module.get_delta_weight("default").detach()
    return found


def distance(first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
    assert first.keys() == second.keys()
    lost: float = sum(float((first[name] - second[name]).square().sum()) for name in first)
    return sqrt(lost / sum(float(one.square().sum()) for one in first.values()))


@pytest.mark.parametrize("case", CASES)
def test_what_peft_reads_of_an_adapter_in_its_frames(case: str, tmp_path: Path) -> None:
    seed, lora, make, framed = CASES[case]
    source = folder(tmp_path / "source", seed, lora, make=make)
    small = adaptzip.compress(source, tmp_path / "a.adz", max_error=0.1)
    assert small.basis is not None
    assert small.basis.start is not None
    assert small.basis.start.seed == seed
    assert sum(size > 0 for size in small.basis_sizes) == framed
    adaptzip.export(tmp_path / "a.adz", tmp_path / "back")
    error = distance(deltas(source, make), deltas(tmp_path / "back", make))
    assert error == pytest.approx(small.provenance.relative_error, rel=1e-3)
    assert error <= 0.1


@pytest.fixture(scope="module")
def kin(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two adapters that began alike, with numbers that no popular seed gives."""
    path = tmp_path_factory.mktemp("kin")
    return folder(path / "one", 987654321), folder(path / "two", 987654321, by=0.2)


def basis_file(other: Path, path: Path) -> Path:
    write_basis(build_basis([adaptzip.read(other)]), path)
    return path


def kept_start(other: Path, path: Path) -> Path:
    write_start(KeptStart({name: one.A for name, one in adaptzip.read(other).modules.items()}), path)
    return path


def archive(other: Path, path: Path) -> Path:
    adaptzip.compress(other, path.with_suffix(".adz"), max_error=0.05)
    return path.with_suffix(".adz")


REFERENCES: dict[str, Callable[[Path, Path], Path]] = {
    "reference.adz": archive,
    "folder": lambda other, path: other,
    "kept": kept_start,
    "shared.basis": basis_file,
}


@pytest.mark.parametrize("kind", REFERENCES)
def test_whatever_began_alike_is_a_frame(kind: str, kin: tuple[Path, Path], tmp_path: Path) -> None:
    source, other = kin
    reference = REFERENCES[kind](other, tmp_path / kind)
    out = tmp_path / "a.adz"
    small = adaptzip.compress(source, out, max_error=0.1, start=reference)
    assert small.basis is not None
    assert small.basis.source == ("file" if kind.endswith(".basis") else "reference")
    assert writer.size(small) < 0.9 * writer.size(adaptzip.compress(source, max_error=0.1, start="none"))
    back = adaptzip.reconstruct(out, basis=reference)
    assert diff(adaptzip.read(source), back).relative_error == pytest.approx(small.provenance.relative_error, rel=1e-3)
    with pytest.raises(RefusedError, match=rf"hash {small.basis.hash[:8]}\.\.\., which was not given") as missing:
        adaptzip.reconstruct(out)
    assert missing.value.exit_code == 3
    wrong = basis_file(source, tmp_path / "wrong.basis") if kind.endswith(".basis") else source
    with pytest.raises(RefusedError, match=rf"compressed with {small.basis.hash[:8]}") as another:
        adaptzip.reconstruct(out, basis=wrong)
    assert another.value.exit_code == 3


def test_what_peft_reads_of_an_adapter_in_a_shared_basis(kin: tuple[Path, Path], tmp_path: Path) -> None:
    source, other = kin
    write_basis(build_basis([adaptzip.read(source), adaptzip.read(other)]), tmp_path / "two.basis")
    small = adaptzip.compress(source, tmp_path / "a.adz", max_error=0.1, basis=tmp_path / "two.basis")
    assert small.config == {"sides": 2}
    adaptzip.export(tmp_path / "a.adz", tmp_path / "back", basis=tmp_path / "two.basis")
    error = distance(deltas(source, tiny_llama), deltas(tmp_path / "back", tiny_llama))
    assert error == pytest.approx(small.provenance.relative_error, rel=1e-3)


def pissa(path: Path, base: nn.Module) -> Path:
    """A trained PiSSA adapter as PEFT converts it for an unchanged base: of twice the rank."""
    model: Any = get_peft_model(copy.deepcopy(base), config(r=4, init_lora_weights="pissa"))
    model.peft_config["default"].init_lora_weights = True
    model.save_pretrained(path / "began")
    model.peft_config["default"].init_lora_weights = "pissa"
    train(model, 0.03)
    model.save_pretrained(path / "source", path_initial_model_for_weight_conversion=str(path / "began"))
    return path / "source"


@pytest.mark.filterwarnings("ignore:PiSSA changes the base weights", "ignore:Adapter default was active")
def test_directions_of_the_base_are_a_frame(tmp_path: Path) -> None:
    torch.manual_seed(12345)
    base = tiny_llama()
    base.save_pretrained(tmp_path / "base")  # type: ignore[operator]
    source = pissa(tmp_path, base)
    out = tmp_path / "a.adz"
    found = adaptzip.compress(source, out, max_error=0.1, base=tmp_path / "base")
    plain = adaptzip.compress(source, max_error=0.1, base=tmp_path / "base", start="none")
    assert found.basis is not None
    assert found.basis.source == "base"
    assert writer.size(found) < writer.size(plain)
    back = adaptzip.reconstruct(out, base=tmp_path / "base")
    assert (diff(adaptzip.read(source), back).relative_error or 1) <= 0.1
    with pytest.raises(RefusedError, match="no base model was given"):
        adaptzip.reconstruct(out)
    torch.manual_seed(1)
    tiny_llama().save_pretrained(tmp_path / "other")  # type: ignore[operator]
    with pytest.raises(RefusedError, match="another base model or revision"):
        adaptzip.reconstruct(out, base=tmp_path / "other")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder(tmp_path_factory.mktemp("found") / "adapter", 42)


def test_a_lossless_file_is_smaller_and_exact(found: Path, tmp_path: Path) -> None:
    exact = adaptzip.compress(found, tmp_path / "a.adz", lossless=True)
    assert writer.size(exact) < writer.size(adaptzip.compress(found, lossless=True, start="none"))
    before, after = adaptzip.read(found), adaptzip.reconstruct(tmp_path / "a.adz")
    for name, module in before.modules.items():
        assert same_bits(module.A, after.modules[name].A)
        assert same_bits(module.B, after.modules[name].B)


def test_a_start_that_was_recorded_beside_the_source(kin: tuple[Path, Path], tmp_path: Path) -> None:
    adapter = adaptzip.read(kin[0])
    bare = adaptzip.compress(kin[0], max_error=0.1)
    assert bare.basis is None
    start = adaptzip.compress(kin[0], max_error=0.1, start="987654321").basis
    assert start is not None
    assert start.start is not None
    modules = sorted(adapter.modules)
    source = tmp_path / "source"
    source.mkdir()
    for file in kin[0].iterdir():
        (source / file.name).write_bytes(file.read_bytes())
    places = {
        name: [offset, *adapter.modules[name].A.shape]
        for name, offset in zip(modules, start.start.offsets, strict=True)
    }
    note = {"format": 1, "generator": "uniform", "seed": 987654321, "modules": places}
    (source / "adapter_start.json").write_text(json.dumps(note))
    recorded = adaptzip.compress(source, max_error=0.1)
    assert recorded.basis == start
    write_start(KeptStart({name: one.A for name, one in adapter.modules.items()}), source, force=True)
    with pytest.warns(AdaptzipWarning, match="needs them to be decoded; they are left alone"):
        assert adaptzip.compress(source, max_error=0.1).basis is None
    assert writer.size(recorded) < 0.9 * writer.size(bare)


@pytest.mark.parametrize(
    "how",
    [
        {"budget": "900"},
        {"budget": "2kB"},
        {"budget": "3kB", "allocate": "energy"},
        {"max_error": 0.2, "ranks": {"base": 3}},
        {"to": "auto", "budget": "2kB"},
        {"max_error": 0.02},
    ],
    ids=str,
)
def test_limits_are_kept_in_frames(found: Path, how: dict[str, Any]) -> None:
    if "ranks" in how:
        how = {**how, "ranks": dict.fromkeys(adaptzip.read(found).modules, 6)}
    framed, plain = (adaptzip.compress(found, start=start, **how) for start in (None, "none"))
    if "max_error" in how:
        assert framed.provenance.relative_error <= how["max_error"]
        assert writer.size(framed) <= 1.003 * writer.size(plain)
        assert framed.basis is not None
        return
    limit = {"900": None, "2kB": 2000, "3kB": 3000}[how["budget"]]
    assert framed.provenance.relative_error < plain.provenance.relative_error * 1.003
    if limit is None:
        assert framed.provenance.parameters <= 900
    else:
        assert writer.size(framed) <= limit


def test_frames_and_weights_of_calibration_go_together(found: Path) -> None:
    source = load_source(found, Request())
    generator = torch.Generator().manual_seed(5)
    weights = {}
    for name, module in source.adapter.modules.items():
        inputs = torch.randn(200, module.shape[1], generator=generator) * torch.logspace(0, -1, module.shape[1])
        moments = inputs.T @ inputs
        weights[name] = Sensitivity(1.0, moments * (module.shape[1] / moments.trace()))
    framed = make_from(replace(source, sensitivities=weights), Request(max_error=0.1))
    plain = make_from(replace(source, sensitivities=weights, frames=None), Request(max_error=0.1))
    assert framed.error <= 0.1
    assert framed.compressed.basis is not None
    assert framed.size < plain.size
    assert framed.saved == pytest.approx(plain.size - framed.size, rel=0.2)


@pytest.mark.parametrize(("by", "error"), [(0.7, 0.3), (2.0, 0.1), (4.0, 0.3)])
def test_a_start_never_makes_a_file_larger(by: float, error: float, tmp_path: Path) -> None:
    source = folder(tmp_path / "source", 42, config(r=4), by=by)
    framed, plain = (writer.size(adaptzip.compress(source, max_error=error, start=start)) for start in (None, "none"))
    assert framed <= 1.003 * plain


def test_no_frame_is_embedded_and_a_start_goes_before_a_basis(
    found: Path, kin: tuple[Path, Path], tmp_path: Path
) -> None:
    file = basis_file(found, tmp_path / "shared.basis")
    assert load_source(found, Request(basis=file)).frames is not None
    assert load_source(found, Request(basis=file, embed_basis=True)).frames is None
    assert load_source(found, Request(basis=build_basis([adaptzip.read(found)]))).frames is None
    frames = load_source(found, Request(basis=file, start="42")).frames
    assert frames is not None
    assert frames.reference.start is not None


def test_a_search_and_a_given_start_contradict_each_other() -> None:
    with pytest.raises(UsageError, match="the start is given"):
        Request(search_starts=True, start="42")
    with pytest.raises(UsageError, match="search_starts is 5"):
        Request(search_starts=5)  # type: ignore[arg-type]


def test_a_search_tells_the_time_that_is_left(found: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 10.0, 10.0, 10.0, 10.0, 20.0, 20.0])
    monkeypatch.setattr("adaptzip.fitting.seed_search.monotonic", lambda: next(clock))

    def searched(*_: object, progress: Callable[[int], None], **__: object) -> None:
        for done in (100, 200, 300):
            progress(done)

    monkeypatch.setattr("adaptzip.bases.starts.searching.search_start", searched)
    said: list[str] = []
    how = SeedSearch(last=1000, note=tmp_path / "note", progress=lambda phase, *_: said.append(phase))
    assert search(adaptzip.read(found), how, "cpu") is None
    # The first part takes 10 s, the second was noted by an earlier run, and the third takes 10 s again.
    assert said == ["trying all seeds, 2 min left", "trying all seeds", "trying all seeds, 70 s left"]
