"""Opening an adapter as a user names it: a folder, a file of any name, and other programs' files."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.errors import AdaptzipError, CheckpointError, RefusedError
from adaptzip.restoring.opening import source_bytes, weight_file
from adaptzip.restoring.reading import read
from tests.cases.tiny_peft import llama, train


def test_a_folder_its_file_and_a_file_of_another_name_are_the_same_adapter(tmp_path: Path) -> None:
    train(llama(), tmp_path / "a", r=2, lora_alpha=3, target_modules=["q_proj"])
    weights = tmp_path / "a" / "adapter_model.safetensors"
    by_folder, by_file = read(tmp_path / "a"), read(str(weights))
    weights.rename(tmp_path / "a" / "lora.safetensors")
    by_name, by_only_file = read(tmp_path / "a" / "lora.safetensors"), read(tmp_path / "a")
    size = (tmp_path / "a" / "lora.safetensors").stat().st_size
    assert source_bytes(tmp_path / "a") == source_bytes(tmp_path / "a" / "lora.safetensors") == size
    for other in (by_file, by_name, by_only_file):
        assert other.modules.keys() == by_folder.modules.keys()
        for name, factors in other.modules.items():
            assert torch.equal(factors.delta(), by_folder.modules[name].delta())


def test_weights_alone_of_mixed_ranks_and_awkward_names(tmp_path: Path) -> None:
    """Each scale is alpha over the module's own rank, also where one name fits another as a pattern."""
    ranks = {"a.b+c": 2, "a.bbc": 4, "x.a.b+c": 8}
    tensors = {}
    for name, rank in ranks.items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = torch.ones(rank, 3)
        tensors[f"base_model.model.{name}.lora_B.weight"] = torch.ones(5, rank)
    save_file(tensors, tmp_path / "lora.safetensors")
    modules = read(tmp_path / "lora.safetensors", alpha=8).modules
    assert {name: factors.scaling for name, factors in modules.items()} == {n: 8 / r for n, r in ranks.items()}


def test_what_is_kept_of_the_source(tmp_path: Path) -> None:
    train(llama(), tmp_path, r=2, target_modules=["q_proj"])
    meta = read(tmp_path).meta
    text = (tmp_path / "adapter_config.json").read_bytes().decode()
    content = (tmp_path / "adapter_model.safetensors").read_bytes()
    assert meta.config_text == text
    assert list(meta.config) == list(json.loads(text))
    assert meta.header == content[8 : 8 + int.from_bytes(content[:8], "little")]
    assert meta.dialect == "peft"
    assert list(read(tmp_path).modules) == sorted(read(tmp_path).modules)


def test_safetensors_is_preferred_to_an_old_bin_beside_it(tmp_path: Path) -> None:
    train(llama(), tmp_path, r=2, target_modules=["q_proj"])
    (tmp_path / "adapter_model.bin").write_bytes(b"stale")
    assert weight_file(tmp_path).name == "adapter_model.safetensors"
    assert read(tmp_path).parameters == 2 * (2 * 16 + 16 * 2)


def test_a_compressed_file_is_an_adapter_too(tmp_path: Path) -> None:
    compression = pytest.importorskip("adaptzip.fitting.compression")
    train(llama(), tmp_path / "a", r=2, target_modules=["q_proj"])
    adapter = read(tmp_path / "a")
    compression.compress(adapter, tmp_path / "a.adz", lossless=True)
    again = read(tmp_path / "a.adz")
    assert isinstance(again, Adapter)
    for name, factors in again.modules.items():
        assert torch.equal(factors.delta(), adapter.modules[name].delta())


def test_the_systems_own_errors_name_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(llama(), tmp_path, r=2, target_modules=["q_proj"])

    opened = Path.open

    def refuse(self: Path, *how: Any) -> Any:
        if self.name == "adapter_config.json":
            raise PermissionError(13, "Permission denied", str(self))
        return opened(self, *how)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(CheckpointError, match=r"adapter_config\.json: cannot be read: Permission denied"):
        read(tmp_path)
    with pytest.raises(CheckpointError, match="cannot be read: File name too long"):
        read(tmp_path / ("x" * 5000))


def test_deeply_nested_json_is_named(tmp_path: Path) -> None:
    train(llama(), tmp_path, r=2, target_modules=["q_proj"])
    nested = b'{"a":' + b"[" * 200_000
    (tmp_path / "adapter_config.json").write_bytes(nested)
    with pytest.raises(CheckpointError, match="is not valid JSON"):
        read(tmp_path)
    (tmp_path / "adapter_model.safetensors").write_bytes(len(nested).to_bytes(8, "little") + nested)
    with pytest.raises(CheckpointError, match="header is not JSON"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        (["text_model.q_proj.lokr_w1"], "a LyCORIS LoKr"),
        (["x.hada_w1_a"], "a LyCORIS LoHa"),
        (["w_a_000", "w_b_000"], "a LoRA of a segment-anything model"),
        (["layers.0.q_proj.lora_A.weight"], "a LoRA whose keys lack PEFT's prefix"),
    ],
)
def test_adapters_of_other_programs_are_named(keys: list[str], named: str, tmp_path: Path) -> None:
    save_file({key: torch.ones(2, 2) for key in keys}, tmp_path / "lora.safetensors")
    with pytest.raises(RefusedError, match=named) as caught:
        read(tmp_path / "lora.safetensors")
    assert caught.value.hint


def test_a_whole_model_is_no_adapter(tmp_path: Path) -> None:
    save_file({"model.embed_tokens.weight": torch.ones(2, 2)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="is no LoRA adapter"):
        read(tmp_path)


REAL = {
    "bk7195-delta": 24,
    "gpt2-tigrinya": 36,
    "minilm-trec-r8": 12,
    "movies-lora-sara": 24,
    "roberta-agnews-aguleon": 36,
    "roberta-pt-paulo": 24,
    "sd15-te-hansjohn": 24,
    "sdxl-te-hansjohn": 24,
    "smollm2-trec-r8": 60,
}


@pytest.mark.parametrize("name", REAL)
def test_real_peft_adapters_are_read(name: str, material: Path) -> None:
    adapter = read(material / "adapters" / name)
    assert len(adapter.modules) == REAL[name]
    assert all(isinstance(factors, LoraFactors) for factors in adapter.modules.values())


@pytest.mark.parametrize(
    ("name", "dialect", "modules"),
    [
        ("cloneofsimo-disney", "cloneofsimo", 192),
        ("cloneofsimo-analog", "cloneofsimo", 192),
        ("diffusers-catundchat/pytorch_lora_weights.safetensors", "attention-processors", 128),
        ("diffusers-catundchat/pytorch_lora_weights.bin", "attention-processors", 128),
        ("lycoris-lokr/smart_falcon_4_lokr.safetensors", "kohya", 350),
        ("bloom-lora-wujindou", "peft-merged-linear", 24),
        ("mlx-wyek1n/adapters.safetensors", "mlx", 8),
    ],
)
@pytest.mark.filterwarnings("ignore:.*as plain factors:adaptzip.errors.AdaptzipWarning")
def test_real_adapters_of_other_programs_are_read(name: str, dialect: str, modules: int, material: Path) -> None:
    adapter = read(material / "adapters" / name)
    assert (adapter.meta.dialect, len(adapter.modules)) == (dialect, modules)


@pytest.mark.filterwarnings("ignore:.*as plain factors:adaptzip.errors.AdaptzipWarning")
def test_dumps_of_real_image_adapters_are_read(material: Path, tmp_path: Path) -> None:
    """With random numbers; one of them has a magnitude that fits neither side of its layer."""
    refused = {}
    generator = torch.Generator().manual_seed(0)
    for dump in sorted((material / "keydumps").glob("*.json")):
        shapes = json.loads(dump.read_text())
        if sum(math.prod(shape) for shape in shapes.values()) > 3e7:
            continue  # Those of full size are of the same kinds.
        tensors = {key: torch.randn(shape, generator=generator) for key, shape in shapes.items()}
        save_file(tensors, tmp_path / f"{dump.stem}.safetensors")
        try:
            assert read(tmp_path / f"{dump.stem}.safetensors").modules
        except CheckpointError as error:
            refused[dump.stem] = str(error)
    assert list(refused) == ["anima_lora_lokr_format"]
    assert "DoRA magnitude [2048]" in refused["anima_lora_lokr_format"]


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("sam-lora-mathieu/lora_rank2.safetensors", "a LoRA of a segment-anything model"),
    ],
)
def test_real_adapters_of_other_programs_are_named(name: str, named: str, material: Path) -> None:
    with pytest.raises(AdaptzipError, match=named) as caught:
        read(material / "adapters" / name)
    assert caught.value.exit_code == 3
