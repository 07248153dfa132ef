"""What a configuration and its tensors do not agree on, or what is not read, is refused by name."""

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
from tests.cases.quantised_weights import CASES, Case, float8, write_module

Change = Callable[[dict[str, Tensor]], object]


def refusal(folder: Path, case: str | Case, settings: Mapping[str, Any] | None = None, change: Change = len) -> str:
    """What opening says of a quantised module with other settings or tensors."""
    found = CASES[case] if isinstance(case, str) else case
    write_module(folder, found)
    told = {**(found.settings or {}), **(settings or {})}
    (folder / "config.json").write_text(json.dumps({"quantization_config": told} if told else {}))
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(RefusedError) as error:
        BaseModel.open(folder, quantised="dequantised").read("m.weight")
    assert "original float weights" in str(error.value.hint)
    return str(error.value)


SETTINGS: list[tuple[str, dict[str, Any], str]] = [
    ("nf4", {"quant_method": "gptq", "bits": 4, "group_size": 8}, "config.json says gptq, its tensors bitsandbytes"),
    ("nf4", {"quant_method": "hqq"}, "is quantised by hqq, expected bitsandbytes, gptq, awq"),
    ("gptq 8", {"quant_method": "awq", "bits": 4}, "m has 8 inputs, expected a multiple of group_size 16"),
    ("gptq 8", {"bits": 5}, "bits 5, expected 2 or 3 or 4 or 8"),
    ("gptq 8", {"checkpoint_format": "marlin"}, "checkpoint_format marlin, expected gptq or gptq_v2"),
    ("gptq 8", {"group_size": "x"}, "group_size x, expected a number"),
    ("gptq 8", {"group_size": 4}, "m.scales is [2, 40] float16, expected [8, 40]"),
    ("awq", {"version": "gemv"}, "version gemv, expected gemm or GEMM"),
    ("awq", {"bits": 3}, "bits 3, expected 4"),
    ("packed 4", {"format": "nvfp4-pack-quantized"}, "format nvfp4-pack-quantized, expected pack-quantized"),
    ("packed 4", {"format": "mxfp4-pack-quantized"}, "format mxfp4-pack-quantized, expected pack-quantized"),
    ("packed 4", {"quantization_status": "frozen"}, "quantization_status frozen, expected compressed"),
    ("packed 4", {"sparsity_config": {"format": "sparse-24-bitmask"}}, "format sparse-24-bitmask, expected dense"),
    ("packed 4", {"transform_config": {"a": 1}}, "its weights are rotated"),
    ("packed 4", {"config_groups": {}}, "do not say in one way what m is"),
    ("blocks", {"weight_block_size": [8, 8]}, "m.weight_scale_inv is [4, 3], expected [5, 4] for a weight [40, 32]"),
    ("blocks", {"weight_block_size": 8}, "weight_block_size 8, expected two numbers"),
    ("blocks", {"quant_method": "fbgemm_fp8"}, "has no m.weight_scale, which belongs to a quantised weight"),
    ("modelopt", {"quant_algo": "NVFP4"}, "quant_algo NVFP4, expected FP8"),
]


@pytest.mark.parametrize(("case", "settings", "said"), SETTINGS)
def test_settings(case: str, settings: dict[str, Any], said: str, tmp_path: Path) -> None:
    assert said in refusal(tmp_path / "base", case, settings)


def put(name: str, tensor: Tensor) -> Change:
    return lambda tensors: tensors.update({name: tensor})


def without(name: str) -> Change:
    return lambda tensors: tensors.pop(name)


TENSORS: list[tuple[str, Change, str]] = [
    ("nf4", without("m.weight.quant_state.bitsandbytes__nf4"), "m.weight has 0 tensors quant_state"),
    ("nf4", put("m.weight.quant_map", torch.zeros(16)), "m.weight.quant_map is not the table of nf4"),
    ("nf4", put("m.weight.absmax", torch.zeros(3)), "m.weight.absmax is [3] float32, expected [20]"),
    ("nf4", put("m.weight", torch.zeros((9, 1), dtype=torch.uint8)), "m.weight is [9, 1], expected 640 bytes"),
    ("nf4, double", without("m.weight.nested_quant_map"), "has no m.weight.nested_quant_map"),
    ("int8", put("m.weight_format", torch.tensor(1, dtype=torch.uint8)), "m.weight_format says that m.weight is tiled"),
    ("int8", put("m.SCB", torch.zeros(3)), "m.SCB is [3] float32, expected [40] float32"),
    ("int8", put("n.qweight", torch.zeros((4, 4), dtype=torch.int32)), "says bitsandbytes, but there is GPTQ or AWQ"),
    ("gptq 8", put("m.g_idx", torch.full((32,), 7, dtype=torch.int32)), "m.g_idx holds 7 to 7, expected 0 to 1"),
    ("gptq 8", put("m.qzeros", torch.full((2, 10), -1, dtype=torch.int32)), "as a zero point of 256, others as 0"),
    ("awq", without("m.qzeros"), "has no m.qzeros"),
    ("awq", put("m.g_idx", torch.zeros(32, dtype=torch.int32)), "m.g_idx lies beside a weight of awq, which has none"),
    ("packed 4", without("m.weight_shape"), "has no m.weight_shape"),
    ("packed 4", put("m.weight_zero_point", torch.zeros((5, 4), dtype=torch.int32)), "m.weight_zero_point lies beside"),
    ("blocks", put("m.weight_scale_2", torch.zeros(1)), "m.weight_scale_2 lies beside a weight of fp8"),
    ("float8 without scales", put("m.scale_weight", torch.ones(1)), "config.json says nothing of quantisation"),
]


@pytest.mark.parametrize(("case", "change", "said"), TENSORS)
def test_tensors(case: str, change: Change, said: str, tmp_path: Path) -> None:
    assert said in refusal(tmp_path / "base", case, change=change)


def test_scales_without_a_word_in_the_configuration(tmp_path: Path) -> None:
    case = Case(None, float8("weight_scale_inv", 8, 8))
    assert "config.json says nothing of quantisation, its tensors" in refusal(tmp_path / "base", case)


def test_weights_that_lie_turned(tmp_path: Path) -> None:
    write_module(tmp_path, CASES["nf4"])
    config = json.loads((tmp_path / "config.json").read_text()) | {"model_type": "gpt2"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(RefusedError, match="is a quantised gpt2, whose weights lie turned"):
        BaseModel.open(tmp_path, quantised="dequantised")


def test_settings_without_quantised_tensors(tmp_path: Path) -> None:
    save_file({"m.weight": torch.ones(4, 4)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": {"quant_method": "bitsandbytes"}}))
    with pytest.raises(RefusedError, match="config.json says bitsandbytes, its tensors are not quantised"):
        BaseModel.open(tmp_path, quantised="dequantised")


def test_several_settings(tmp_path: Path) -> None:
    write_module(tmp_path, CASES["nf4"])
    config = json.loads((tmp_path / "config.json").read_text())
    config["text_config"] = {"quantization_config": {"quant_method": "gptq"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(RefusedError, match="in several ways"):
        BaseModel.open(tmp_path, quantised="dequantised")


def test_pytorch_files(tmp_path: Path) -> None:
    write_module(tmp_path, CASES["int8"])
    torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(RefusedError, match="pytorch_model.bin is quantised and a PyTorch file"):
        BaseModel.open(tmp_path, quantised="dequantised")


def test_a_model_that_is_not_quantised_opens_as_it_is(tmp_path: Path) -> None:
    save_file({"m.weight": torch.ones(4, 4)}, tmp_path / "model.safetensors")
    assert BaseModel.open(tmp_path, quantised="dequantised").stored("m.weight").dtype == torch.float32
