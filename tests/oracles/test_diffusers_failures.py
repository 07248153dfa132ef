"""Files of which diffusers 0.42 loads nothing, or at which it raises: what we write of them loads with their update."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import adaptzip
from adaptzip.errors import RefusedError
from tests.cases.tiny_transformers import TRANSFORMERS, load, load_file, loaded

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore::FutureWarning")]

Tensors = dict[str, Tensor]
RANK = 4
_NUMBERS = torch.Generator().manual_seed(0)


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=_NUMBERS)


def layer(stem: str, out: int, width: int, *, spelling: str = "lora_A lora_B", alpha: float | None = None) -> Tensors:
    """The factors of one layer."""
    down, up = spelling.split()
    tensors = {f"{stem}.{down}.weight": drawn(RANK, width), f"{stem}.{up}.weight": drawn(out, RANK)}
    return tensors if alpha is None else tensors | {f"{stem}.alpha": torch.tensor(alpha)}


def update(tensors: Tensors) -> Tensor:
    """What one layer's factors mean."""
    down, up = (tensors[next(key for key in tensors if key.endswith(ends))] for ends in (_DOWN, _UP))
    alpha = next((float(tensor) for key, tensor in tensors.items() if key.endswith(".alpha")), float(RANK))
    return alpha / RANK * (up @ down)


_DOWN, _UP = ("lora_A.weight", "lora_down.weight"), ("lora_B.weight", "lora_up.weight")
_KOHYA = "lora_down lora_up"


@dataclass(frozen=True, eq=False)
class Case:
    """A file.

    Attributes:
        kind: the model, by its name in `TRANSFORMERS`.
        tensors: by key.
        updates: by diffusers' names of layers.
        fails: what diffusers raises; None where it loads nothing.
    """

    kind: str
    tensors: Tensors
    updates: Mapping[str, Tensor]
    fails: type[Exception] | None = None


def rows(name: str, *parts: str) -> list[str]:
    return [f"{name}.{part}" for part in parts]


def flux_by_comfyui() -> Case:
    """Also ai-toolkit's with original names."""
    qkv = layer("diffusion_model.double_blocks.0.img_attn.qkv", 96, 32)
    out = layer("diffusion_model.double_blocks.0.txt_attn.proj", 32, 32)
    one = layer("diffusion_model.single_blocks.0.linear1", 224, 32)
    block, single = "transformer_blocks.0.attn", "single_transformer_blocks.0"
    updates = dict(zip(rows(block, "to_q", "to_k", "to_v"), update(qkv).chunk(3), strict=True))
    names = rows(single, "attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")
    updates |= dict(zip(names, torch.split(update(one), [32, 32, 32, 128]), strict=True))
    return Case("flux", qkv | out | one, updates | {f"{block}.to_add_out": update(out)})


def flux_under_pefts_prefix() -> Case:
    name = "single_transformer_blocks.0.proj_out"
    tensors = layer(f"base_model.model.{name}", 32, 160)
    return Case("flux", tensors, {name: update(tensors)}, KeyError)


def sd3_by_kohya() -> Case:
    qkv = layer("lora_unet_joint_blocks_0_context_block_attn_qkv", 96, 32, spelling=_KOHYA, alpha=2.0)
    mlp = layer("lora_unet_joint_blocks_1_x_block_mlp_fc2", 32, 128, spelling=_KOHYA, alpha=2.0)
    names = rows("transformer_blocks.0.attn", "add_q_proj", "add_k_proj", "add_v_proj")
    updates = dict(zip(names, update(qkv).chunk(3), strict=True))
    return Case("sd3", qkv | mlp, updates | {"transformer_blocks.1.ff.net.2": update(mlp)})


def sd3_by_onetrainer() -> Case:
    tensors = layer("lora_transformer_transformer_blocks_0_attn_to_k", 32, 32, spelling=_KOHYA, alpha=1.0)
    return Case("sd3", tensors, {"transformer_blocks.0.attn.to_k": update(tensors)})


def qwen_by_lycoris() -> Case:
    tensors = layer("lycoris_transformer_blocks_0_attn_to_q", 48, 48, spelling=_KOHYA, alpha=2.0)
    return Case("qwen", tensors, {"transformer_blocks.0.attn.to_q": update(tensors)}, ValueError)


def qwen_of_products() -> Case:
    stem = "lora_unet_transformer_blocks_0_attn_to_k"
    first, second = drawn(4, 4), drawn(12, 12)
    tensors = {f"{stem}.lokr_w1": first, f"{stem}.lokr_w2": second, f"{stem}.alpha": torch.tensor(4.0)}
    return Case("qwen", tensors, {"transformer_blocks.0.attn.to_k": torch.kron(first, second)}, ValueError)


CASES = (
    flux_by_comfyui, flux_under_pefts_prefix, sd3_by_kohya, sd3_by_onetrainer, qwen_by_lycoris, qwen_of_products,
)  # fmt: skip


@pytest.mark.parametrize("make", CASES, ids=lambda make: make.__name__)
def test_what_diffusers_does_not_load_it_loads_of_ours(make: Callable[[], Case], tmp_path: Path) -> None:
    case = make()
    model_of, mixin = TRANSFORMERS[case.kind]
    model = model_of()
    if case.fails is None:
        load(mixin, model, dict(case.tensors))
    else:
        with pytest.raises(case.fails):
            load(mixin, model, dict(case.tensors))
    assert not loaded(model)

    save_file({key: tensor.contiguous() for key, tensor in case.tensors.items()}, tmp_path / "x.safetensors")
    report = adaptzip.export(tmp_path / "x.safetensors", tmp_path / "out", as_="diffusers")
    model = model_of()
    load_file(mixin, model, report.path, report.files[0])

    found = loaded(model)
    assert found.keys() == case.updates.keys()
    for name, wanted in case.updates.items():
        assert torch.allclose(found[name], wanted, atol=1e-5, rtol=1e-5), name


def test_a_dora_of_two_parts_is_refused_or_left_without_magnitudes(tmp_path: Path) -> None:
    """OneTrainer's of Flux: diffusers raises at T5's names, and has no place for magnitudes of inputs."""
    stem = "lora_transformer_single_transformer_blocks_0_attn_to_k"
    factors = layer(stem, 32, 32, spelling=_KOHYA, alpha=1.0)
    second = layer("lora_te2_encoder_block_0_layer_0_SelfAttention_k", 32, 32, spelling=_KOHYA, alpha=1.0)
    tensors = factors | second | {f"{stem}.dora_scale": drawn(1, 32).abs()}
    save_file(tensors, tmp_path / "x.safetensors")
    model_of, mixin = TRANSFORMERS["flux"]
    with pytest.raises(AssertionError, match="all_unique_keys"):
        load(mixin, model_of(), dict(tensors))

    with pytest.raises(RefusedError, match="DoRA magnitudes for each input"):
        adaptzip.export(tmp_path / "x.safetensors", tmp_path / "out", as_="diffusers")
    report = adaptzip.export(tmp_path / "x.safetensors", tmp_path / "out", as_="diffusers", drop_extras=True)

    model = model_of()
    load_file(mixin, model, report.path, report.files[0])
    ((name, found),) = loaded(model).items()
    assert name == "single_transformer_blocks.0.attn.to_k"
    assert torch.allclose(found, update(factors), atol=1e-5)
