"""Layers get the names, and fused ones the parts, that diffusers' own converters give them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import adaptzip
from adaptzip.checkpoints._image.families import FAMILIES
from adaptzip.core.meta import Meta

converters: Any = pytest.importorskip(
    "diffusers.loaders.lora_conversion_utils", reason="diffusers is in the environment of the oracles"
)
pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore::FutureWarning")]

BY_TITLE = {family.title: family for family in FAMILIES}
CONVERTERS = {
    "Flux 2": "_convert_non_diffusers_flux2_lora_to_diffusers",
    "HunyuanVideo": "_convert_hunyuan_video_lora_to_diffusers",
    "Lumina 2": "_convert_non_diffusers_lumina2_lora_to_diffusers",
    "Krea 2": "_convert_non_diffusers_krea2_lora_to_diffusers",
    "Anima": "_convert_non_diffusers_anima_lora_to_diffusers",
    "Wan": "_convert_non_diffusers_wan_lora_to_diffusers",
}
WIDTHS = {"HunyuanVideo": 3072, "Lumina 2": 2304}
"""Of converters with one size written into them; others get by with less."""
MISTAKEN = {
    "HunyuanVideo": ("transformer.context_embedder.token_refiner.refiner_blocks.0.attn.to_", "transformer.norm_out."),
    "Flux 2": ("transformer.norm_out.",),
}
"""Layers whose update the converter gets wrong: of HunyuanVideo it cuts A, whose rows are ranks, as well as B, and of
Flux 2 it leaves scale and shift where the original has them; `from_single_file` turns them round."""
UNTOLD: Mapping[str, tuple[str, ...]] = {
    "Lumina 2": ("context_refiner.0.adaLN", "x_embedder", "cap_embedder", "t_embedder", "final_layer"),
    "Wan": ("patch_embedding",),
}
"""Layers that a converter takes for a mistake of the file."""


def original(title: str) -> dict[str, Tensor]:
    """An update of every layer of a family under its original names, in block 0."""
    generator = torch.Generator().manual_seed(0)
    width = WIDTHS.get(title, 24)
    tensors = {}
    for rule in BY_TITLE[title].rules:
        name = rule.original.replace("#", "0")
        if name.startswith(UNTOLD.get(title, ())):
            continue
        inputs = width if rule.ratio is None or rule.ratio > 1 else int(width / rule.ratio)
        out = int(inputs * rule.ratio) if rule.ratio is not None else width * sum(rule.shares)
        tensors[f"diffusion_model.{name}.lora_A.weight"] = torch.randn(6, inputs, generator=generator)
        tensors[f"diffusion_model.{name}.lora_B.weight"] = torch.randn(out, 6, generator=generator)
    return tensors


def names(tensors: Mapping[str, Tensor]) -> set[str]:
    return {key.removesuffix(".lora_A.weight") for key in tensors if key.endswith(".lora_A.weight")}


def update(tensors: Mapping[str, Tensor], name: str) -> Tensor:
    return tensors[f"{name}.lora_B.weight"] @ tensors[f"{name}.lora_A.weight"]


@pytest.mark.parametrize("title", CONVERTERS)
def test_names_and_parts_are_diffusers_own(title: str, tmp_path: Path) -> None:
    tensors = original(title)
    modules = {
        name: adaptzip.LoraFactors(tensors[f"{name}.lora_A.weight"], tensors[f"{name}.lora_B.weight"])
        for name in sorted(names(tensors))
    }
    adapter = adaptzip.Adapter(modules, meta=Meta("comfyui"))
    report = adaptzip.export(adapter, tmp_path / "x.safetensors", as_="diffusers")

    wanted = getattr(converters, CONVERTERS[title])(dict(tensors))
    found = load_file(report.path)

    assert names(found) == names(wanted)
    for name in names(wanted):
        if not name.startswith(MISTAKEN.get(title, ("?",))):
            assert torch.allclose(update(found, name), update(wanted, name), atol=1e-4, rtol=1e-4), name
