"""Adapters of one component go to PEFT under the names of the model that PEFT loads, and back into the pipeline."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import adaptzip
from adaptzip.checkpoints._image.families import FAMILIES
from adaptzip.core.meta import Meta
from adaptzip.errors import RefusedError
from tests.checkpoints.test_image_dialects import of, of_family, saved

T5 = "encoder.block.0.layer.0.SelfAttention.k"


@pytest.mark.parametrize("title", ["Flux", "Wan", "Krea 2", "Lumina 2"])
def test_original_names_become_diffusers_for_peft_and_come_back(title: str, tmp_path: Path) -> None:
    (family,) = [family for family in FAMILIES if family.title == title]
    given = adaptzip.Adapter(of_family(family), meta=Meta("comfyui"))
    adaptzip.export(given, tmp_path / "peft", as_="peft")
    assert adaptzip.read(tmp_path / "peft").modules.keys() == family_names(title)

    report = adaptzip.export(tmp_path / "peft", tmp_path / "x.safetensors", as_="comfyui")

    found = adaptzip.read(report.path).modules
    assert found.keys() == given.modules.keys()
    for name, factors in given.modules.items():
        assert torch.allclose(found[name].delta(), factors.delta(), atol=1e-5), name


def family_names(title: str) -> set[str]:
    (family,) = [family for family in FAMILIES if family.title == title]
    return {path.replace("#", "3") for path in family.parts}


def test_layers_without_diffusers_names_keep_their_own(tmp_path: Path) -> None:
    adaptzip.export(of(["diffusion_model.some.layer"], "comfyui"), tmp_path / "peft", as_="peft")
    assert list(adaptzip.read(tmp_path / "peft").modules) == ["some.layer"]
    with pytest.raises(
        RefusedError, match="module some.layer is of no component of an image pipeline that adaptzip knows"
    ):
        adaptzip.export(tmp_path / "peft", tmp_path / "out", as_="kohya")


def test_tensors_beside_the_factors_keep_the_names_that_they_are_under(tmp_path: Path) -> None:
    tensors = {f"single_blocks.0.linear1.lora_{x}.weight": torch.ones(s) for x, s in (("A", (2, 8)), ("B", (56, 2)))}
    path = saved(tmp_path, tensors | {"single_blocks.0.norm.key_norm.scale": torch.ones(8)})
    adaptzip.export(path, tmp_path / "peft", as_="peft")
    found = adaptzip.read(tmp_path / "peft")
    assert list(found.modules) == ["single_blocks.0.linear1"]
    assert [key.removeprefix("base_model.model.") for key in found.extras] == ["single_blocks.0.norm.key_norm.scale"]


def test_a_text_encoder_that_comfyui_would_take_for_another_is_refused(tmp_path: Path) -> None:
    flux, alone = of([f"text_encoder_2.{T5}"], "diffusers"), of([f"text_encoder.{T5}"], "diffusers")
    report = adaptzip.export(flux, tmp_path / "x.safetensors", as_="comfyui")
    assert list(adaptzip.read(report.path).modules) == list(flux.modules)
    with pytest.raises(RefusedError, match="no name in ComfyUI"):
        adaptzip.export(alone, tmp_path / "y.safetensors", as_="comfyui")


def test_a_refusal_expects_no_peft_lora_alone(tmp_path: Path) -> None:
    path = saved(tmp_path, {"some.layer.lora_mid": torch.ones(2, 2)})
    with pytest.raises(RefusedError, match="expected a LoRA of a dialect that adaptzip reads"):
        adaptzip.read(path)


def test_the_base_model_tells_a_component(tmp_path: Path) -> None:
    given = of([T5], "peft")
    named = replace(given, meta=replace(given.meta, base_model="somebody/flux/text_encoder_2"))
    report = adaptzip.export(named, tmp_path / "x.safetensors", as_="diffusers")
    assert list(adaptzip.read(report.path).modules) == [f"text_encoder_2.{T5}"]
