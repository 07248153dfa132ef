"""Experts that an adapter names one by one, on models that stack them in memory, and their routers."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

from adaptzip.distillation.student import Guest, magnitudes_of
from adaptzip.errors import BaseModelError, RefusedError
from adaptzip.fitting.calibration import calibrate
from adaptzip.models.live.running import load_bare, load_teacher
from adaptzip.restoring.merging import merge
from adaptzip.restoring.reading import read
from tests.cases import tiny_peft
from tests.cases.models_on_disk import TEXTS, save
from tests.cases.renamed_models import llama4
from tests.cases.teachers import CPU

SIZES = {"num_hidden_layers": 2, "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2}


def loud(model: nn.Module) -> Any:
    """With weights large enough for experts to differ."""
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data *= 10
    return model


def mixtral() -> Any:
    return loud(tiny_peft.mixtral())


def qwen() -> Any:
    tiny_peft.set_seed(0)
    sizes = {**SIZES, "moe_intermediate_size": 12, "num_experts": 3, "num_experts_per_tok": 2, "head_dim": 8}
    return loud(Qwen3MoeForCausalLM(Qwen3MoeConfig(vocab_size=32, num_key_value_heads=1, **sizes)))


def gpt_oss() -> Any:
    model = loud(tiny_peft.gpt_oss())
    model.config.num_experts_per_tok = 2
    return model


MIXTRAL = {"w1": (24, 16), "w2": (16, 24), "w3": (24, 16)}
QWEN = {"gate_proj": (12, 16), "up_proj": (12, 16), "down_proj": (16, 12)}


def each(
    prefix: str, shapes: Mapping[str, tuple[int, int]], experts: Iterable[int] = range(3)
) -> dict[str, tuple[int, int]]:
    """Shapes of every expert's projections in both layers."""
    return {
        f"model.layers.{layer}.{prefix}.experts.{expert}.{name}": shape
        for layer in (0, 1)
        for expert in experts
        for name, shape in shapes.items()
    }


def written(folder: Path, shapes: Mapping[str, tuple[int, int]], **config: object) -> Path:
    """An adapter with random numbers, as programs on transformers 4 saved it."""
    folder.mkdir()
    generator = torch.Generator().manual_seed(5)
    tensors: dict[str, Tensor] = {}
    ranks = config.get("rank_pattern") or {}
    assert isinstance(ranks, dict)
    for name, (out, width) in shapes.items():
        rank = ranks.get(name.rpartition(".")[2], 2)
        tensors[f"base_model.model.{name}.lora_A.weight"] = 0.5 * torch.randn(rank, width, generator=generator)
        tensors[f"base_model.model.{name}.lora_B.weight"] = 0.5 * torch.randn(out, rank, generator=generator)
        if config.get("use_dora"):
            tensors[f"base_model.model.{name}.lora_magnitude_vector"] = 1 + torch.rand(out, generator=generator)
    save_file(tensors, folder / "adapter_model.safetensors")
    told = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 4, "bias": "none",
        "target_modules": sorted({name.rpartition(".")[2] for name in shapes}), "peft_version": "0.17.0", **config,
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(told))
    return folder


def logits(model: nn.Module, rows: Iterable[Tensor]) -> Tensor:
    with torch.no_grad():
        return torch.cat([model(input_ids=ids[None]).logits[0] for ids in rows])


BOTH = pytest.mark.parametrize(
    ("make", "shapes"), [(mixtral, each("block_sparse_moe", MIXTRAL)), (qwen, each("mlp", QWEN))], ids=["w1", "gate"]
)


@BOTH
def test_experts_one_by_one_are_as_peft_converts_them(
    make: Callable[[], Any], shapes: dict[str, tuple[int, int]], tmp_path: Path
) -> None:
    base, folder = save(make, tmp_path / "base"), written(tmp_path / "a", shapes)
    loaded = load_teacher(base, read(folder), CPU)
    rows = [loaded.batch([ids]).ids[0] for ids in ([2, 3, 4, 5], [7, 3])]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        live = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder).eval()
    found = torch.cat([loaded(loaded.batch([ids.tolist()])) for ids in rows])
    torch.testing.assert_close(found, logits(live, rows), atol=1e-5, rtol=1e-5)
    assert (found - logits(AutoModelForCausalLM.from_pretrained(base), rows)).abs().max() > 0.1


@BOTH
@pytest.mark.parametrize(
    "more", [{}, {"use_dora": True}, {"use_rslora": True}, {"rank_pattern": {"w1": 3, "up_proj": 3}}]
)
def test_they_are_as_merged_and_as_a_guest_under_them(
    make: Callable[[], Any], shapes: dict[str, tuple[int, int]], more: dict[str, object], tmp_path: Path
) -> None:
    base, folder = save(make, tmp_path / "base"), written(tmp_path / "a", shapes, **more)
    adapter = read(folder)
    loaded = load_teacher(base, adapter, CPU)
    merge(adapter, base, tmp_path / "merged")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    (batch,) = loaded.batches(TEXTS, 8, 64)
    expected = logits(merged, [part.ids[0] for part in batch.each()])
    torch.testing.assert_close(loaded(batch), expected, atol=1e-5, rtol=1e-5)
    guest = Guest(load_bare(base, adapter, CPU), magnitudes_of(adapter.modules))
    updates = {name: ((m.A * m.scaling).requires_grad_(), m.B) for name, m in adapter.modules.items()}
    out = guest(batch, updates)
    torch.testing.assert_close(out.detach(), expected, atol=1e-4, rtol=1e-4)
    torch.autograd.backward(out.square().sum())
    assert all(A.grad is not None for A, _ in updates.values())


def test_a_router_and_its_experts(tmp_path: Path) -> None:
    shapes = {"model.layers.0.block_sparse_moe.gate": (3, 16), **each("block_sparse_moe", MIXTRAL, [1])}
    base, folder = save(mixtral, tmp_path / "base"), written(tmp_path / "a", shapes)
    adapter = read(folder)
    loaded = load_teacher(base, adapter, CPU)
    merge(adapter, base, tmp_path / "merged")
    (batch,) = loaded.batches(TEXTS, 8, 64)
    rows = [part.ids[0] for part in batch.each()]
    expected = logits(AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval(), rows)
    torch.testing.assert_close(loaded(batch), expected, atol=1e-5, rtol=1e-5)
    guest = Guest(load_bare(base, adapter, CPU))
    updates = {name: (m.A * m.scaling, m.B) for name, m in adapter.modules.items()}
    torch.testing.assert_close(guest(batch, updates), expected, atol=1e-4, rtol=1e-4)
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(TEXTS))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = calibrate(base, adapter, texts)
    assert found.importance.keys() == adapter.modules.keys()
    assert found.importance["model.layers.0.block_sparse_moe.gate"] > 0


def test_an_expert_that_is_not_there_is_named(tmp_path: Path) -> None:
    base = save(mixtral, tmp_path / "base")
    folder = written(tmp_path / "a", each("block_sparse_moe", MIXTRAL, [7]))
    with pytest.raises(BaseModelError, match=r"experts\.7\.w1 is none of the 3 experts there"):
        load_teacher(base, read(folder), CPU)


def test_projections_that_lie_as_columns(tmp_path: Path) -> None:
    base = save(lambda: loud(llama4()), tmp_path / "base")
    shapes = {"gate_proj": (24, 16), "up_proj": (24, 16), "down_proj": (16, 24)}
    folder = written(
        tmp_path / "a", {f"model.layers.0.feed_forward.experts.{e}.{p}": s for p, s in shapes.items() for e in (0, 2)}
    )
    merge(read(folder), base, tmp_path / "merged")
    loaded, rows = load_teacher(base, read(folder), CPU), [torch.tensor([2, 3, 4, 5])]
    expected = logits(AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval(), rows)
    torch.testing.assert_close(loaded(loaded.batch([rows[0].tolist()])), expected, atol=1e-5, rtol=1e-5)
    bare = logits(AutoModelForCausalLM.from_pretrained(base).eval(), rows)
    assert float((bare - expected).abs().max()) > 0.01


def test_projections_by_turns_are_refused(tmp_path: Path) -> None:
    base = save(gpt_oss, tmp_path / "base")
    one = {"model.layers.0.mlp.experts.1.down_proj": (16, 24)}
    merge(read(written(tmp_path / "a", one)), base, tmp_path / "merged")
    loaded = load_teacher(base, read(tmp_path / "a"), CPU)
    rows = [torch.tensor([2, 3, 4, 5])]
    expected = logits(AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval(), rows)
    torch.testing.assert_close(loaded(loaded.batch([rows[0].tolist()])), expected, atol=1e-5, rtol=1e-5)
    folder = written(tmp_path / "b", {"model.layers.0.mlp.experts.1.up_proj": (24, 16)})
    with pytest.raises(RefusedError, match="gate_up_proj has the outputs of the experts' projections by turns"):
        load_teacher(base, read(folder), CPU)
