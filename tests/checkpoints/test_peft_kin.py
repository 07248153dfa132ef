"""DeLoRA and GraLoRA as PEFT saves them mean what PEFT makes of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import DeloraConfig, GraloraConfig, TaskType, get_peft_model
from safetensors.torch import load_file
from torch import Tensor

import adaptzip
from adaptzip.errors import CheckpointError, RefusedError
from adaptzip.restoring.exporting import export
from adaptzip.restoring.merging import merge
from adaptzip.restoring.reading import read
from tests.cases import tiny_peft

Make = Callable[..., Any]
KINDS: dict[str, tuple[Make, dict[str, Any]]] = {
    "delora": (DeloraConfig, {"r": 4, "delora_lambda": 3.0}),
    "delora-ranks": (DeloraConfig, {"r": 4, "rank_pattern": {"(dense|up_proj)": 2}}),
    "delora-biases": (DeloraConfig, {"r": 2, "bias": "delora_only"}),
    "gralora": (GraloraConfig, {"r": 4, "gralora_k": 2, "alpha": 12}),
    "gralora-biases": (GraloraConfig, {"r": 4, "gralora_k": 2, "bias": "all"}),
    "gralora-4": (GraloraConfig, {"r": 8, "gralora_k": 4, "alpha": 12}),
    "gralora-hybrid": (GraloraConfig, {"r": 4, "gralora_k": 2, "hybrid_r": 3}),
}
MODELS: dict[str, tuple[Callable[[], Any], list[str]]] = {
    "llama": (tiny_peft.llama, ["q_proj", "up_proj", "down_proj"]),
    "bert": (tiny_peft.bert, ["query", "dense"]),
}
CASES = [(kind, model) for kind in KINDS for model in MODELS]


def saved(kind: str, name: str, folder: Path) -> None:
    """An adapter of a tiny model with random numbers, beside its base."""
    make, fields = KINDS[kind]
    model, targets = MODELS[name]
    task = TaskType.SEQ_CLS if name == "bert" else TaskType.CAUSAL_LM
    base = model()
    base.save_pretrained(folder / "base")
    tuned = get_peft_model(base, make(target_modules=targets, task_type=task, **fields))
    tiny_peft.randomise(tuned)
    tuned.save_pretrained(folder / "adapter")


def agree(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    for key, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[key], atol=1e-5, rtol=1e-5, msg=key)


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_it_merges_to_the_weights_of_peft(kind: str, name: str, tmp_path: Path) -> None:
    saved(kind, name, tmp_path)
    theirs = tiny_peft.merged_by_peft(MODELS[name][0](), tmp_path / "adapter")
    assert read(tmp_path / "adapter").meta.dialect == f"peft-{kind.partition('-')[0]}"
    merge(tmp_path / "adapter", tmp_path / "base", tmp_path / "merged")
    agree(load_file(tmp_path / "merged" / "model.safetensors"), theirs)


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_it_goes_through_a_file_into_a_plain_lora(kind: str, name: str, tmp_path: Path) -> None:
    saved(kind, name, tmp_path)
    theirs = tiny_peft.merged_by_peft(MODELS[name][0](), tmp_path / "adapter")
    adaptzip.compress(tmp_path / "adapter", tmp_path / "a.adz", lossless=True)
    export(tmp_path / "a.adz", tmp_path / "plain", as_="peft")
    ours = tiny_peft.merged_by_peft(MODELS[name][0](), tmp_path / "plain")
    assert ours.keys() == theirs.keys()
    agree(ours, theirs)


def test_a_strength_below_nothing_turns_the_update_round(tmp_path: Path) -> None:
    saved("delora", "llama", tmp_path)
    before = read(tmp_path / "adapter")
    tiny_peft.changed(tmp_path / "adapter", lambda _, t: t.update({k: -v for k, v in t.items() if "lambda" in k}))
    for name, module in read(tmp_path / "adapter").modules.items():
        torch.testing.assert_close(module.delta(), -before.modules[name].delta())


def test_a_rank_of_zeros_is_none_and_no_nan(tmp_path: Path) -> None:
    saved("delora", "llama", tmp_path)
    tiny_peft.changed(tmp_path / "adapter", lambda _, t: t.update({k: v * 0 for k, v in t.items() if "delora_B" in k}))
    assert not any(module.delta().any() for module in read(tmp_path / "adapter").modules.values())


Q = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("delora", lambda c, t: c.update(r=5), "has rank 4, but adapter_config.json says 5"),
        ("delora", lambda c, t: c.update(r=None), "r is None, expected a whole number"),
        ("delora", lambda c, t: c.update(rank_pattern={"q_proj": 0}), "expected a whole number of at least 1"),
        ("delora", lambda c, t: t.pop(f"{Q}.delora_w_norm"), "but no delora_w_norm"),
        ("delora", lambda c, t: t.update({f"{Q}.delora_lambda": torch.ones(2)}), r"and w_norm \(in,\)"),
        ("delora", lambda c, t: t.update({f"{Q}.delora_C": torch.ones(2)}), "has no meaning in PEFT's DeLoRA"),
        ("gralora", lambda c, t: c.update(gralora_k=4), "as configured"),
        ("gralora", lambda c, t: c.update(r=8), "as configured"),
        ("gralora", lambda c, t: c.update(hybrid_r=2), "but no gralora_A_general.weight"),
        ("gralora", lambda c, t: c.update(alpha="a"), "alpha is 'a', expected a finite number"),
        ("gralora", lambda c, t: t.update({f"{Q}.gralora_A_general.weight": torch.ones(2, 16)}), "but hybrid_r is 0"),
        ("gralora", lambda c, t: t.pop(f"{Q}.gralora_B"), "but no gralora_B"),
        ("gralora-hybrid", lambda c, t: c.update(hybrid_r=2), r"expected \(2, 24\)"),
    ],
)
def test_what_is_wrong_is_named(kind: str, change: tiny_peft.Change, message: str, tmp_path: Path) -> None:
    saved(kind, "llama", tmp_path)
    tiny_peft.changed(tmp_path / "adapter", change)
    with pytest.raises(CheckpointError, match=message):
        read(tmp_path / "adapter")


@pytest.mark.parametrize(("kind", "what"), [("delora", "DeLoRA"), ("gralora", "GraLoRA")])
def test_another_methods_configuration_beside_it_is_refused(kind: str, what: str, tmp_path: Path) -> None:
    saved(kind, "llama", tmp_path)
    (tmp_path / "adapter" / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 4, "lora_alpha": 4}')
    with pytest.raises(RefusedError, match=f"belongs to {what}"):
        read(tmp_path / "adapter")
