"""What lies beside an image adapter's factors goes where its layers go."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

import adaptzip
from adaptzip.checkpoints import resolved
from adaptzip.core.meta import Meta
from adaptzip.errors import RefusedError
from tests.checkpoints.test_image_dialects import R, of

PREFIX = "base_model.model."
SDXL = "unet.up_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
T5 = "encoder.block.0.layer.0.SelfAttention.q"
CLIP = "text_encoder.text_model.encoder.layers.0.mlp.fc1"


def beside(adapter: adaptzip.Adapter, **extras: Tensor) -> adaptzip.Adapter:
    """With differences of tensors of its model, by name."""
    there = {PREFIX + name: tensor for name, tensor in extras.items()}
    return resolved(replace(adapter, extras=there, meta=Meta("kohya")))


def written(adapter: adaptzip.Adapter, folder: Path, dialect: str) -> dict[str, Tensor]:
    report = adaptzip.export(adapter, folder / dialect, as_=dialect)
    return load_file(report.path / report.files[0])


def test_norms_and_biases_of_a_unet_get_the_names_of_its_layers(tmp_path: Path) -> None:
    tensors = ("unet.down_blocks.0.resnets.0.norm1.weight", f"{SDXL}.bias", "unet.conv_norm_out.bias")
    given = beside(of([SDXL], "kohya"), **{name: R(8) for name in tensors})
    for dialect, stem in (("comfyui", "diffusion_model.{}"), ("kohya", "lora_unet_{}")):
        found = written(replace(given, meta=Meta("diffusers")), tmp_path, dialect)
        for key, path in (
            (f"{PREFIX}unet.down_blocks.0.resnets.0.norm1.weight", "input_blocks.1.0.in_layers.0.diff"),
            (f"{PREFIX}unet.conv_norm_out.bias", "out.0.diff_b"),
            (f"{PREFIX}{SDXL}.bias", "output_blocks.0.1.transformer_blocks.0.attn1.to_q.diff_b"),
        ):
            name, _, end = path.rpartition(".")
            name = stem.format(name if dialect == "comfyui" else name.replace(".", "_"))
            assert torch.equal(found[f"{name}.{end}"], given.extras[key])


def test_norms_of_stable_diffusion_1_go_there_and_back(tmp_path: Path) -> None:
    layer = "unet.down_blocks.0.attentions.0.proj_in"
    given = beside(of([layer], "kohya"), **{"unet.down_blocks.0.attentions.0.norm.weight": R(8)})
    report = adaptzip.export(given, tmp_path / "there.safetensors", as_="comfyui")
    back = adaptzip.read(adaptzip.export(report.path, tmp_path / "back.safetensors", as_="kohya").path)
    assert list(back.modules) == [layer]
    (key,) = given.extras
    assert torch.equal(back.extras[key], given.extras[key])


def test_a_bias_is_turned_as_its_layer_is(tmp_path: Path) -> None:
    last = "transformer.norm_out.linear"
    modules = {
        last: adaptzip.LoraFactors(R(2, 8), R(16, 2)),
        "transformer.single_transformer_blocks.0.proj_mlp": adaptzip.LoraFactors(R(2, 8), R(32, 2)),
        "transformer.single_transformer_blocks.37.proj_mlp": adaptzip.LoraFactors(R(2, 8), R(32, 2)),
    }
    given = beside(adaptzip.Adapter(modules), **{f"{last}.bias": torch.arange(16.0)})
    found = written(replace(given, meta=Meta("diffusers")), tmp_path, "comfyui")
    wanted = torch.cat([torch.arange(8.0, 16.0), torch.arange(8.0)])
    assert torch.equal(found["diffusion_model.final_layer.adaLN_modulation.1.diff_b"], wanted)


@pytest.mark.parametrize("name", ["single_transformer_blocks.0.attn.to_q", "single_transformer_blocks.0.attn.norm_q"])
def test_a_tensor_of_a_layer_without_a_name_is_told_as_that(name: str, tmp_path: Path) -> None:
    names = [f"transformer.single_transformer_blocks.{n}.attn.to_q" for n in (0, 37)]
    given = replace(beside(of(names, "kohya"), **{f"transformer.{name}.bias": R(8)}), meta=Meta("diffusers"))
    with pytest.raises(RefusedError, match="tensors of layers that have no name there, or are part of another layer"):
        adaptzip.export(given, tmp_path / "out", as_="comfyui")
    report = adaptzip.export(given, tmp_path / "out", as_="comfyui", drop_extras=True)
    assert not adaptzip.read(report.path).extras


@pytest.mark.parametrize("dialect", ["kohya", "bfl", "comfyui"])
def test_a_parameter_by_itself_stays_a_difference(dialect: str, tmp_path: Path) -> None:
    layer = "diffusion_model.blocks.0.self_attn.q"
    tensors = {f"{layer}.lora_A.weight": R(2, 8), f"{layer}.lora_B.weight": R(8, 2)}
    tensors["diffusion_model.blocks.0.modulation.diff"] = R(1, 6, 8)
    save_file(tensors, tmp_path / "x.safetensors")
    report = adaptzip.export(tmp_path / "x.safetensors", tmp_path / "out.safetensors", as_=dialect)

    with safe_open(report.path, "pt") as file:
        (key,) = [key for key in file.keys() if "modulation" in key]  # noqa: SIM118
    assert key.endswith("modulation.diff")
    back = adaptzip.read(report.path)
    assert list(back.modules) == [layer]
    ((name, effect),) = back.resolved.extras.items()
    assert (effect.role, effect.tensor) == ("add", "diffusion_model.blocks.0.modulation")
    assert torch.equal(back.extras[name], tensors["diffusion_model.blocks.0.modulation.diff"])


@pytest.mark.parametrize("dialect", ["kohya", "comfyui", "bfl"])
def test_a_second_denoiser_is_not_made_the_first(dialect: str, tmp_path: Path) -> None:
    given = of(["transformer_2.blocks.0.attn1.to_q"], "diffusers")
    with pytest.raises(RefusedError, match="second denoiser, which has the name of the first"):
        adaptzip.export(given, tmp_path / "out", as_=dialect)
    assert list(adaptzip.read(adaptzip.export(given, tmp_path / "out", as_="diffusers").path).modules) == list(
        given.modules
    )


@pytest.mark.parametrize(
    ("names", "version"),
    [
        ([f"text_encoder_3.{T5}"], "sd3"),
        ([f"text_encoder_3.{T5}", CLIP], "sd3"),
        ([f"text_encoder_2.{T5}"], None),
        ([f"text_encoder_2.{T5}", CLIP], None),
        ([f"text_encoder_3.{T5}", CLIP.replace("encoder.", "encoder_2.", 1)], None),
    ],
)
def test_the_t5_of_stable_diffusion_3_is_told_from_fluxs(names: list[str], version: str | None, tmp_path: Path) -> None:
    report = adaptzip.export(of(names, "diffusers"), tmp_path / "x.safetensors", as_="kohya")
    with safe_open(report.path, "pt") as file:
        assert (file.metadata() or {}).get("ss_base_model_version") == version
        assert any(key.startswith("lora_te3_encoder_block_0_") for key in file.keys())  # noqa: SIM118
        assert not any(key.startswith("lora_te_") for key in file.keys())  # noqa: SIM118
    assert set(adaptzip.read(report.path).modules) == set(names)


@pytest.mark.parametrize(
    ("metadata", "component"),
    [
        ({"modelspec.architecture": "stable-diffusion-3.5-large/lora"}, "text_encoder_3"),
        ({"modelspec.architecture": "flux-1-dev/lora"}, "text_encoder_2"),
        ({}, "text_encoder_2"),
    ],
)
def test_metadata_tell_whose_t5_it_is(metadata: dict[str, str], component: str, tmp_path: Path) -> None:
    stem = "lora_te3_encoder_block_0_layer_0_SelfAttention_q"
    tensors = {f"{stem}.lora_down.weight": R(2, 8), f"{stem}.lora_up.weight": R(8, 2)}
    save_file(tensors, tmp_path / "x.safetensors", metadata)
    assert list(adaptzip.read(tmp_path / "x.safetensors").modules) == [f"{component}.{T5}"]
