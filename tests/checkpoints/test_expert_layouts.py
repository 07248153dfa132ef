"""Experts' factors in other layouts than that of today's PEFT: as PEFT 0.18 wrote them, and expert by expert."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import GptOssConfig, GptOssForCausalLM, MixtralConfig, MixtralForCausalLM, set_seed

import adaptzip
from adaptzip.errors import AdaptzipWarning, CheckpointError
from adaptzip.restoring.reading import read
from tests.cases.tiny_peft import merged_by_peft

EXPERTS = "model.layers.0.mlp.experts"
E, R, HIDDEN, SCALE = 3, 2, 16, 2.0


def mixtral(inner: int) -> Any:
    """Experts of gate_up_proj (3, 2 * inner, 16) and down_proj (3, 16, inner)."""
    set_seed(0)
    sizes = {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "num_experts_per_tok": 2}
    config = MixtralConfig(vocab_size=32, hidden_size=HIDDEN, intermediate_size=inner, num_local_experts=E, **sizes)
    return MixtralForCausalLM(config)


def gpt_oss() -> Any:
    """Experts of gate_up_proj (3, 16, 32) and down_proj (3, 16, 16), both (in, out)."""
    set_seed(0)
    sizes = {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}
    config = GptOssConfig(
        vocab_size=32, hidden_size=HIDDEN, intermediate_size=HIDDEN, num_local_experts=E,
        layer_types=["full_attention"], **sizes,
    )  # fmt: skip
    return GptOssForCausalLM(config)


def old_factors(shape: tuple[int, ...], seed: int) -> tuple[Tensor, Tensor]:
    """A (experts * rank, d1) and B (d2, rank * experts) of a parameter (experts, d1, d2)."""
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(E * R, shape[1], generator=generator),
        torch.randn(shape[2], R * E, generator=generator),
    )


def old_change(a: Tensor, b: Tensor) -> Tensor:
    """What PEFT 0.18.1 adds to the parameter, by its own formula."""
    return torch.einsum("ore,eri->eio", b.reshape(b.shape[0], R, E), a.reshape(E, R, -1)) * SCALE


def save(folder: Path, tensors: Mapping[str, Tensor], **config: Any) -> Path:
    folder.mkdir(exist_ok=True)
    save_file(
        {"base_model.model." + key: t.contiguous() for key, t in tensors.items()}, folder / "adapter_model.safetensors"
    )
    plain = {"peft_type": "LORA", "r": R, "lora_alpha": R * SCALE, "target_modules": [], "task_type": "CAUSAL_LM"}
    (folder / "adapter_config.json").write_text(json.dumps(plain | config))
    return folder


def old_adapter(folder: Path, model: nn.Module, names: tuple[str, ...], **config: Any) -> dict[str, Tensor]:
    """Save an adapter in the old layout; the changes it makes, by the parameter's name."""
    parameters = dict(model.named_parameters())
    tensors: dict[str, Tensor] = {}
    changes: dict[str, Tensor] = {}
    for depth, name in enumerate(reversed(names)):  # The first declared is the innermost.
        a, b = old_factors(tuple(parameters[f"{EXPERTS}.{name}"].shape), len(name))
        at = EXPERTS + ".base_layer" * depth
        tensors |= {f"{at}.lora_A.weight": a, f"{at}.lora_B.weight": b}
        changes[f"{EXPERTS}.{name}"] = old_change(a, b)
    targets = [f"mlp.experts.{name}" for name in names]
    save(folder, tensors, **({"peft_version": "0.18.1", "target_parameters": targets} | config))
    return changes


BOTH, UP, DOWN = ("gate_up_proj", "down_proj"), ("gate_up_proj",), ("down_proj",)


@pytest.mark.parametrize("version", ["0.17.1", "0.18.0", "0.18.1"])
@pytest.mark.parametrize(("inner", "names"), [(6, UP), (8, UP), (6, BOTH), (8, BOTH), (16, BOTH), (16, DOWN)], ids=str)
def test_factors_of_peft_018_change_what_they_changed_there(
    tmp_path: Path, inner: int, names: tuple[str, ...], version: str
) -> None:
    """Merged as they are, and exported in the layout that today's PEFT loads; square ones and oblong ones."""
    model = mixtral(inner)
    model.save_pretrained(tmp_path / "base")
    changes = old_adapter(tmp_path / "a", model, names, peft_version=version)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    adaptzip.merge(tmp_path / "a", tmp_path / "base", tmp_path / "merged")
    merged = MixtralForCausalLM.from_pretrained(tmp_path / "merged").state_dict()
    for name, tensor in before.items():
        torch.testing.assert_close(merged[name], tensor + changes.get(name, torch.zeros(())), rtol=1e-5, atol=1e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AdaptzipWarning)
        adaptzip.compress(tmp_path / "a", tmp_path / "a.adz", lossless=True)
    adaptzip.export(tmp_path / "a.adz", tmp_path / "out")
    loaded = merged_by_peft(mixtral(inner), tmp_path / "out")
    for name in changes:
        torch.testing.assert_close(loaded[name], merged[name], rtol=1e-5, atol=1e-5)
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["peft_version"] == "0.19.0"
    again, first = read(tmp_path / "out"), read(tmp_path / "a.adz")
    assert all(torch.equal(again.modules[n].delta(), m.delta()) for n, m in first.modules.items())


@pytest.mark.parametrize("names", [BOTH, DOWN])
def test_models_that_store_experts_transposed_kept_their_layout(tmp_path: Path, names: tuple[str, ...]) -> None:
    """Of gpt-oss, whose down_proj is square, both versions of PEFT save the same."""
    model = gpt_oss()
    model.save_pretrained(tmp_path / "base")
    changes = old_adapter(tmp_path / "a", model, names, base_model_name_or_path="openai/gpt-oss-20b")
    loaded = merged_by_peft(GptOssForCausalLM.from_pretrained(tmp_path / "base"), tmp_path / "a")
    before = model.state_dict()
    adaptzip.export(tmp_path / "a", tmp_path / "out")
    for name, change in changes.items():
        torch.testing.assert_close(loaded[name], before[name] + change, rtol=1e-5, atol=1e-5)
    again = merged_by_peft(GptOssForCausalLM.from_pretrained(tmp_path / "base"), tmp_path / "out")
    assert all(torch.equal(again[name], loaded[name]) for name in changes)
    adaptzip.merge(tmp_path / "a", tmp_path / "base", tmp_path / "merged")
    merged = GptOssForCausalLM.from_pretrained(tmp_path / "merged").state_dict()
    for name in changes:
        torch.testing.assert_close(merged[name], loaded[name], rtol=1e-5, atol=1e-5)


def test_it_is_said_where_only_the_base_could_tell(tmp_path: Path) -> None:
    old_adapter(tmp_path / "a", mixtral(8), UP)
    with pytest.warns(AdaptzipWarning, match=r"lie as PEFT 0\.18\.1 wrote them; they are read for a base model"):
        read(tmp_path / "a")
    mixtral(8).save_pretrained(tmp_path / "base")
    old_adapter(tmp_path / "b", mixtral(6), BOTH)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read(tmp_path / "a", base=tmp_path / "base")
        read(tmp_path / "b")


def test_without_a_version_the_shapes_decide_or_the_version_is_asked_for(tmp_path: Path) -> None:
    model = mixtral(8)
    old_adapter(tmp_path / "a", model, UP, peft_version=None)
    with pytest.raises(CheckpointError, match="gate_up_proj are square, and adapter_config.json has no peft_version"):
        read(tmp_path / "a")
    changes = old_adapter(tmp_path / "b", model, BOTH, peft_version=None)
    for name, factors in read(tmp_path / "b").modules.items():
        path, _, number = name.partition("[")
        torch.testing.assert_close(factors.delta(), changes[path][int(number[:-1])])


def test_the_hidden_width_of_other_modules_decides_too(tmp_path: Path) -> None:
    a, b = old_factors((E, 12, HIDDEN), 1)
    attention = {
        "model.layers.0.self_attn.q_proj.lora_A.weight": torch.ones(R, HIDDEN),
        "model.layers.0.self_attn.q_proj.lora_B.weight": torch.ones(HIDDEN, R),
    }
    tensors = {f"{EXPERTS}.lora_A.weight": a, f"{EXPERTS}.lora_B.weight": b}
    options: dict[str, Any] = {"target_modules": ["q_proj"], "target_parameters": ["mlp.experts.gate_up_proj"]}
    adapter = read(save(tmp_path, tensors | attention, **options))
    torch.testing.assert_close(adapter.modules[f"{EXPERTS}.gate_up_proj[1]"].delta(), old_change(a, b)[1])


SHAPES = {"gate_up_proj": (12, HIDDEN), "down_proj": (HIDDEN, 6)}


def listed(rank: int) -> dict[str, Tensor]:
    """Factors that lie expert by expert: A (experts, rank, in) and B (experts, out, rank)."""
    generator = torch.Generator().manual_seed(3)
    tensors = {}
    for name, (out, width) in SHAPES.items():
        tensors[f"{EXPERTS}.{name}.lora_A.weight"] = torch.randn(E, rank, width, generator=generator)
        tensors[f"{EXPERTS}.{name}.lora_B.weight"] = torch.randn(E, out, rank, generator=generator)
    return tensors


@pytest.mark.parametrize("rank", [1, 2])
def test_factors_expert_by_expert_are_read(tmp_path: Path, rank: int) -> None:
    tensors = listed(rank)
    folder = save(tmp_path / "a", tensors, r=rank, lora_alpha=2 * rank, target_modules=list(SHAPES))
    base = mixtral(6)
    base.save_pretrained(tmp_path / "base")
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    adaptzip.merge(folder, tmp_path / "base", tmp_path / "merged")
    merged = MixtralForCausalLM.from_pretrained(tmp_path / "merged").state_dict()
    adaptzip.export(folder, tmp_path / "out")
    loaded = merged_by_peft(base, tmp_path / "out")
    for name in SHAPES:
        at = f"{EXPERTS}.{name}"
        change = torch.einsum("eor,eri->eoi", tensors[f"{at}.lora_B.weight"], tensors[f"{at}.lora_A.weight"]) * 2
        torch.testing.assert_close(merged[at], before[at] + change, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(loaded[at], before[at] + change, rtol=1e-5, atol=1e-5)
    alone = tmp_path / "alone"
    alone.mkdir()
    save_file(load_file(folder / "adapter_model.safetensors"), alone / "lora.safetensors")
    assert read(alone / "lora.safetensors", alpha=2 * rank).modules.keys() == read(folder).modules.keys()


def test_a_rank_that_the_configuration_denies_is_named(tmp_path: Path) -> None:
    folder = save(tmp_path, listed(1), r=E, target_modules=list(SHAPES))
    with pytest.raises(CheckpointError, match=f"as {E} experts of rank 1 would, but adapter_config.json says rank {E}"):
        read(folder)
