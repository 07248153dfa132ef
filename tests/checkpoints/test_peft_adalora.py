"""AdaLoRA as PEFT saves it means what PEFT makes of it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AdaLoraConfig, PeftModel, TaskType, get_peft_model
from peft.tuners.adalora import AdaLoraLayer
from safetensors.torch import load_file
from torch import Tensor

import adaptzip
from adaptzip.errors import CheckpointError, RefusedError
from adaptzip.restoring.exporting import export
from adaptzip.restoring.reading import read
from tests.cases import tiny_peft

TARGETS = {"llama": ["q_proj", "up_proj"], "gpt2": ["c_attn"], "bert": ["query", "dense"]}
MODELS: dict[str, Callable[[], Any]] = {"llama": tiny_peft.llama, "gpt2": tiny_peft.gpt2, "bert": tiny_peft.bert}


def saved(name: str, folder: Path, *, cut: bool = True, alpha: int = 20) -> dict[str, Tensor]:
    """Save an AdaLoRA of a tiny model, of whose six ranks one module keeps none; PEFT's updates by module name."""
    model = MODELS[name]()
    task = TaskType.SEQ_CLS if name == "bert" else TaskType.CAUSAL_LM
    sizes = {"init_r": 6, "target_r": 3, "total_step": 10, "lora_alpha": alpha}
    turned = name == "gpt2"
    config = AdaLoraConfig(**sizes, target_modules=TARGETS[name], task_type=task, fan_in_fan_out=turned)
    tuned = get_peft_model(model, config)
    tiny_peft.randomise(tuned)
    if cut:
        generator = torch.Generator().manual_seed(1)
        ends = [key for key, module in tuned.base_model.model.named_modules() if isinstance(module, AdaLoraLayer)]
        masks = {f"{end}.lora_E": (torch.rand(6, generator=generator) > 0.4).tolist() for end in ends}
        masks[f"{ends[0]}.lora_E"] = [False] * 6
        tuned.peft_config["default"].rank_pattern = masks
    with warnings.catch_warnings():
        # PEFT takes a module that keeps no rank for one that was not gathered, and its own masks for strange patterns.
        warnings.simplefilter("ignore")
        tuned.save_pretrained(folder)
        loaded = PeftModel.from_pretrained(MODELS[name](), folder)
    layers = loaded.base_model.model.named_modules()
    return {key: layer.get_delta_weight("default") for key, layer in layers if isinstance(layer, AdaLoraLayer)}


@pytest.mark.parametrize("cut", [True, False])
@pytest.mark.parametrize("name", MODELS)
def test_updates_are_those_that_peft_loads(name: str, cut: bool, tmp_path: Path) -> None:
    expected = saved(name, tmp_path / "a", cut=cut)
    found = read(tmp_path / "a")
    assert found.meta.dialect == "peft-adalora"
    assert found.modules.keys() == expected.keys()
    for key, module in found.modules.items():
        torch.testing.assert_close(module.weight_delta(), expected[key], atol=1e-6, rtol=1e-5)
    assert any(module.rank == 0 for module in found.modules.values()) == cut


@pytest.mark.parametrize(("alpha", "cut"), [(0, True), (-4, False)])
def test_an_alpha_that_is_not_positive_is_the_rank_that_is_left(alpha: int, cut: bool, tmp_path: Path) -> None:
    expected = saved("llama", tmp_path, cut=cut, alpha=alpha)
    for key, module in read(tmp_path).modules.items():
        torch.testing.assert_close(module.weight_delta(), expected[key], atol=1e-6, rtol=1e-5)


def test_it_goes_through_a_file_into_a_plain_lora(tmp_path: Path) -> None:
    expected = saved("bert", tmp_path / "a")
    adaptzip.compress(tmp_path / "a", tmp_path / "a.adz", lossless=True)
    export(tmp_path / "a.adz", tmp_path / "out", as_="peft")
    loaded = PeftModel.from_pretrained(MODELS["bert"](), tmp_path / "out")
    for key, delta in expected.items():
        layer = loaded.base_model.model.get_submodule(key)
        torch.testing.assert_close(layer.get_delta_weight("default"), delta, atol=1e-6, rtol=1e-5)
    head = load_file(tmp_path / "a" / "adapter_model.safetensors")["base_model.model.classifier.weight"]
    assert torch.equal(loaded.base_model.model.classifier.modules_to_save["default"].weight, head)


STEM = "model.layers.0.self_attn.q_proj.lora_E"
KEY = f"base_model.model.{STEM}"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda config, tensors: config.update(init_r=0), "init_r is 0"),
        (lambda config, tensors: config.update(init_r=7), "has rank 6, but adapter_config.json leaves it 7"),
        (lambda config, tensors: config.update(lora_alpha="much"), "lora_alpha is 'much'"),
        (lambda config, tensors: config.update(rank_pattern=[1]), "rank_pattern is"),
        (lambda config, tensors: config.update(rank_pattern={STEM: [True, 1]}), "rank_pattern of"),
        (lambda config, tensors: config.update(rank_pattern={STEM: [True] * 5 + [False]}), "leaves it 5"),
        (lambda config, tensors: tensors.pop(KEY), "no lora_E"),
        (lambda config, tensors: tensors.update({KEY: torch.ones(6)}), "expected A"),
        (lambda config, tensors: tensors.update({KEY: torch.full((6, 1), torch.nan)}), "NaN or infinity"),
        (lambda config, tensors: tensors.update({f"{KEY}x": torch.ones(1)}), "has no meaning in PEFT's AdaLoRA"),
    ],
)
def test_what_is_wrong_is_named(change: tiny_peft.Change, message: str, tmp_path: Path) -> None:
    saved("llama", tmp_path, cut=False)
    tiny_peft.changed(tmp_path, change)
    with pytest.raises(CheckpointError, match=message):
        read(tmp_path)


def test_another_methods_configuration_beside_it_is_refused(tmp_path: Path) -> None:
    saved("llama", tmp_path, cut=False)
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 6, "lora_alpha": 20}')
    with pytest.raises(RefusedError, match=r"the key .*\.lora_E belongs to AdaLoRA"):
        read(tmp_path)


def test_without_its_configuration_the_scale_is_unknown(tmp_path: Path) -> None:
    saved("llama", tmp_path, cut=False)
    (tmp_path / "adapter_config.json").unlink()
    with pytest.raises(CheckpointError, match="there is no adapter_config.json beside it, so its scale is unknown"):
        read(tmp_path / "adapter_model.safetensors")
