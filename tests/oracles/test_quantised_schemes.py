"""Quantised weights are read as the libraries that wrote them dequantise them, bit for bit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from adaptzip.models.folder import BaseModel

pytestmark = pytest.mark.oracle
BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32


def check(folder: Path, tensors: Mapping[str, Tensor], settings: Mapping[str, Any], expected: Tensor) -> None:
    """Hold what is read of a module `m` against what the library makes of it, whole and in part."""
    folder.mkdir(exist_ok=True)
    save_file({f"m.{name}": tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"quantization_config": settings}))
    base = BaseModel.open(folder, quantised="dequantised")
    assert torch.equal(base.read("m.weight"), expected.float())
    assert torch.equal(base.read("m.weight", (5, 23)), expected.float()[5:23])


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("storage", [torch.uint8, BF16])
@pytest.mark.parametrize(("shape", "block"), [((128, 64), 64), ((40, 256), 128), ((300, 192), 64), ((70, 130), 64)])
def test_four_bits(
    kind: str, double: bool, storage: torch.dtype, shape: tuple[int, int], block: int, tmp_path: Path
) -> None:
    functional = pytest.importorskip("bitsandbytes.functional", reason="bitsandbytes is not installed")
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(FP16)
    packed, state = functional.quantize_4bit(
        weight, blocksize=block, compress_statistics=double, quant_type=kind, quant_storage=storage
    )
    tensors = {f"weight.{name}": tensor for name, tensor in state.as_dict(packed=True).items()}
    state.dtype = FP32
    expected = functional.dequantize_4bit(packed, state)
    check(tmp_path, {"weight": packed, **tensors}, {"quant_method": "bitsandbytes"}, expected)


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_four_bits_of_rows_that_end_inside_a_block(kind: str, tmp_path: Path) -> None:
    """There bitsandbytes' kernel for AVX-512 is off by whole steps, so that its own reference is asked."""
    functional = pytest.importorskip("bitsandbytes.functional", reason="bitsandbytes is not installed")
    from bitsandbytes.backends.default import ops
    from bitsandbytes.backends.utils import _get_4bit_code

    weight = torch.randn((40, 96), generator=torch.Generator().manual_seed(0))
    packed, state = functional.quantize_4bit(weight, blocksize=64, quant_type=kind)
    tensors = {f"weight.{name}": tensor for name, tensor in state.as_dict(packed=True).items()}
    code = _get_4bit_code(kind, torch.device("cpu"))
    expected = ops._dequantize_4bit_compute(packed.reshape(-1), state.absmax, code, 64, (40, 96), FP32)
    check(tmp_path, {"weight": packed, **tensors}, {"quant_method": "bitsandbytes"}, expected)


def test_eight_bits(tmp_path: Path) -> None:
    functional = pytest.importorskip("bitsandbytes.functional", reason="bitsandbytes is not installed")
    weight = torch.randn((60, 40), generator=torch.Generator().manual_seed(0)).to(FP16)
    numbers, largest, _ = functional.int8_vectorwise_quant(weight)
    tensors = {"weight": numbers, "SCB": largest, "weight_format": torch.tensor(0, dtype=torch.uint8)}
    expected = functional.int8_vectorwise_dequant(numbers, largest)
    check(tmp_path, tensors, {"quant_method": "bitsandbytes"}, expected)


_GROUP, _CHANNEL, _TENSOR = {"strategy": "group", "group_size": 32}, {"strategy": "channel"}, {"strategy": "tensor"}
_BLOCK = {"strategy": "block", "block_structure": [16, 8]}
FORMS = [
    ("pack-quantized", {"num_bits": bits, "type": "int", "symmetric": symmetric, **strategy})
    for bits in (3, 4, 8)
    for symmetric in (True, False)
    for strategy in (_GROUP, _CHANNEL, _TENSOR)
]
FORMS += [
    ("int-quantized", {"num_bits": 8, "type": "int", "symmetric": symmetric, **strategy})
    for symmetric in (True, False)
    for strategy in (_GROUP, _CHANNEL, _TENSOR, _BLOCK)
]
FORMS += [
    (form, {"num_bits": 8, "type": "float", "symmetric": True, **strategy})
    for form in ("float-quantized", "naive-quantized")
    for strategy in (_GROUP, _CHANNEL, _TENSOR, _BLOCK)
]


@pytest.mark.parametrize("dtype", [FP32, BF16, FP16])
@pytest.mark.parametrize(("form", "weights"), FORMS, ids=str)
def test_compressed(form: str, weights: dict[str, Any], dtype: torch.dtype, tmp_path: Path) -> None:
    compressors = pytest.importorskip("compressed_tensors.compressors", reason="compressed-tensors is not installed")
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    out, width = 40, 96
    args = QuantizationArgs(**weights)
    scheme = QuantizationScheme(targets=["Linear"], weights=args)
    counts = {"tensor": (1,), "channel": (out, 1), "group": (out, 3), "block": (3, 12)}[weights["strategy"]]
    generator = torch.Generator().manual_seed(0)
    state = {
        "weight": torch.randn((out, width), generator=generator).to(dtype),
        "weight_scale": (torch.rand(counts, generator=generator) * 0.1 + 0.05).to(dtype),
    }
    if not weights["symmetric"]:
        half = 1 << (weights["num_bits"] - 1)
        state["weight_zero_point"] = torch.randint(-half, half, counts, generator=generator).to(torch.int8)
    compressor = compressors.BaseCompressor.get_value_from_registry(form)
    tensors = compressor.compress(state, scheme)
    settings = {
        "quant_method": "compressed-tensors", "format": form, "quantization_status": "compressed",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": args.model_dump(mode="json")}},
    }  # fmt: skip
    check(tmp_path, tensors, settings, compressor.decompress(tensors, scheme)["weight"])


@pytest.mark.parametrize("block", [(16, 8), (40, 32), (8, 32)])
def test_fine_grained_float8(block: tuple[int, int], tmp_path: Path) -> None:
    integration = pytest.importorskip("transformers.integrations.finegrained_fp8", reason="transformers has none")
    generator = torch.Generator().manual_seed(0)
    numbers = (torch.randn((80, 64), generator=generator) * 60).to(torch.float8_e4m3fn)
    scales = torch.rand((80 // block[0], 64 // block[1]), generator=generator)
    expected = integration.Fp8Dequantize(None)._dequantize_one(numbers, scales)
    settings = {"quant_method": "fp8", "weight_block_size": list(block)}
    check(tmp_path, {"weight": numbers, "weight_scale_inv": scales}, settings, expected)
