"""kohya's names without dots, told by the base model: of one component, of a pipeline, of a checkpoint in one file."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import adaptzip
from adaptzip.errors import BaseModelError, CheckpointError

ODD = "down_blocks.0.odd_name_2.to_q"
"""A module that the words which are shipped take apart wrongly."""
FLAT = "down_blocks_0_odd_name_2_to_q"


def lora(folder: Path, *stems: str) -> Path:
    tensors: dict[str, torch.Tensor] = {}
    for stem in stems:
        tensors |= {f"{stem}.lora_down.weight": torch.randn(2, 6), f"{stem}.lora_up.weight": torch.randn(4, 2)}
    save_file(tensors, folder / "x.safetensors")
    return folder / "x.safetensors"


def model(folder: Path, modules: Iterable[str], file: str = "diffusion_pytorch_model.safetensors") -> Path:
    folder.mkdir(parents=True)
    save_file({f"{name}.weight": torch.zeros(4, 6) for name in modules}, folder / file)
    return folder


def pipeline(folder: Path) -> Path:
    model(folder / "unet", [ODD])
    model(folder / "text_encoder", ["text_model.odd_name.fc1"], "model.safetensors")
    (folder / "scheduler").mkdir()
    index = {"_class_name": "StableDiffusionPipeline", "scheduler": ["diffusers", "DDIMScheduler"]}
    index |= {"unet": ["diffusers", "UNet2DConditionModel"], "text_encoder": ["transformers", "CLIPTextModel"]}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def test_one_component_tells_its_names(tmp_path: Path) -> None:
    path = lora(tmp_path, f"lora_unet_{FLAT}", "lora_unet_mid_block_attentions_0_proj_in")
    assert f"unet.{ODD}" not in adaptzip.read(path).modules
    named = adaptzip.read(path, base=model(tmp_path / "unet", [ODD]))
    assert sorted(named.modules) == [f"unet.{ODD}", "unet.mid_block.attentions.0.proj_in"]


def test_a_pipeline_tells_the_names_of_each_component(tmp_path: Path) -> None:
    path = lora(tmp_path, f"lora_unet_{FLAT}", "lora_te_text_model_odd_name_fc1")
    named = adaptzip.read(path, base=pipeline(tmp_path / "base"))
    assert sorted(named.modules) == ["text_encoder.text_model.odd_name.fc1", f"unet.{ODD}"]


def test_a_checkpoint_in_one_file_tells_the_original_names(tmp_path: Path) -> None:
    path = lora(tmp_path, "lora_unet_odd_blocks_0_attn", "lora_te1_text_model_odd_name_fc1")
    names = [
        "model.diffusion_model.odd_blocks.0.attn",
        "conditioner.embedders.0.transformer.text_model.odd_name.fc1",
    ]
    named = adaptzip.read(path, base=model(tmp_path / "base", names, "sdxl.safetensors"))
    assert sorted(named.modules) == ["diffusion_model.odd_blocks.0.attn", "text_encoder.text_model.odd_name.fc1"]


def test_the_keys_come_back_without_the_base(tmp_path: Path) -> None:
    path = lora(tmp_path, f"lora_unet_{FLAT}")
    adaptzip.compress(path, tmp_path / "x.adz", lossless=True, base=model(tmp_path / "unet", [ODD]))
    adaptzip.export(tmp_path / "x.adz", tmp_path / "out")
    assert (tmp_path / "out/lora.safetensors").read_bytes() == path.read_bytes()


def test_a_name_of_two_modules_is_refused(tmp_path: Path) -> None:
    path = lora(tmp_path, "lora_unet_blocks_0_to_q")
    base = model(tmp_path / "unet", ["blocks.0.to_q", "blocks_0.to_q"])
    with pytest.raises(CheckpointError, match=r"blocks_0_to_q may be blocks\.0\.to_q or blocks_0\.to_q"):
        adaptzip.read(path, base=base)


def test_a_pipeline_without_weights_is_no_base(tmp_path: Path) -> None:
    path = lora(tmp_path, "lora_unet_blocks_0_to_q")
    (tmp_path / "base").mkdir()
    (tmp_path / "base/model_index.json").write_text("{}")
    with pytest.raises(BaseModelError, match="none of whose components has its weights"):
        adaptzip.read(path, base=tmp_path / "base")
