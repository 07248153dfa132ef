"""Quantised base models, by every way that quantisers write them, are refused by one sentence."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from adaptzip.errors import RefusedError
from adaptzip.models.folder import BaseModel
from adaptzip.restoring.merging import merge
from tests.cases.base_folders import MODULE, adapter, llama_tensors, write_config, write_llama, write_weights

Make = Callable[[str, Tensor], dict[str, Tensor]]


def zeros(*shape: int, dtype: torch.dtype = torch.uint8) -> Tensor:
    return torch.zeros(shape, dtype=dtype)


def bnb4(name: str, weight: Tensor) -> dict[str, Tensor]:
    stored = {"": zeros(128, 1), ".absmax": torch.zeros(4), ".quant_map": torch.zeros(16)}
    return {f"{name}.weight{end}": tensor for end, tensor in stored.items()}


def bnb4_in_bf16(name: str, weight: Tensor) -> dict[str, Tensor]:
    return {**bnb4(name, weight), f"{name}.weight": zeros(64, 1, dtype=torch.bfloat16)}


def bnb8(name: str, weight: Tensor) -> dict[str, Tensor]:
    return {f"{name}.weight": weight.to(torch.int8), f"{name}.SCB": torch.ones(16)}


def gptq(name: str, weight: Tensor) -> dict[str, Tensor]:
    ints = {"qweight": (2, 16), "qzeros": (1, 2), "g_idx": (16,)}
    made = {f"{name}.{end}": zeros(*shape, dtype=torch.int32) for end, shape in ints.items()}
    return {**made, f"{name}.scales": torch.ones(1, 16)}


def packed(name: str, weight: Tensor) -> dict[str, Tensor]:
    return {
        f"{name}.weight_packed": zeros(16, 2, dtype=torch.int32),
        f"{name}.weight_scale": torch.ones(16, 1),
        f"{name}.weight_shape": torch.tensor(weight.shape),
    }


def float8(name: str, weight: Tensor) -> dict[str, Tensor]:
    return {f"{name}.weight": weight.to(torch.float8_e4m3fn), f"{name}.weight_scale_inv": torch.ones(1, 1)}


def float8_without_scale(name: str, weight: Tensor) -> dict[str, Tensor]:
    return {f"{name}.weight": weight.to(torch.float8_e5m2)}


def mxfp4(name: str, weight: Tensor) -> dict[str, Tensor]:
    return {f"{name}_blocks": zeros(16, 1, 8), f"{name}_scales": zeros(16, 1)}


def nvfp4(name: str, weight: Tensor) -> dict[str, Tensor]:
    return {f"{name}.weight": zeros(16, 8), f"{name}.weight_scale_2": torch.ones(1)}


def hqq(name: str, weight: Tensor) -> dict[str, Tensor]:
    return {f"{name}.W_q": zeros(8, 16), f"{name}.scale": torch.ones(16)}


def unheard_of(name: str, weight: Tensor) -> dict[str, Tensor]:
    return {f"{name}.codes": zeros(16, 4), f"{name}.group_scales": torch.ones(16, 4)}


WAYS: list[tuple[Make, str]] = [
    (bnb4, "bitsandbytes, 4 bit"),
    (bnb4_in_bf16, "bitsandbytes, 4 bit"),
    (bnb8, "bitsandbytes, 8 bit"),
    (gptq, "GPTQ or AWQ"),
    (packed, "compressed-tensors"),
    (float8, f"{MODULE}.weight is float8_e4m3fn"),
    (float8_without_scale, f"{MODULE}.weight is float8_e5m2"),
    (mxfp4, "MXFP4"),
    (nvfp4, f"{MODULE}.weight is uint8"),
    (hqq, "HQQ"),
    (unheard_of, f"{MODULE}.codes is uint8"),
]


def quantised(folder: Path, make: Make, file: str = "model.safetensors") -> Path:
    """A base of which one module is quantised, and whose configuration says nothing."""
    tensors = llama_tensors(1.0)
    weight = tensors.pop(f"{MODULE}.weight")
    write_weights(write_config(folder) / file, {**tensors, **make(MODULE, weight)})
    return folder


@pytest.mark.parametrize(("make", "which"), WAYS)
@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_tensors_that_only_quantisers_write(make: Make, which: str, file: str, tmp_path: Path) -> None:
    base = quantised(tmp_path / "base", make, file)
    with pytest.raises(RefusedError) as error:
        merge(adapter(), base, tmp_path / "merged")
    assert f"is quantised ({which})" in str(error.value)
    assert error.value.exit_code == 3
    assert "original float weights" in str(error.value.hint)


@pytest.mark.parametrize(
    ("config", "which"),
    [
        ({"quantization_config": {"quant_method": "gptq"}}, "gptq"),
        ({"quantization_config": {"bits": 4}}, "quantization_config in config.json"),
        ({"quantization_config": "x"}, "quantization_config in config.json"),
        ({"compression_config": {"quant_method": "compressed-tensors"}}, "compressed-tensors"),
        ({"text_config": {"quantization_config": {"quant_method": "fp8"}}}, "fp8"),
        ({"thinker_config": {"text_config": {"quantization_config": {"quant_method": "awq"}}}}, "awq"),
        ({"quantization": {"group_size": 64, "bits": 4}}, "quantization in config.json"),
    ],
)
def test_a_configuration_that_says_so(config: Mapping[str, Any], which: str, tmp_path: Path) -> None:
    with pytest.raises(RefusedError) as error:
        merge(adapter(), write_llama(tmp_path / "base", **config), tmp_path / "merged")
    assert f"is quantised ({which})" in str(error.value)


@pytest.mark.parametrize("config", [{"quantization_config": None}, {"text_config": {"quantization_config": {}}}])
def test_a_configuration_that_says_no(config: Mapping[str, Any], tmp_path: Path) -> None:
    BaseModel.open(write_llama(tmp_path / "base", **config))


@pytest.mark.parametrize("dtype", ["F8_E8M0", "F4", "F6_E2M3", "F6_E3M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ"])
def test_a_dtype_that_only_quantised_weights_have(dtype: str, tmp_path: Path) -> None:
    folder = write_config(tmp_path / "base")
    entry = {"dtype": dtype, "shape": [4, 8], "data_offsets": [0, 32]}
    header = json.dumps({"a.weight_scale": entry}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(32))
    with pytest.raises(RefusedError, match=rf"is quantised \(it holds {dtype}\)"):
        BaseModel.open(folder)


def test_integers_that_are_no_weights(tmp_path: Path) -> None:
    """Positions, masks, and Swin's table of relative positions beside a scale."""
    base = write_llama(tmp_path / "base")
    buffers = {
        "model.layers.0.self_attn.bias": zeros(1, 1, 8, 8, dtype=torch.bool),
        "model.layers.0.self_attn.relative_position_index": zeros(8, 8, dtype=torch.int64),
        "model.layers.0.self_attn.logit_scale": torch.ones(2),
        "model.layers.0.ln_scales": torch.ones(2, 2),
        "model.embeddings.position_ids": zeros(1, 8, dtype=torch.int64),
        "model.audio.conv_blocks": torch.ones(2, 2),
    }
    file = base / "model.safetensors"
    save_file({**load_file(file), **buffers}, file)
    merge(adapter(), base, tmp_path / "merged")
    assert load_file(tmp_path / "merged" / "model.safetensors").keys() >= buffers.keys()
