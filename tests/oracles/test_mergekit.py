"""mergekit puts a LoRA into its base, and takes one out of two models, with the same numbers."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import adaptzip
from adaptzip.models.folder import BaseModel
from adaptzip.restoring.extracting import extraction

pytest.importorskip("mergekit", reason="mergekit is in the environment of the oracles")
pytestmark = pytest.mark.oracle

RANK = 4


def mergekit(program: str, *words: object, folder: Path) -> None:
    """Run one of mergekit's programs. It fails at the model card where no Hub is there, after the weights."""
    command = [Path(sys.executable).with_name(f"mergekit-{program}"), *words]
    quiet = {**os.environ, "HF_HUB_OFFLINE": "1"}
    subprocess.run([str(word) for word in command], cwd=folder, env=quiet, capture_output=True, check=False)


def models(folder: Path) -> None:
    """base/ in bfloat16, tuned/ with every matrix changed, and adapter/, a LoRA for base/."""
    import transformers as tf
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    config = tf.LlamaConfig(
        vocab_size=96, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=False,
    )  # fmt: skip
    model = tf.LlamaForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(folder / "base")
    for parameter in model.parameters():
        if parameter.ndim == 2:
            parameter.data += 0.01 * torch.randn(parameter.shape).bfloat16()
    model.save_pretrained(folder / "tuned")
    live = get_peft_model(
        tf.LlamaForCausalLM.from_pretrained(folder / "base"), LoraConfig(r=4, lora_alpha=6, target_modules="all-linear")
    )
    for name, parameter in live.named_parameters():
        if "lora_" in name:
            parameter.data.normal_(std=0.05)
    live.save_pretrained(folder / "adapter")


def error_of(folder: Path, adapter: adaptzip.Adapter) -> float:
    """|D - D'| / |D| over the adapter's modules."""
    base, tuned = BaseModel.open(folder / "base"), BaseModel.open(folder / "tuned")
    lost = energy = 0.0
    for name, factors in adapter.modules.items():
        difference = tuned.read(f"{name}.weight").double() - base.read(f"{name}.weight").double()
        lost += float((difference - factors.weight_delta().double()).square().sum())
        energy += float(difference.square().sum())
    return math.sqrt(lost / energy)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    models(folder)
    return folder


def test_merging(made: Path) -> None:
    recipe = "models:\n  - model: base+adapter\nmerge_method: passthrough\ndtype: bfloat16\n"
    (made / "recipe.yml").write_text(recipe)
    mergekit("yaml", "recipe.yml", "theirs", "--lora-merge-cache", "cache", "--no-write-model-card", folder=made)
    adaptzip.merge(made / "adapter", made / "base", made / "ours")
    theirs, ours = load_file(made / "theirs" / "model.safetensors"), load_file(made / "ours" / "model.safetensors")
    assert theirs.keys() == ours.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


def test_extracting(made: Path) -> None:
    words = ("--base-model", "base", "--model", "tuned", "--out-path", "lora", "--max-rank", RANK, "--embed-lora")
    mergekit("extract-lora", *words, folder=made)
    theirs = adaptzip.read(made / "lora")
    ours = extraction(made / "base", made / "tuned", rank=RANK)
    assert ours.adapter.modules.keys() == theirs.modules.keys()
    assert ours.error == pytest.approx(error_of(made, ours.adapter), rel=1e-5)
    # Its factors are in the base's bfloat16, which costs it a little.
    assert error_of(made, theirs) * (1 - 1e-3) < ours.error < error_of(made, theirs) * (1 + 1e-4)
