"""Tiny models in folders, with the tokeniser and an adapter that calibration needs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import PreTrainedTokenizerFast

from adaptzip.checkpoints import resolved
from adaptzip.core.adapter import Adapter, LoraFactors

TEXTS = ("a b c d e f", "b d f a", "c c e a b", "f e d c b a a b", "e a", "d d d b a c e")
WORDS = ["<pad>", "<s>", *"abcdef"]


def save(make: Callable[[], Any], folder: Path, **special: str) -> Path:
    """A model of `tests.cases.tiny_peft` with a tokeniser of single letters; `special` names tokens, as `eos_token`."""
    make().save_pretrained(folder)
    tokeniser = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<s>"))
    tokeniser.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokeniser, pad_token="<pad>", **special).save_pretrained(folder)
    return folder


def set_tokeniser(folder: Path, **options: object) -> None:
    """Write options into a tokeniser's configuration, of which transformers itself does not save all."""
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | options))


def adapter(model: nn.Module, *ends: str, rank: int = 2, strength: float = 0.3, seed: int = 0) -> Adapter:
    """Random factors for every layer of a model whose name ends so, in their own orientation."""
    generator = torch.Generator().manual_seed(seed)
    modules = {}
    for name, layer in model.named_modules():
        if name.endswith(ends):
            transposed = type(layer).__name__ == "Conv1D"
            out, width = layer.weight.shape[::-1] if transposed else layer.weight.shape
            A = torch.randn(rank, width, generator=generator)
            B = strength * torch.randn(out, rank, generator=generator)
            modules[name] = LoraFactors(A, B, 0.5, "transposed" if transposed else "linear")
    return Adapter(dict(sorted(modules.items())))


def head(adapter: Adapter, classes: int = 3, width: int = 16) -> Adapter:
    """The adapter with a trained classifier beside it."""
    generator = torch.Generator().manual_seed(7)
    extras = {
        "base_model.model.classifier.weight": torch.randn(classes, width, generator=generator),
        "base_model.model.classifier.bias": torch.zeros(classes),
    }
    return resolved(Adapter(adapter.modules, extras, adapter.meta))
