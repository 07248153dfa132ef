"""Adapters on tiny models of every task, saved by PEFT, and what PEFT's own model puts out one text at a time."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
)

from tests.cases import tiny_peft
from tests.cases.models_on_disk import save


@dataclass(frozen=True)
class Task:
    """A base, an adapter for it, and the class that loads the base."""

    base: Path
    adapter: Path
    loads: Any

    def live(self, *, merged: bool = False, options: Mapping[str, Any] | None = None) -> Any:
        """PEFT's model."""
        model = self.loads.from_pretrained(self.base, **(options or {}))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = PeftModel.from_pretrained(model, self.adapter).eval()
            return found.merge_and_unload() if merged else found

    def logits(self, *texts: str, model: nn.Module | None = None) -> Tensor:
        """Of one text, or of a pair."""
        enc = AutoTokenizer.from_pretrained(self.base)(*texts, return_tensors="pt")
        known = ("input_ids", "token_type_ids") if len(texts) > 1 else ("input_ids",)
        with torch.no_grad():
            found: Tensor = (model or self.live())(**{key: enc[key] for key in known}).logits[0].double()
            return found


def trained(
    folder: Path,
    make: Callable[[], Any],
    loads: Any,
    *,
    scale: float = 0.3,
    seed: int = 1,
    special: Mapping[str, str] | None = None,
    safe: bool = True,
    **config: Any,
) -> Task:
    """PEFT's adapter with random numbers in all that is trained."""
    base = save(make, folder / "base", **(special or {}))
    generator = torch.Generator().manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = get_peft_model(make(), LoraConfig(**{"r": 3, "lora_alpha": 6, **config}))
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data += scale * torch.randn(parameter.shape, generator=generator)
        model.save_pretrained(folder / "adapter", safe_serialization=safe)
    return Task(base, folder / "adapter", loads)


def bert(outputs: int, problem: str | None = None, **more: Any) -> Callable[[], Any]:
    """A classifier of texts."""

    def make() -> Any:
        tiny_peft.set_seed(0)
        config = tiny_peft.bert().config
        config.num_labels, config.problem_type = outputs, problem
        for name, value in more.items():
            setattr(config, name, value)
        return BertForSequenceClassification(config)

    return make


def classifier(folder: Path, outputs: int, problem: str | None = None, **more: Any) -> Task:
    """Its adapter, with the head trained."""
    make = bert(outputs, problem, **more)
    config: dict[str, Any] = {"task_type": "SEQ_CLS", "target_modules": ["query", "value"]}
    return trained(folder, make, AutoModelForSequenceClassification, **config)


def llama(**more: Any) -> Callable[[], Any]:
    """A language model."""

    def make() -> Any:
        tiny_peft.set_seed(0)
        config = tiny_peft.llama().config
        config.initializer_range = 0.3
        for name, value in more.items():
            setattr(config, name, value)
        return LlamaForCausalLM(config)

    return make


def language(folder: Path, tied: bool = False, special: Mapping[str, str] | None = None, **config: Any) -> Task:
    """Its adapter."""
    given = {"task_type": "CAUSAL_LM", "target_modules": ["q_proj", "v_proj"], **config}
    return trained(folder, llama(tie_word_embeddings=tied), LlamaForCausalLM, special=special, **given)


def decoding_classifier() -> Any:
    """A classifier on a decoder whose configuration has no padding token."""
    tiny_peft.set_seed(0)
    config = tiny_peft.llama().config
    config.num_labels, config.pad_token_id = 3, None
    return LlamaForSequenceClassification(config)


def distilbert() -> Any:
    """A classifier of two layers, of which the first one's name ends as the second one's."""
    tiny_peft.set_seed(0)
    sizes = {"dim": 16, "hidden_dim": 24, "n_layers": 1, "n_heads": 2}
    return DistilBertForSequenceClassification(DistilBertConfig(vocab_size=32, num_labels=3, **sizes))
