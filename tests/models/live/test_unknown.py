"""Vocabularies that an adapter enlarges: as PEFT's live model has them, or refused; no random number gets out."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import GPTJConfig, GPTJForCausalLM

from adaptzip.checkpoints import resolved
from adaptzip.errors import AdaptzipError, CheckpointError, RefusedError
from adaptzip.models.live.running import load_bare, load_teacher
from adaptzip.restoring.reading import read
from tests.cases import tiny_peft
from tests.cases.models_on_disk import adapter, save
from tests.cases.tasks import llama
from tests.cases.teachers import CPU

MORE = 35
NEW = [32, 33, 34]


def gptj() -> Any:
    """Its head has a bias."""
    tiny_peft.set_seed(0)
    sizes = {"vocab_size": 32, "n_positions": 16, "n_embd": 16, "n_layer": 1, "n_head": 2, "rotary_dim": 4}
    return GPTJForCausalLM(GPTJConfig(**sizes, tie_word_embeddings=False))


@dataclass(frozen=True)
class Enlarged:
    """A base, an adapter that was trained after tokens were added, and how the model is made."""

    base: Path
    adapter: Path
    make: Callable[[], Any]

    def live(self) -> Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return logits(PeftModel.from_pretrained(resized(self.make(), self.base), self.adapter))


def resized(model: Any, base: Path) -> Any:
    found = type(model).from_pretrained(base)
    found.resize_token_embeddings(MORE, mean_resizing=False)
    return found


def enlarged(folder: Path, make: Callable[[], Any], *, embeddings: bool | str = "auto", **config: Any) -> Enlarged:
    base = save(make, folder / "base")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = get_peft_model(resized(make(), base), LoraConfig(r=2, **config))
        tiny_peft.randomise(model)
        model.save_pretrained(folder / "adapter", save_embedding_layers=embeddings)
    return Enlarged(base, folder / "adapter", make)


def logits(model: Any) -> Tensor:
    inputs = {"input_ids": torch.tensor([[3, 33, 4, 32, 34]])}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = torch.tensor([[0, 34, 5, 33]])
    with torch.no_grad():
        found: Tensor = model.eval()(**inputs).logits
    return found


tied = llama(tie_word_embeddings=True)
SEQ: dict[str, Any] = {"task_type": "SEQ_2_SEQ_LM", "target_modules": ["q", "q_proj"]}
TEXT: dict[str, Any] = {"task_type": "CAUSAL_LM", "target_modules": ["q_proj"]}
WHOLE: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "t5": (tiny_peft.t5, {**SEQ, "modules_to_save": ["shared", "lm_head"]}),
    "t5, input": (tiny_peft.t5, {**SEQ, "modules_to_save": ["shared"]}),
    "t5, output": (tiny_peft.t5, {**SEQ, "modules_to_save": ["lm_head"]}),
    "t5, update": (tiny_peft.t5, {**SEQ, "target_modules": ["q", "shared"]}),
    "t5, updates": (tiny_peft.t5, {**SEQ, "target_modules": ["q", "shared", "lm_head"]}),
    "t5, rows": (tiny_peft.t5, {**SEQ, "trainable_token_indices": NEW}),
    "t5, nothing": (tiny_peft.t5, SEQ),
    "bart": (tiny_peft.bart, {**SEQ, "modules_to_save": ["shared", "lm_head"]}),
    "bart, update": (tiny_peft.bart, {**SEQ, "target_modules": ["q_proj", "shared"]}),
    "bart, rows": (tiny_peft.bart, {**SEQ, "trainable_token_indices": NEW}),
    "tied": (tied, {**TEXT, "modules_to_save": ["embed_tokens", "lm_head"]}),
    "tied, input": (tied, {**TEXT, "modules_to_save": ["embed_tokens"]}),
    "tied, rows": (tied, {**TEXT, "trainable_token_indices": NEW}),
    "untied": (llama(), {**TEXT, "modules_to_save": ["embed_tokens", "lm_head"]}),
    "bias": (gptj, {**TEXT, "modules_to_save": ["wte", "lm_head"]}),
}


@pytest.mark.parametrize("case", WHOLE)
def test_an_enlarged_vocabulary_is_as_peft_has_it(case: str, tmp_path: Path) -> None:
    make, config = WHOLE[case]
    made = enlarged(tmp_path, make, **config)
    expected = made.live()
    torch.testing.assert_close(made.live(), expected, atol=0, rtol=0)
    found = logits(load_teacher(made.base, read(made.adapter), CPU).model)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


PART: dict[str, tuple[Callable[[], Any], dict[str, Any], str]] = {
    "tied, input": (tied, {**TEXT, "modules_to_save": ["embed_tokens"]}, "35 tokens, and no lm_head.weight"),
    "tied, output": (tied, {**TEXT, "modules_to_save": ["lm_head"]}, "35 tokens, and no model.embed_tokens.weight"),
    "t5": (tiny_peft.t5, {**SEQ, "modules_to_save": ["shared", "lm_head"]}, "no encoder.embed_tokens.weight"),
    "t5, input": (tiny_peft.t5, {**SEQ, "modules_to_save": ["shared"]}, "no encoder.embed_tokens.weight"),
    "bart": (tiny_peft.bart, {**SEQ, "modules_to_save": ["shared", "lm_head"]}, "no model.encoder.embed_tokens.weight"),
    "rows": (tied, {**TEXT, "trainable_token_indices": NEW}, "up to the one of token 34"),
    "bias": (gptj, {**TEXT, "modules_to_save": ["wte"]}, "35 tokens, and no lm_head"),
}


@pytest.mark.parametrize("load", [load_teacher, load_bare])
@pytest.mark.parametrize("case", PART)
def test_rows_that_are_not_in_the_file_are_refused(case: str, load: Callable[..., Any], tmp_path: Path) -> None:
    make, config, message = PART[case]
    made = enlarged(tmp_path, make, embeddings=False, **config)
    with pytest.raises(AdaptzipError, match=message):
        load(made.base, read(made.adapter), CPU)


def test_a_bias_that_is_not_in_the_file_is_refused(tmp_path: Path) -> None:
    made = enlarged(tmp_path, gptj, **TEXT, modules_to_save=["wte", "lm_head"])
    lora = read(made.adapter)
    kept = {key: tensor for key, tensor in lora.extras.items() if key.endswith((".wte.weight", ".lm_head.weight"))}
    assert len(kept) == 2
    with pytest.raises(RefusedError, match="35 tokens, and no lm_head.bias for them"):
        load_teacher(made.base, replace(lora, extras=kept), CPU)


def test_a_table_that_the_base_has_in_another_size_counts_for_one_module(tmp_path: Path) -> None:
    base, lora = save(tied, tmp_path), adapter(tied(), "q_proj")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"vocab_size": 35}))
    lora = resolved(replace(lora, extras={"base_model.model.model.embed_tokens.weight": torch.randn(35, 16)}))
    assert not logits(load_teacher(base, lora, CPU).model).isnan().any()
    copied = resolved(replace(lora, meta=replace(lora.meta, config={"modules_to_save": ["embed_tokens"]})))
    with pytest.raises(RefusedError, match=r"lm_head.weight, .* neither in the base nor in the adapter"):
        load_teacher(base, copied, CPU)


def test_an_original_without_its_copy_is_named(tmp_path: Path) -> None:
    made = enlarged(tmp_path, tiny_peft.t5, **SEQ, modules_to_save=["shared", "lm_head"])
    lora = read(made.adapter)
    kept = {key: tensor for key, tensor in lora.extras.items() if ".shared." not in key or ".original_module." in key}
    assert kept.keys() < lora.extras.keys()
    with pytest.raises(CheckpointError, match=r"shared.original_module.weight is the untrained original"):
        load_teacher(made.base, replace(lora, extras=kept), CPU)
