"""Convolutions of image adapters: DoRA in both shapes, kernels that a file has flattened, and how they merge."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import adaptzip
from adaptzip.core.meta import Meta
from adaptzip.errors import CheckFailedError, CheckpointError, RefusedError

R = torch.randn
KOHYA = "lora_unet_down_blocks_0_resnets_0_conv1"
PATH = "down_blocks.0.resnets.0.conv1"
NAME = f"unet.{PATH}"


def saved(folder: Path, tensors: dict[str, Tensor]) -> Path:
    folder.mkdir(exist_ok=True)
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, folder / "lora.safetensors")
    return folder / "lora.safetensors"


def base(folder: Path, weight: Tensor, path: str = PATH) -> Path:
    folder.mkdir()
    save_file({f"{path}.weight": weight}, folder / "diffusion_pytorch_model.safetensors")
    return folder


def merged(folder: Path, path: str = PATH) -> Tensor:
    return load_file(folder / "diffusion_pytorch_model.safetensors")[f"{path}.weight"]


def dora(weight: Tensor, delta: Tensor, magnitude: Tensor) -> Tensor:
    total = weight + delta.reshape(weight.shape)
    norm: Tensor = total.flatten(1).norm(dim=1)
    return (magnitude / norm).reshape(-1, 1, 1, 1) * total


@pytest.mark.parametrize("inputs", [6, 8])
def test_a_convolutions_magnitude_is_one_for_each_output_in_either_shape(inputs: int, tmp_path: Path) -> None:
    """Square as well: diffusers' (1, out, 1, 1) looks like one for each input."""
    a, b, magnitude, weight = R(2, inputs, 3, 3), R(8, 2, 1, 1), torch.rand(8) + 1, R(8, inputs, 3, 3)
    peft = {f"{NAME}.lora_A.weight": a, f"{NAME}.lora_B.weight": b}
    diffusers = saved(tmp_path / "d", {**peft, f"{NAME}.lora_magnitude_vector": magnitude.reshape(1, -1, 1, 1)})
    wanted = dora(weight, b.flatten(1) @ a.flatten(1), magnitude)
    adaptzip.merge(diffusers, base(tmp_path / "base", weight), tmp_path / "merged")
    assert torch.allclose(merged(tmp_path / "merged"), wanted, atol=1e-5)

    report = adaptzip.convert(diffusers, tmp_path / "k.safetensors", as_="kohya")
    assert load_file(report.written.path)[f"{KOHYA}.dora_scale"].shape == (8, 1, 1, 1)
    adaptzip.convert(tmp_path / "k.safetensors", tmp_path / "back", as_="diffusers")
    again = load_file(tmp_path / "back/pytorch_lora_weights.safetensors")
    assert torch.equal(again[f"{NAME}.lora_magnitude_vector"], magnitude.reshape(1, -1, 1, 1))


def flattened(kind: str) -> tuple[dict[str, Tensor], Tensor]:
    """A product whose file has the kernel flattened into the inputs, and the update that it means."""
    if kind == "loha":
        w = {"hada_w1_a": R(8, 2), "hada_w1_b": R(2, 54), "hada_w2_a": R(8, 2), "hada_w2_b": R(2, 54)}
        return w, (w["hada_w1_a"] @ w["hada_w1_b"]) * (w["hada_w2_a"] @ w["hada_w2_b"])
    if kind == "lokr":
        w = {"lokr_w1": R(2, 2), "lokr_w2_a": R(4, 2), "lokr_w2_b": R(2, 27)}
        second = (w["lokr_w2_a"] @ w["lokr_w2_b"]).reshape(4, 3, 3, 3)
        return w, torch.kron(w["lokr_w1"].reshape(2, 2, 1, 1), second.contiguous()).flatten(1)
    w = {"lora_down.weight": R(2, 54), "lora_up.weight": R(8, 2)}
    return w, w["lora_up.weight"] @ w["lora_down.weight"]


@pytest.mark.parametrize("kind", ["loha", "lokr", "lora"])
def test_a_flattened_kernel_is_told_by_the_layers_name(kind: str, tmp_path: Path) -> None:
    parts, delta = flattened(kind)
    path = saved(tmp_path / "x", {f"{KOHYA}.{part}": tensor for part, tensor in parts.items()})
    factors = adaptzip.read(path).modules[NAME]
    assert (factors.layout, factors.kernel, factors.shape) == ("conv", (3, 3), (8, 54))
    adaptzip.convert(path, tmp_path / "d", as_="diffusers")
    assert load_file(tmp_path / "d/pytorch_lora_weights.safetensors")[f"{NAME}.lora_A.weight"].shape[1:] == (6, 3, 3)
    weight = R(8, 6, 3, 3)
    adaptzip.merge(path, base(tmp_path / "base", weight), tmp_path / "merged")
    assert torch.allclose(merged(tmp_path / "merged"), weight + delta.reshape(weight.shape), atol=1e-4)


def test_a_magnitude_of_inputs_beside_a_flattened_kernel(tmp_path: Path) -> None:
    parts, _ = flattened("loha")
    tensors = {f"{KOHYA}.{part}": tensor for part, tensor in {**parts, "dora_scale": torch.rand(1, 6, 1, 1)}.items()}
    assert adaptzip.read(saved(tmp_path / "x", tensors)).modules[NAME].magnitude is not None


@pytest.mark.parametrize("original", ["input_blocks_1_0_in_layers_2", "input_blocks_3_0_op", "out_2"])
def test_original_names_tell_kernels_too(original: str, tmp_path: Path) -> None:
    parts, _ = flattened("loha")
    path = saved(tmp_path / "x", {f"lora_unet_{original}.{part}": tensor for part, tensor in parts.items()})
    (factors,) = adaptzip.read(path).modules.values()
    assert factors.kernel == (3, 3)


@pytest.mark.parametrize("shape", [(8, 6, 1, 1), (8, 6)])
def test_a_kernel_of_one_is_a_plain_layers_too(shape: tuple[int, ...], tmp_path: Path) -> None:
    """A linear update goes into a convolution of one pixel, and the other way round."""
    path, stem = "mid_block.attentions.0.proj_in", "lora_unet_mid_block_attentions_0_proj_in"
    ends = () if len(shape) == 4 else (1, 1)
    a, b, weight = R(2, 6), R(8, 2), R(shape)
    tensors = {f"{stem}.lora_down.weight": a.reshape(2, 6, *ends), f"{stem}.lora_up.weight": b.reshape(8, 2, *ends)}
    adaptzip.merge(saved(tmp_path / "x", tensors), base(tmp_path / "base", weight, path), tmp_path / "merged")
    assert torch.allclose(merged(tmp_path / "merged", path), weight + (b @ a).reshape(shape), atol=1e-5)


def test_differences_of_a_layer_are_none_of_a_norm(tmp_path: Path) -> None:
    norm = KOHYA.replace("conv1", "norm1")
    tensors = {f"{KOHYA}.lora_down.weight": R(4, 6, 3, 3), f"{KOHYA}.lora_up.weight": R(8, 4, 1, 1)}
    tensors |= {f"{KOHYA}.diff_b": R(8), f"{norm}.w_norm": R(8), f"{norm}.b_norm": R(8)}
    adaptzip.convert(saved(tmp_path / "x", tensors), tmp_path / "out", rank=2)
    assert load_file(tmp_path / "out/lora.safetensors").keys() - {f"{KOHYA}.alpha"} == tensors.keys()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("target", ["diffusers", "comfyui"])
def test_a_scale_that_a_dtype_would_round_is_kept_exactly(dtype: torch.dtype, target: str, tmp_path: Path) -> None:
    stem = "lora_unet_mid_block_attentions_0_proj_in"
    halves = {f"{stem}.lora_down.weight": R(3, 32).to(dtype), f"{stem}.lora_up.weight": R(32, 3).to(dtype)}
    for alpha, kept in ((1.0, {dtype, torch.float32}), (1.5, {dtype})):
        path = saved(tmp_path / f"{alpha}", {**halves, f"{stem}.alpha": torch.tensor(alpha)})
        adaptzip.convert(path, tmp_path / f"out{alpha}", as_=target)
        (before,), (after,) = (adaptzip.read(p).modules.values() for p in (path, tmp_path / f"out{alpha}"))
        assert {after.A.dtype, after.B.dtype} == kept
        wanted = before.B.double() @ before.A.double() * before.scaling
        found = after.B.double() @ after.A.double() * after.scaling
        assert float((found - wanted).norm() / wanted.norm()) < 1e-6


def test_a_negative_scale_has_its_sign_in_up(tmp_path: Path) -> None:
    name = "unet.mid_block.attentions.0.proj_in"
    factors = adaptzip.LoraFactors(R(2, 8), R(8, 2), -1.0)
    adaptzip.export(adaptzip.Adapter({name: factors}, meta=Meta("diffusers")), tmp_path / "k", as_="kohya")
    written = load_file(tmp_path / "k/lora.safetensors")
    assert float(written["lora_unet_mid_block_attentions_0_proj_in.alpha"]) == 2.0
    assert torch.equal(written["lora_unet_mid_block_attentions_0_proj_in.lora_up.weight"], -factors.B)


@pytest.mark.parametrize(
    ("end", "said"),
    [("oft_blocks", "OFT"), ("on_input", r"\(IA\)\^3"), ("a1.weight", "GLoRA"), ("oft_diag", "Diag-OFT")],
)
def test_methods_that_are_no_sum_are_named(end: str, said: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "x", {f"{KOHYA}.{end}": R(2, 4, 4), f"{KOHYA}.alpha": torch.tensor(1.0)})
    with pytest.raises(RefusedError, match=f"belongs to {said}"):
        adaptzip.read(path)


def test_a_size_below_what_is_beside_the_factors_is_none(tmp_path: Path) -> None:
    path = saved(tmp_path / "x", {f"{KOHYA}.lora_down.weight": R(4, 6, 3, 3), f"{KOHYA}.lora_up.weight": R(8, 4, 1, 1)})
    with pytest.raises(CheckFailedError, match=r"the size leaves \d+ bytes for the factors"):
        adaptzip.convert(path, tmp_path / "out", budget="300B")


def test_a_magnitude_of_neither_side_is_refused(tmp_path: Path) -> None:
    tensors = {f"{KOHYA}.lora_down.weight": R(4, 6, 3, 3), f"{KOHYA}.lora_up.weight": R(8, 4, 1, 1)}
    with pytest.raises(CheckpointError, match=r"has a DoRA magnitude \[7\]"):
        adaptzip.read(saved(tmp_path / "x", {**tensors, f"{KOHYA}.dora_scale": R(7)}))


@pytest.mark.parametrize("dialect", ["xlabs", "attention-processors"])
def test_dialects_of_factors_alone_hold_no_biases_and_no_magnitudes(dialect: str, tmp_path: Path) -> None:
    names = {
        "xlabs": ("bfl", "diffusion_model.double_blocks.0.img_attn.qkv"),
        "attention-processors": ("diffusers", "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"),
    }
    came, name = names[dialect]
    factors = adaptzip.LoraFactors(R(2, 8), R(24, 2), bias=R(24), magnitude=torch.rand(24) + 1)
    adapter = adaptzip.Adapter({name: factors}, meta=Meta(came))
    with pytest.raises(RefusedError, match=r"cannot hold LoRA biases \(.*DoRA magnitudes \("):
        adaptzip.export(adapter, tmp_path / "x", as_=dialect)
    adaptzip.export(adapter, tmp_path / "x", as_=dialect, drop_extras=True)
    (left,) = adaptzip.read(tmp_path / "x").modules.values()
    assert (left.bias, left.magnitude) == (None, None)


def test_a_bias_is_read_in_every_spelling(tmp_path: Path) -> None:
    stem = "unet.mid_block.attentions.0.proj_in"
    tensors = {f"{stem}.lora.down.weight": R(2, 8), f"{stem}.lora.up.weight": R(8, 2), f"{stem}.lora.up.bias": R(8)}
    adaptzip.convert(saved(tmp_path / "x", tensors), tmp_path / "out", rank=1)
    (factors,) = adaptzip.read(tmp_path / "out").modules.values()
    assert factors.bias is not None
    assert torch.equal(factors.bias, tensors[f"{stem}.lora.up.bias"])
