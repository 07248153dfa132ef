"""Merges into models that other libraries quantised: their weights, and what transformers computes with them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import adaptzip

pytest.importorskip("peft", reason="PEFT is in the environment of the oracles")
pytestmark = pytest.mark.oracle

MODULES = ["q_proj", "down_proj", "lm_head"]
TOKENS = torch.arange(1, 20)[None]
Quantise = Callable[[Path, Path], dict[str, Tensor]]
"""Quantises the model in the first folder into the second; returns what its library makes of its weights."""


def float_model(folder: Path) -> None:
    import transformers as tf

    torch.manual_seed(0)
    config = tf.LlamaConfig(
        vocab_size=96, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=False,
    )  # fmt: skip
    tf.LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)


def loaded(folder: Path, **more: Any) -> Any:
    import transformers as tf

    return tf.LlamaForCausalLM.from_pretrained(folder, **more)


def with_bitsandbytes(**options: Any) -> Quantise:
    def quantise(source: Path, target: Path) -> dict[str, Tensor]:
        functional = pytest.importorskip("bitsandbytes.functional", reason="bitsandbytes is not installed")
        import transformers as tf

        settings = tf.BitsAndBytesConfig(**options)
        model = loaded(source, quantization_config=settings, device_map="cpu", dtype=torch.bfloat16)
        model.save_pretrained(target)
        made = {}
        for name, module in model.named_modules():
            weight: Any = getattr(module, "weight", None)
            if type(weight).__name__ == "Params4bit":
                weight.quant_state.dtype = torch.float32
                made[f"{name}.weight"] = functional.dequantize_4bit(weight.data, weight.quant_state)
            elif type(weight).__name__ == "Int8Params":
                made[f"{name}.weight"] = functional.int8_vectorwise_dequant(weight.data, weight.SCB)
        return made

    return quantise


def with_compressed_tensors(source: Path, target: Path) -> dict[str, Tensor]:
    compressors = pytest.importorskip("compressed_tensors.compressors", reason="compressed-tensors is not installed")
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    args = QuantizationArgs(num_bits=4, type="int", symmetric=True, strategy="group", group_size=32)
    scheme = QuantizationScheme(targets=["Linear"], weights=args)
    compressor = compressors.BaseCompressor.get_value_from_registry("pack-quantized")
    tensors = load_file(source / "model.safetensors")
    made: dict[str, Tensor] = {}
    for name in [name for name in tensors if name.endswith("proj.weight")]:
        weight = tensors.pop(name)
        scale = weight.reshape(weight.shape[0], -1, 32).abs().amax(-1) / 7
        stored = compressor.compress({"weight": weight, "weight_scale": scale}, scheme)
        made[name] = compressor.decompress(stored, scheme)["weight"].float()
        tensors |= {f"{name.removesuffix('weight')}{part}": t.contiguous() for part, t in stored.items()}
    settings = {
        "quant_method": "compressed-tensors", "format": "pack-quantized", "quantization_status": "compressed",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": args.model_dump(mode="json")}},
        "ignore": ["lm_head"],
    }  # fmt: skip
    return write(source, target, tensors, settings, made)


def by_hand(source: Path, target: Path) -> dict[str, Tensor]:
    """DeepSeek's form, which transformers reads on a CPU by dequantising it."""
    tensors = load_file(source / "model.safetensors")
    for name in [name for name in tensors if name.endswith("proj.weight")]:
        rows, width = tensors[name].shape
        blocks = tensors[name].float().reshape(rows // 32, 32, width // 16, 16)
        scale = blocks.abs().amax((1, 3)) / 448
        tensors[name] = (blocks / scale[:, None, :, None]).reshape(rows, width).to(torch.float8_e4m3fn)
        tensors[f"{name}_scale_inv"] = scale
    settings = {"quant_method": "fp8", "weight_block_size": [32, 16], "activation_scheme": "dynamic"}
    write(source, target, tensors, settings, {})
    state = loaded(target, dtype=torch.float32).state_dict()
    return {name: state[name] for name in tensors if name.endswith("proj.weight")}


def write(
    source: Path, target: Path, tensors: dict[str, Tensor], settings: dict[str, Any], made: dict[str, Tensor]
) -> dict[str, Tensor]:
    target.mkdir()
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((source / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**config, "quantization_config": settings}))
    return made


WAYS: dict[str, Quantise] = {
    "nf4": with_bitsandbytes(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16),
    "fp4, double": with_bitsandbytes(load_in_4bit=True, bnb_4bit_quant_type="fp4", bnb_4bit_use_double_quant=True),
    "nf4 in bfloat16": with_bitsandbytes(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_quant_storage=torch.bfloat16
    ),
    "int8": with_bitsandbytes(load_in_8bit=True),
    "compressed-tensors": with_compressed_tensors,
    "float8 in blocks": by_hand,
}


def adapter(base: Path, folder: Path) -> None:
    import peft

    torch.manual_seed(1)
    config = peft.LoraConfig(r=4, target_modules=MODULES, init_lora_weights=False, lora_alpha=2)
    peft.get_peft_model(loaded(base), config).save_pretrained(folder)


def merged_by_peft(base: Path, folder: Path, weights: dict[str, Tensor]) -> Any:
    """The base with these weights in float32, and the adapter merged into it by PEFT."""
    import peft

    model = loaded(base, dtype=torch.float32)
    missing = model.load_state_dict(weights, strict=False).unexpected_keys
    assert not missing
    return peft.PeftModel.from_pretrained(model, folder).merge_and_unload()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("way", WAYS)
def test_dequantised(way: str, tmp_path: Path) -> None:
    float_model(tmp_path / "float")
    weights = WAYS[way](tmp_path / "float", tmp_path / "base")
    adapter(tmp_path / "float", tmp_path / "adapter")
    report = adaptzip.merge(tmp_path / "adapter", tmp_path / "base", tmp_path / "merged", dequantise=True)
    assert report.rounding is not None
    assert report.rounding.kept is not None
    assert report.rounding.kept > 0.999
    exact = merged_by_peft(tmp_path / "float", tmp_path / "adapter", weights)
    live = exact.state_dict()
    assert len(weights) == 14
    written = load_file(tmp_path / "merged" / "model.safetensors")
    assert written.keys() == live.keys()
    for name, tensor in written.items():
        assert torch.equal(tensor, live[name].to(torch.bfloat16)), name
    found = loaded(tmp_path / "merged", dtype="auto")
    assert found.dtype == torch.bfloat16
    with torch.no_grad():
        expected, got = exact.float()(TOKENS).logits, found.float()(TOKENS).logits
    assert float((got - expected).norm() / expected.norm()) < 0.01
    assert adaptzip.check(tmp_path / "merged", tmp_path / "base", tmp_path / "adapter").verdict == "exact"


@pytest.mark.filterwarnings("ignore")
def test_requantised(tmp_path: Path) -> None:
    float_model(tmp_path / "float")
    weights = by_hand(tmp_path / "float", tmp_path / "base")
    adapter(tmp_path / "float", tmp_path / "adapter")
    report = adaptzip.merge(tmp_path / "adapter", tmp_path / "base", tmp_path / "merged", requantise=True)
    exact = merged_by_peft(tmp_path / "float", tmp_path / "adapter", weights).state_dict()
    found = loaded(tmp_path / "merged", dtype=torch.float32).state_dict()
    updates = {
        name: exact[name] - weights[name] for name in weights if name.endswith(("q_proj.weight", "down_proj.weight"))
    }
    wrong = sum(float((found[name] - exact[name]).double().square().sum()) for name in updates)
    all_of_it = sum(float(update.double().square().sum()) for update in updates.values())
    assert report.rounding is not None
    assert report.rounding.kept is not None
    # The head, which is not quantised, is among the modules as well.
    assert 1 - wrong / all_of_it <= report.rounding.kept < 1
    untouched = [name for name in weights if name not in updates]
    assert all(torch.equal(found[name], weights[name]) for name in untouched)
