"""Which family of models an adapter is of is told by what is there, and by nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import adaptzip
from adaptzip.checkpoints._image.families import FAMILIES
from adaptzip.checkpoints._image.spellings import to_diffusers, to_original
from adaptzip.core.meta import Meta
from adaptzip.errors import AdaptzipWarning, RefusedError
from tests.checkpoints.test_image_dialects import R, of, of_family

BY_TITLE = {family.title: family for family in FAMILIES}
FLUX = of_family(BY_TITLE["Flux"])
CLIP = "text_encoder.text_model.encoder.layers.0.mlp.fc1"


def modules(shapes: Mapping[str, tuple[int, int]]) -> dict[str, adaptzip.LoraFactors]:
    """An update of rank 2 of each module, by its (out, in)."""
    return {name: adaptzip.LoraFactors(R(2, width), R(out, 2)) for name, (out, width) in sorted(shapes.items())}


@pytest.mark.parametrize(
    "kept", ["single_blocks.", "double_blocks.", "single_blocks.3.linear2", "double_blocks.3.img_attn.", "final_layer."]
)
def test_a_part_of_flux_goes_there_and_back(kept: str, tmp_path: Path) -> None:
    some = {name: m for name, m in FLUX.items() if name.startswith(f"diffusion_model.{kept}")}
    report = adaptzip.export(adaptzip.Adapter(some, meta=Meta("kohya")), tmp_path / "out", as_="diffusers")
    found = adaptzip.read(report.path).modules
    assert found
    assert {name.partition(".")[0] for name in found} == {"transformer"}
    assert to_diffusers(some).keys() == found.keys()


def test_text_encoders_alone_need_no_family(tmp_path: Path) -> None:
    given = of([CLIP], "kohya")
    for dialect in ("diffusers", "comfyui", "kohya"):
        report = adaptzip.export(given, tmp_path / dialect, as_=dialect)
        assert list(adaptzip.read(report.path).modules) == [CLIP]


def test_shapes_tell_families_with_the_same_names() -> None:
    block, single = "diffusion_model.double_blocks.0.img_mlp.0", "diffusion_model.single_blocks.0.linear1"
    assert "ff.net.0.proj" in next(iter(to_diffusers(modules({block: (32, 8)}))))
    assert "ff.linear_in" in next(iter(to_diffusers(modules({block: (48, 8)}))))
    assert len(to_diffusers(modules({single: (56, 8)}))) == 4
    assert [name.rpartition(".")[2] for name in to_diffusers(modules({single: (72, 8)}))] == ["to_qkv_mlp_proj"]
    layer = "diffusion_model.layers.0.attention.qkv"
    assert "transformer.layers.0.attn.to_k" in to_diffusers(modules({layer: (40, 24)}))
    assert "transformer.layers.0.attention.to_k" in to_diffusers(modules({layer: (24, 8)}))


def test_depths_tell_families_with_the_same_names() -> None:
    def first(number: int) -> str:
        return next(iter(to_original(modules({f"transformer.transformer_blocks.{number}.attn.to_q": (3072, 3072)}))))

    assert first(59) == "transformer.transformer_blocks.59.attn.to_q"
    with pytest.raises(RefusedError, match="may be of Flux, Flux 2 or Qwen-Image"):
        first(3)


def test_hunyuan_is_told_from_flux_by_its_last_blocks() -> None:
    flux = {f"transformer.transformer_blocks.{n}.ff.net.0.proj": (12288, 3072) for n in (0, 18)}
    assert {name.rpartition(".")[2] for name in to_original(modules(flux))} == {"0"}
    more = {"transformer.transformer_blocks.19.ff.net.0.proj": (12288, 3072)}
    assert {name.rpartition(".")[2] for name in to_original(modules(flux | more))} == {"fc1"}


@pytest.mark.parametrize("there", [True, False])
def test_a_layer_of_no_family_is_named_with_those_that_are_known(there: bool) -> None:
    name = "diffusion_model.some.layer" if there else "transformer.some.layer"
    with pytest.raises(RefusedError, match="module some.layer has no name .* Flux, Stable Diffusion 3, Wan, .* Anima"):
        (to_diffusers if there else to_original)(modules({name: (8, 8)}))


def test_a_family_with_a_stranger_names_the_stranger() -> None:
    stranger = {"diffusion_model.double_blocks.3.stranger": adaptzip.LoraFactors(R(2, 8), R(8, 2))}
    with pytest.raises(RefusedError, match=r"module double_blocks\.3\.stranger has no name"):
        to_diffusers(FLUX | stranger)


TOLD = {
    "anima_lora_kohya_format": "transformer.transformer_blocks.0.attn2.to_q",
    "anima_lora_peft_format": "transformer.transformer_blocks.0.ff.net.0.proj",
    "krea2_lora_kohya_format": "transformer.transformer_blocks.27.attn.to_gate",
}


@pytest.mark.parametrize("name", TOLD)
def test_files_of_trainers_get_diffusers_names(name: str, material: Path, tmp_path: Path) -> None:
    shapes = json.loads((material / "keydumps" / f"{name}.json").read_text())
    save_file({key: R(shape) if shape else R(()) for key, shape in shapes.items()}, tmp_path / "x.safetensors")
    report = adaptzip.export(tmp_path / "x.safetensors", tmp_path / "out", as_="diffusers")
    assert TOLD[name] in adaptzip.read(report.path).modules


SD3_BLOCK = {
    "attn.to_q": (1, 1), "attn.to_k": (1, 1), "attn.to_v": (1, 1), "attn.add_k_proj": (1, 1), "attn.to_add_out": (1, 1),
    "ff.net.0.proj": (4, 1), "ff_context.net.2": (1, 4), "norm1.linear": (6, 1), "norm1_context.linear": (6, 1),
}  # fmt: skip
"""Layers of a block that other models have as well, by outputs and inputs in widths of the block."""


@pytest.mark.parametrize(("width", "last"), [(1536, 23), (2432, 37)])
def test_a_width_counts_for_more_than_names(width: int, last: int) -> None:
    shapes = {f"transformer.transformer_blocks.{n}.{name}": (out * width, ins * width)
              for n in (0, last - 1) for name, (out, ins) in SD3_BLOCK.items()}  # fmt: skip
    shapes[f"transformer.transformer_blocks.{last}.norm1_context.linear"] = (2 * width, width)
    given = modules(shapes)

    found = to_original(given)

    assert {name.split(".")[1] for name in found} == {"joint_blocks"}
    for block, swapped in ((0, False), (last, True)):
        B = given[f"transformer.transformer_blocks.{block}.norm1_context.linear"].B
        theirs = found[f"diffusion_model.joint_blocks.{block}.context_block.adaLN_modulation.1"].B
        half = len(B) // 2
        assert torch.equal(theirs, torch.cat([B[half:], B[:half]]) if swapped else B)
    back = to_diffusers(found)
    for name, factors in given.items():
        x = R(factors.shape[1], 1)
        assert torch.allclose(back[name].B @ (back[name].A @ x), factors.B @ (factors.A @ x), atol=1e-3), name


@pytest.mark.parametrize(
    ("name", "shape", "said"),
    [
        ("transformer_blocks.0.attn1.to_q", (1152, 1152), "blocks 1152 wide, expected 2048 .* in "),
        (
            "transformer_blocks.0.attn.add_q_proj",
            (3584, 3584),
            "3584 wide, expected 3072 in Flux, and only Flux",
        ),
        ("single_transformer_blocks.3.proj_mlp", (24576, 3072), r"shape \[24576, 3072\], expected 4 outputs"),
        ("single_transformer_blocks.48.attn.to_q", (3072, 3072), "block beyond the 38 of Flux"),
    ],
)
def test_sizes_of_no_model_are_refused(name: str, shape: tuple[int, int], said: str) -> None:
    with pytest.raises(RefusedError, match=said):
        to_original(modules({f"transformer.{name}": shape}))


def test_original_names_are_told_by_their_widths() -> None:
    layer = "diffusion_model.layers.0.feed_forward.w1"
    assert list(to_diffusers(modules({layer: (10240, 3840)}))) == ["transformer.layers.0.feed_forward.w1"]
    assert list(to_diffusers(modules({layer: (9216, 2304)}))) == ["transformer.layers.0.feed_forward.linear_1"]


def test_what_hunyuan_shares_with_flux_is_taken_for_flux_with_a_word() -> None:
    shared = {"transformer.transformer_blocks.3.ff_context.net.0.proj": (12288, 3072)}
    with pytest.warns(AdaptzipWarning, match="taken for one of Flux; HunyuanVideo has the same names"):
        found = to_original(modules(shared))
    assert list(found) == ["diffusion_model.double_blocks.3.txt_mlp.0"]
    # The last of Flux's blocks tells.
    to_original(modules(shared | {"transformer.single_transformer_blocks.37.proj_mlp": (12288, 3072)}))


def test_ltx_is_not_taken_for_anima() -> None:
    query = {"transformer.transformer_blocks.0.attn1.to_q": (2048, 2048)}
    with pytest.raises(RefusedError, match="may be of Anima or LTX-Video"):
        to_original(modules(query))
    text = "transformer.transformer_blocks.0.attn2.to_k"
    assert "diffusion_model.blocks.0.cross_attn.k_proj" in to_original(modules(query | {text: (2048, 1024)}))
    assert "transformer.caption_projection.linear_1" in to_original(
        modules(query | {"transformer.caption_projection.linear_1": (2048, 4096)})
    )
