"""A tiny classifier and a tiny language model with PEFT adapters, and rows of data for them."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tests.cases import tiny_peft
from tests.cases.models_on_disk import TEXTS, WORDS, save

LABELS = (0, 1, 0, 0, 0, 2)
SEQ_CLS = {"task_type": "SEQ_CLS", "r": 3, "lora_alpha": 6, "target_modules": ["query", "value", "output.dense"]}
CAUSAL = {"task_type": "CAUSAL_LM", "r": 3, "lora_alpha": 6, "target_modules": ["q_proj", "v_proj"]}


def classifier(folder: Path) -> tuple[Path, Path]:
    """(base, teacher) of three classes, with its head in the adapter."""
    return _trained(tiny_peft.bert, SEQ_CLS, folder)


def causal(folder: Path) -> tuple[Path, Path]:
    """(base, teacher) of a language model."""
    return _trained(tiny_peft.llama, CAUSAL, folder)


def _trained(make: Callable[[], nn.Module], config: dict[str, object], folder: Path) -> tuple[Path, Path]:
    base = save(make, folder / "base-model")
    tiny_peft.train(make(), folder / "my-adapter", **config)
    return base, folder / "my-adapter"


def weakened(adapter: Path, by: float) -> Path:
    """A copy of an adapter with its updates multiplied, and its head as it is."""
    copy = adapter.with_name(f"times-{by:g}")
    copy.mkdir()
    tensors = load_file(adapter / "adapter_model.safetensors")
    changed = {key: by * tensor if "lora_B" in key else tensor for key, tensor in tensors.items()}
    save_file(changed, copy / "adapter_model.safetensors")
    (copy / "adapter_config.json").write_bytes((adapter / "adapter_config.json").read_bytes())
    return copy


def logits_by_peft(make: Callable[[], nn.Module], adapter: Path) -> list[Tensor]:
    """What PEFT's model puts out for each of `TEXTS`, one at a time, in float64."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = PeftModel.from_pretrained(make(), adapter).eval()
    with torch.no_grad():
        return [model(input_ids=ids_of(text)).logits[0].double() for text in TEXTS]


def ids_of(text: str) -> Tensor:
    return torch.tensor([[WORDS.index(letter) for letter in text.split()]])


def write_rows(path: Path) -> Path:
    """`TEXTS` with `LABELS`, as .jsonl."""
    rows = [json.dumps({"text": text, "label": label}) for text, label in zip(TEXTS, LABELS, strict=True)]
    path.write_text("\n".join(rows))
    return path
