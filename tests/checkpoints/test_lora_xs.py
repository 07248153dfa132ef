"""The layout of the LoRA-XS and LoRA-SB repositories."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import adaptzip
from adaptzip.bases.updates import build_basis
from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.errors import RefusedError
from adaptzip.testing.adapters import adapter as make_adapter

NEW, OLD = ".default_lora_latent_mapping.weight", "_lora_latent_mapping.weight"
MODULE = "model.layers.0.self_attn.q_proj"
PREFIX = f"base_model.model.{MODULE}"


def tensors(spelling: str = NEW) -> dict[str, Tensor]:
    """A core of LoRA-XS whose update is worked out by hand: alpha / r = 4, B R A."""
    return {
        f"{PREFIX}.lora_A.weight": torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0]]),
        f"{PREFIX}.lora_B.weight": torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0], [0.0, 0.0]]),
        f"{PREFIX}{spelling}": torch.tensor([[1.0, 2.0], [3.0, 4.0]]),
    }


def save(folder: Path, files: dict[str, Tensor], **config: Any) -> Path:
    folder.mkdir(exist_ok=True)
    save_file(files, folder / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 8, "target_modules": ["q_proj"], **config}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return folder


@pytest.mark.parametrize("spelling", [NEW, OLD])
def test_both_spellings_are_read_as_the_product_of_three(tmp_path: Path, spelling: str) -> None:
    read = adaptzip.read(save(tmp_path / "xs", tensors(spelling)))
    expected = torch.zeros(4, 3)
    expected[:2, :2] = torch.tensor([[8.0, 8.0], [24.0, 16.0]])  # 4 * R @ diag(2, 1)
    assert list(read.modules) == [MODULE]
    assert torch.equal(read.modules[MODULE].delta(), expected)
    assert read.meta.dialect == "lora-xs"


def test_the_head_is_kept(tmp_path: Path) -> None:
    head = torch.ones(2, 3)
    files = tensors() | {"base_model.model.classifier.weight": head}
    read = adaptzip.read(save(tmp_path / "xs", files, modules_to_save=["classifier"]))
    assert torch.equal(read.extras["base_model.model.classifier.weight"], head)


def test_a_read_adapter_goes_on_as_a_plain_lora(tmp_path: Path) -> None:
    source = save(tmp_path / "xs", tensors())
    adaptzip.export(source, tmp_path / "peft")
    again = adaptzip.read(tmp_path / "peft")
    assert again.meta.dialect == "peft"
    assert torch.equal(again.modules[MODULE].delta(), adaptzip.read(source).modules[MODULE].delta())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({f"{PREFIX}{NEW}": torch.ones(2, 3)}, r"is \[2, 3\], expected \[2, 2\]"),
        ({f"{PREFIX}{NEW}": torch.tensor([[1.0, float("nan")], [0.0, 1.0]])}, "NaN"),
        ({f"{PREFIX}{OLD}": torch.ones(2, 2)}, "mean the same tensor"),
        ({f"base_model.model.other{NEW}": torch.ones(2, 2)}, "no lora_A and lora_B"),
        ({f"{PREFIX}.lora_latent_mapping_2.weight": torch.ones(2, 2)}, "has no meaning in a LoRA-XS file"),
        ({f"{PREFIX}2.lora_A.weight": torch.ones(2, 3), f"{PREFIX}2.lora_B.weight": torch.ones(4, 2)}, "no core"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*not among the targets")
def test_damaged_files_are_refused(tmp_path: Path, change: dict[str, Tensor], message: str) -> None:
    with pytest.raises(adaptzip.AdaptzipError, match=message):
        adaptzip.read(save(tmp_path / "xs", tensors() | change))


@pytest.fixture
def source() -> adaptzip.Adapter:
    shapes = {"a.0.q_proj": (24, 16, 4), "a.1.q_proj": (24, 16, 3), "a.1.v_proj": (8, 16, 2)}
    return make_adapter(shapes, extras={"base_model.model.score.weight": torch.ones(3, 16)})


def test_a_compressed_core_is_written_and_read_back(tmp_path: Path, source: adaptzip.Adapter) -> None:
    basis = build_basis([source])
    made = adaptzip.compress(source, to="lora-sb", basis=basis, max_error=0.1)
    adaptzip.export(made, tmp_path / "xs", as_="lora-xs")
    again = adaptzip.read(tmp_path / "xs")
    assert again.meta.dialect == "lora-xs"
    wanted = adaptzip.reconstruct(made)
    for name, module in wanted.modules.items():
        assert torch.allclose(again.modules[name].delta(), module.delta(), atol=1e-6 * float(module.delta().norm()))
    assert torch.equal(again.extras["base_model.model.score.weight"], torch.ones(3, 16))


def test_a_module_without_an_update_is_written_as_zeros(tmp_path: Path, source: adaptzip.Adapter) -> None:
    gone = LoraFactors(torch.ones(2, 16), 1e-6 * torch.ones(8, 2))
    weak = Adapter({**source.modules, "a.1.v_proj": gone}, source.extras, source.meta)
    adaptzip.export(adaptzip.compress(weak, to="lora-sb", max_error=0.1), tmp_path / "xs", as_="lora-xs")
    again = adaptzip.read(tmp_path / "xs").modules["a.1.v_proj"]
    assert again.shape == (8, 16)
    assert not again.delta().any()


def test_the_files_are_those_of_the_repository(tmp_path: Path, source: adaptzip.Adapter) -> None:
    made = adaptzip.compress(source, to="lora-sb", max_error=0.1)
    report = adaptzip.export(made, tmp_path / "xs", as_="lora-xs")
    assert report.files == ("adapter_config.json", "adapter_model.safetensors", "reconstr_config.json")
    config = json.loads((tmp_path / "xs" / "adapter_config.json").read_text())
    rank = config["r"]
    assert config["peft_type"] == "LORA"
    assert config["lora_alpha"] == rank
    assert json.loads((tmp_path / "xs" / "reconstr_config.json").read_text())["svd"]["rank"] == rank
    files = load_file(tmp_path / "xs" / "adapter_model.safetensors")
    for name, (out, width) in {"a.0.q_proj": (24, 16), "a.1.v_proj": (8, 16)}.items():
        assert files[f"base_model.model.{name}.lora_A.weight"].shape == (rank, width)
        assert files[f"base_model.model.{name}.lora_B.weight"].shape == (out, rank)
        assert files[f"base_model.model.{name}{OLD}"].shape == (rank, rank)
    b = files["base_model.model.a.0.q_proj.lora_B.weight"]
    used = b[:, b.norm(dim=0) > 0]
    assert torch.allclose(used.T @ used, torch.eye(used.shape[1]), atol=2e-3)


def test_other_methods_are_refused(tmp_path: Path, source: adaptzip.Adapter) -> None:
    made = adaptzip.compress(source, max_error=0.1)
    with pytest.raises(adaptzip.AdaptzipError, match="lora-xs"):
        adaptzip.export(made, tmp_path / "xs", as_="lora-xs")


class Wrapped(nn.Module):
    """A layer as the repositories' wrapped model has it: PEFT's names, and the core between A and B."""

    def __init__(self, out: int, width: int, rank: int) -> None:
        super().__init__()
        self.base_layer = nn.Linear(width, out)
        self.lora_A = nn.ModuleDict({"default": nn.Linear(width, rank, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(rank, out, bias=False)})
        self.default_lora_latent_mapping = nn.Linear(rank, rank, bias=False)

    def update(self) -> Tensor:
        layers = (self.lora_B["default"], self.default_lora_latent_mapping, self.lora_A["default"])
        b, r, a = (layer.get_parameter("weight") for layer in layers)
        return b @ r @ a


def as_their_scripts_load(files: dict[str, Tensor]) -> dict[str, Tensor]:
    """What their scripts make of the keys before they load them without strictness: the adapter's name is put back."""
    places = (("lora_A", "lora_A.default"), ("lora_B", "lora_B.default"), ("_lora_latent", ".default_lora_latent"))
    renamed = {}
    for key, tensor in files.items():
        for old, new in places:
            key = key.replace(old, new)
        renamed[key] = tensor
    return renamed


@pytest.mark.parametrize("bias", ["base_model.model.a.0.q_proj.bias", "base_model.model.a.0.q_proj.base_layer.bias"])
def test_the_repositories_scripts_load_the_whole_update(tmp_path: Path, source: adaptzip.Adapter, bias: str) -> None:
    extras = {bias: torch.full((24,), 7.0)}
    made = adaptzip.compress(Adapter(source.modules, extras, source.meta), to="lora-sb", max_error=0.1)
    adaptzip.export(made, tmp_path / "xs", as_="lora-xs")
    config = json.loads((tmp_path / "xs" / "adapter_config.json").read_text())
    files = as_their_scripts_load(load_file(tmp_path / "xs" / "adapter_model.safetensors"))
    wanted = adaptzip.reconstruct(made)
    loaded = set()
    for name, module in wanted.modules.items():
        layer = Wrapped(*module.shape, config["r"])
        own = {key.removeprefix(f"base_model.model.{name}."): t for key, t in files.items() if f".{name}." in f".{key}"}
        result = layer.load_state_dict(own, strict=False)
        assert not result.unexpected_keys
        assert not [key for key in result.missing_keys if "lora" in key]
        scale = config["lora_alpha"] / config["r"]
        assert torch.allclose(layer.update() * scale, module.delta(), atol=1e-6 * float(module.delta().norm()))
        loaded |= {f"base_model.model.{name}.{key}" for key in own}
        if name == "a.0.q_proj":
            assert torch.equal(layer.base_layer.bias, torch.full((24,), 7.0))
    assert loaded == files.keys()


@pytest.mark.parametrize(
    "more", [{}, {"exclude_modules": ["x"], "layers_to_transform": [0, 1]}, {"use_rslora": True, "bias": "none"}]
)
def test_the_configuration_has_only_fields_that_their_peft_knows(
    tmp_path: Path, source: adaptzip.Adapter, more: dict[str, Any]
) -> None:
    """Those of LoraConfig in PEFT 0.10.0, all of which 0.13.2 has as well."""
    known = {
        "peft_type", "auto_mapping", "base_model_name_or_path", "revision", "task_type", "inference_mode", "r",
        "target_modules", "lora_alpha", "lora_dropout", "fan_in_fan_out", "bias", "use_rslora", "modules_to_save",
        "init_lora_weights", "layers_to_transform", "layers_pattern", "rank_pattern", "alpha_pattern",
        "megatron_config", "megatron_core", "loftq_config", "use_dora", "layer_replication",
    }  # fmt: skip
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 4, "target_modules": ["q_proj", "v_proj"], **more}
    config |= {"peft_version": "0.18.0", "eva_config": None, "lora_bias": False, "qalora_group_size": 16}
    given = Adapter(source.modules, source.extras, replace(source.meta, config=config))
    made = adaptzip.compress(given, to="lora-sb", max_error=0.1)
    adaptzip.export(made, tmp_path / "xs", as_="lora-xs")
    written = json.loads((tmp_path / "xs" / "adapter_config.json").read_text())
    assert written.keys() <= known
    names = sorted(source.modules) if "exclude_modules" in more else ["q_proj", "v_proj"]
    assert written["target_modules"] == names
    assert written["use_rslora"] is False


def test_rows_of_tokens_are_refused(tmp_path: Path, source: adaptzip.Adapter) -> None:
    rows = {"base_model.model.emb.token_adapter.trainable_tokens_delta": torch.ones(1, 4)}
    config = {"peft_type": "LORA", "trainable_token_indices": [3]}
    given = Adapter(source.modules, rows, replace(source.meta, config=config))
    made = adaptzip.compress(given, to="lora-sb", max_error=0.1)
    with pytest.raises(RefusedError, match="trained tokens"):
        adaptzip.export(made, tmp_path / "xs", as_="lora-xs")
