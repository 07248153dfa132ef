"""Modules under other prefixes: towers of one model, experts that the base fuses, and wrappers in the names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor

from adaptzip.bases.weights import basis_from_base
from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.core.compressed import Site
from adaptzip.errors import BaseModelError, CheckpointError, RefusedError
from adaptzip.models.folder import BaseModel
from adaptzip.models.renaming import find_renaming
from adaptzip.restoring.merging import merge
from tests.cases.base_folders import MODULE, adapter, write_llama
from tests.cases.merge_cases import assert_same_tensors, tensors_of
from tests.cases.tiny_peft import randomise

_SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}


def gemma3() -> tf.PreTrainedModel:
    text = {**_SIZES, "vocab_size": 40, "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0}
    vision = {**_SIZES, "image_size": 16, "patch_size": 8}
    ids = {"image_token_index": 39, "boi_token_index": 38, "eoi_token_index": 37, "mm_tokens_per_image": 4}
    return tf.Gemma3ForConditionalGeneration(tf.Gemma3Config(text_config=text, vision_config=vision, **ids))


def qwen2vl() -> tf.PreTrainedModel:
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    text = {**_SIZES, "vocab_size": 40, "num_key_value_heads": 2, "rope_parameters": rope}
    vision = {"depth": 1, "embed_dim": 16, "hidden_size": 16, "num_heads": 2, "mlp_ratio": 2, "patch_size": 4}
    ids = {"image_token_id": 39, "video_token_id": 38, "vision_start_token_id": 37, "vision_end_token_id": 36}
    config = tf.Qwen2VLConfig(text_config=text, vision_config={**vision, "spatial_merge_size": 2}, **ids)
    return tf.Qwen2VLForConditionalGeneration(config)


@pytest.mark.parametrize(
    ("make", "targets"),
    [
        (gemma3, r".*(language_model|vision_tower).*\.(q_proj|v_proj)"),
        (gemma3, r".*language_model.*\.(q_proj|v_proj)"),
        (gemma3, r".*vision_tower.*\.(q_proj|v_proj)"),
        (qwen2vl, ["q_proj", "qkv", "fc1"]),
    ],
)
def test_towers_whose_prefixes_changed_apart(make: Any, targets: Any, tmp_path: Path) -> None:
    tf.set_seed(0)
    model = make()
    model.save_pretrained(tmp_path / "base")
    trained = get_peft_model(model, LoraConfig(r=2, target_modules=targets))
    randomise(trained)
    trained.save_pretrained(tmp_path / "adapter")
    merge(tmp_path / "adapter", tmp_path / "base", tmp_path / "merged")
    again = type(model).from_pretrained(tmp_path / "base")
    expected = PeftModel.from_pretrained(again, tmp_path / "adapter").merge_and_unload()
    expected.save_pretrained(tmp_path / "expected")
    assert_same_tensors(tensors_of(tmp_path / "merged"), tensors_of(tmp_path / "expected"))


def test_towers_that_nothing_tells_apart(tmp_path: Path) -> None:
    tensors = {f"{t}.layers.0.q_proj.weight": torch.zeros(4, 4) for t in ("one", "two")}
    tensors["three.blocks.0.q_proj.weight"] = torch.zeros(4, 4)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(BaseModelError, match="several places"):
        find_renaming(BaseModel.open(tmp_path), ["a.layers.0.q_proj", "b.blocks.0.q_proj"])


@pytest.mark.parametrize(
    ("change", "part", "tool"),
    [
        (lambda k: k.replace(".self_attn", "._orig_mod.self_attn"), "_orig_mod", "torch.compile"),
        (lambda k: k.replace(".self_attn", "._checkpoint_wrapped_module.self_attn"), "_checkpoint", "activation"),
        (lambda k: k.replace(".self_attn", "._fsdp_wrapped_module.self_attn"), "_fsdp", "FSDP"),
        (lambda k: k.replace(".self_attn", ".module.self_attn"), "module", "DataParallel"),
        (lambda k: k.replace("layers.0", "layers.0._secret_wrapper"), "_secret_wrapper", "a wrapper"),
        (lambda k: f"{k}.default", "default", "PEFT"),
        (lambda k: f"{k}.base_layer", "base_layer", "PEFT"),
    ],
)
def test_a_wrapper_in_the_names_is_named(change: Any, part: str, tool: str, tmp_path: Path) -> None:
    base = write_llama(tmp_path / "base")
    with pytest.raises(CheckpointError) as error:
        merge(adapter(change(MODULE)), base, tmp_path / "merged")
    assert f"the {part}" in str(error.value).replace("'", "")
    assert f"of {tool}" in str(error.value)
    assert f"stores as {MODULE}" in str(error.value)
    assert "unwrapped model" in str(error.value.hint)


def test_another_model_is_no_wrapper(tmp_path: Path) -> None:
    base = write_llama(tmp_path / "base")
    with pytest.raises(BaseModelError, match="lacks 1 of the adapter's 1 modules") as error:
        merge(adapter("model.layers.0.module.attention.query"), base, tmp_path / "merged")
    assert "is this the base model" in str(error.value.hint)


EXPERTS, HIDDEN, INNER = 3, 16, 6


def fused_base(folder: Path, model_type: str = "qwen3_5_moe_text") -> tuple[Path, dict[str, Tensor]]:
    """Experts as they are in memory: gate and up projections in one parameter, stacked over the experts."""
    generator = torch.Generator().manual_seed(1)
    stack = "model.layers.0.mlp.experts"
    tensors = {
        f"{stack}.gate_up_proj": torch.randn(EXPERTS, 2 * INNER, HIDDEN, generator=generator),
        f"{stack}.down_proj": torch.randn(EXPERTS, HIDDEN, INNER, generator=generator),
    }
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    return folder, tensors


def expert_adapter(*names: str) -> Adapter:
    """Factors for every expert's own projections: gate, up and down by `names`."""
    generator = torch.Generator().manual_seed(2)
    modules = {}
    for expert in range(EXPERTS):
        for name, (out, width) in zip(names, [(INNER, HIDDEN), (INNER, HIDDEN), (HIDDEN, INNER)], strict=True):
            A, B = torch.randn(2, width, generator=generator), torch.randn(out, 2, generator=generator)
            modules[f"model.layers.0.mlp.experts.{expert}.{name}"] = LoraFactors(A, B, 0.5)
    return Adapter(modules)


@pytest.mark.parametrize("names", [("gate_proj", "up_proj", "down_proj"), ("w1", "w3", "w2")])
def test_each_experts_own_update_on_fused_experts(names: tuple[str, ...], tmp_path: Path) -> None:
    base, before = fused_base(tmp_path / "base")
    source = expert_adapter(*names)
    merge(source, base, tmp_path / "merged")
    after = load_file(tmp_path / "merged" / "model.safetensors")
    for expert in range(EXPERTS):
        gate, up, down = (source.modules[f"model.layers.0.mlp.experts.{expert}.{name}"].delta() for name in names)
        for name, delta in (("gate_up_proj", torch.cat([gate, up])), ("down_proj", down)):
            key = f"model.layers.0.mlp.experts.{name}"
            torch.testing.assert_close(after[key][expert], before[key][expert] + delta)


def test_a_basis_of_fused_experts_is_that_of_their_parts(tmp_path: Path) -> None:
    base, tensors = fused_base(tmp_path / "base")
    module = "model.layers.0.mlp.experts.1.up_proj"
    basis = basis_from_base(BaseModel.open(base), {module: Site(INNER, HIDDEN)}, INNER)
    found = basis.modules[module]
    weight = tensors["model.layers.0.mlp.experts.gate_up_proj"][1, INNER:]
    V = found.V.float()
    torch.testing.assert_close(weight @ V @ V.T, weight, atol=1e-4, rtol=0)


def test_fused_experts_that_do_not_fit(tmp_path: Path) -> None:
    source = expert_adapter("gate_proj", "up_proj", "down_proj")
    base, _ = fused_base(tmp_path / "transposed", "gpt_oss")
    with pytest.raises(RefusedError, match="fuses the experts' projections, .* outputs of the two by turns"):
        merge(source, base, tmp_path / "merged")
    base, _ = fused_base(tmp_path / "base")
    module = "model.layers.0.mlp.experts.3.gate_proj"
    with pytest.raises(BaseModelError, match="lacks 1 of the adapter's 1 modules"):
        merge(adapter(module, INNER, HIDDEN), base, tmp_path / "merged")
    with pytest.raises(BaseModelError, match=r"gate_up_proj is \[12, 16\], the adapter's .* expects \[16, 16\]"):
        merge(adapter(module.replace("3", "2"), 8, HIDDEN), base, tmp_path / "merged")
