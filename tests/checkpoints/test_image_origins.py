"""Image adapters come back byte for byte, whatever their modules are of, and as they are now where they changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

import adaptzip
from adaptzip.core.compressed import PARTS
from adaptzip.reports.verifying import verify
from tests.checkpoints.test_image_dialects import KINDS, R, saved

NAME = "unet.mid_block.resnets.0.conv1"
STEM = "lora_unet_mid_block_resnets_0_conv1"


def plain() -> dict[str, Tensor]:
    return {"lora_down.weight": R(2, 8), "lora_up.weight": R(8, 2)}


def of(stem: str, parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{stem}.{part}": tensor for part, tensor in parts.items()}


MIXED = {
    **of("lora_unet_down_blocks_0_attentions_0_proj_in", plain() | {"alpha": torch.tensor(1.0)}),
    **of("lora_unet_down_blocks_1_attentions_0_proj_in", plain()),
    **of("lora_unet_conv_norm_out", {"diff": R(8), "diff_b": R(8)}),
    **of("lora_unet_conv_out", {"diff": R(4, 8, 3, 3), "diff_b": R(4)}),
    **{f"lora_unet_{i}_{kind.replace(' ', '-')}.{part}": t for i, (kind, (parts, _)) in enumerate(KINDS.items())
       for part, t in parts.items()},
}  # fmt: skip
WHOLE: dict[str, dict[str, Tensor]] = {
    **{f"{kind}, alpha {alpha}": of(STEM, parts | ({} if alpha is None else {"alpha": torch.tensor(alpha)}))
       for kind, (parts, _) in KINDS.items() for alpha in (None, 3.0)},
    "half floats": of(STEM, {part: t.half() for part, t in KINDS["loha"][0].items()} | {"alpha": torch.tensor(1)}),
    "a magnitude": of(STEM, KINDS["lokr with a core"][0] | {"dora_scale": R(32, 1, 1, 1)}),
    "an alpha that no quotient tells": of(STEM, {"lora_down.weight": R(49, 50), "lora_up.weight": R(50, 49),
                                                 "alpha": torch.tensor(0.1, dtype=torch.float64)}),
    "all kinds, some without an alpha": MIXED,
    "two spellings": of("lora_unet_x", plain())
                     | of("lora_unet_y", {"lora_A.weight": R(2, 8), "lora_B.weight": R(8, 2)}),
    "comfyui": of("diffusion_model.double_blocks.0.img_attn.qkv", KINDS["lokr of two products"][0]),
    "diffusers": of("transformer.single_transformer_blocks.0.attn.to_q", KINDS["loha"][0]),
}  # fmt: skip


@pytest.mark.parametrize("kind", WHOLE)
def test_a_lossless_file_gives_back_every_byte(kind: str, tmp_path: Path) -> None:
    path = saved(tmp_path, WHOLE[kind], {"ss_steps": "10"})
    adaptzip.compress(path, tmp_path / "x.adz", lossless=True)
    assert verify(tmp_path / "x.adz", adaptzip.read(path)).passed

    for number, given in enumerate((path, tmp_path / "x.adz")):
        report = adaptzip.export(given, tmp_path / f"{number}.safetensors")
        assert report.path.read_bytes() == path.read_bytes()


def test_another_file_holds_what_is_left_as_plain_factors(tmp_path: Path) -> None:
    path = saved(tmp_path, MIXED)
    small = adaptzip.compress(path, tmp_path / "x.adz", max_error=0.3)
    assert not any(entry.name.startswith(PARTS) for entry in small.extras.entries)

    report = adaptzip.export(tmp_path / "x.adz", tmp_path / "x2.safetensors")

    with safe_open(report.path, "pt") as file:
        keys = set(file.keys())
    assert {"lora_unet_conv_norm_out.diff", "lora_unet_conv_out.diff_b", "lora_unet_conv_out.lora_up.weight"} <= keys
    assert not any(key.rpartition(".")[2].startswith(("hada_", "lokr_", "lora_mid")) for key in keys)
    assert adaptzip.read(report.path).modules.keys() == adaptzip.read(path).modules.keys()


@pytest.mark.parametrize("kind", ["loha", "tucker", "a whole difference"])
def test_what_was_changed_in_memory_is_written(kind: str, tmp_path: Path) -> None:
    given = adaptzip.read(saved(tmp_path, of(STEM, KINDS[kind][0] | {"alpha": torch.tensor(2.0)})))
    module = given.modules[NAME]
    for number, changed_module in enumerate((replace(module, B=module.B * 2), replace(module, scaling=0.25))):
        changed = replace(given, modules={NAME: changed_module})
        report = adaptzip.export(changed, tmp_path / str(number))
        wanted, found = changed.modules[NAME].delta(), adaptzip.read(report.path).modules[NAME].delta()
        assert torch.allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_a_dtype_is_that_of_the_factors(tmp_path: Path) -> None:
    path = saved(tmp_path, of(STEM, KINDS["loha"][0]))
    report = adaptzip.export(path, tmp_path / "out.safetensors", dtype="float16")
    with safe_open(report.path, "pt") as file:
        assert {file.get_tensor(key).dtype for key in file.keys()} == {torch.float16}  # noqa: SIM118


def test_scales_in_the_metadata_and_alphas_both_come_back(tmp_path: Path) -> None:
    name = "unet.mid_block.attentions.0.proj_in"
    tensors = of(name, {"lora_A.weight": R(2, 8), "lora_B.weight": R(8, 2), "alpha": torch.tensor(7.0)})
    path = saved(tmp_path, tensors, {"lora_adapter_metadata": '{"unet.r": 2, "unet.lora_alpha": 3}'})
    adaptzip.compress(path, tmp_path / "x.adz", lossless=True)
    report = adaptzip.export(tmp_path / "x.adz", tmp_path / "out.safetensors")
    assert report.path.read_bytes() == path.read_bytes()
