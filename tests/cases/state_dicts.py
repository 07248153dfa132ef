"""What training scripts leave: a whole model's state_dict() with factors in it, its config.json, and its base."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from adaptzip.restoring.merging import merge
from adaptzip.restoring.reading import read
from tests.cases import tiny_peft

QUERY = "bert.encoder.layer.0.attention.self.query"
UP = "bert.encoder.layer.1.intermediate.dense"
SHAPES = {QUERY: (16, 16), UP: (24, 16)}
"""(out, in) of two layers of `tiny_peft.bert`."""
NORM = "bert.encoder.layer.0.output.LayerNorm.weight"
CLASSIFIER = "classifier.weight"

Change = Callable[[dict[str, Tensor]], object]


def drawn(seed: int = 0, **shapes: tuple[int, ...]) -> dict[str, Tensor]:
    """Random tensors of these shapes; two underscores in a name stand for a dot."""
    generator = torch.Generator().manual_seed(seed)
    return {key.replace("__", "."): torch.randn(*shape, generator=generator) for key, shape in shapes.items()}


def base(folder: Path, model: Callable[[], Any] = tiny_peft.bert) -> dict[str, Tensor]:
    """Save a base model, and give its tensors."""
    made = model()
    made.save_pretrained(folder / "base")
    return {key: tensor.clone() for key, tensor in made.state_dict().items()}


def saved(
    folder: Path, tensors: Mapping[str, Any], config: Mapping[str, Any] | None = None, name: str = "pytorch_model.bin"
) -> Path:
    """A folder with these tensors, and with a config.json beside them."""
    folder.mkdir(exist_ok=True)
    torch.save(dict(tensors), folder / name)
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


def trained_model(folder: Path, factors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a whole model with factors, of which a norm and the head were trained too, beside its base."""
    model = base(folder)
    model[NORM] = model[NORM] + 0.25
    model[CLASSIFIER] = model[CLASSIFIER] - 0.5
    buffers = {
        "bert.embeddings.position_ids": torch.arange(16)[None],
        "bert.embeddings.token_type_ids": torch.zeros(1, 16),
    }
    return {**model, **{key: t.long() for key, t in buffers.items()}, **factors}


def check_merged(folder: Path, source: Path, updates: Mapping[str, Tensor], **reading: Any) -> None:
    """Merging gives the base's weights with the updates on them, and the trained tensors in their places."""
    adapter = read(source, base=folder / "base", **reading)
    assert adapter.extras.keys() == {f"base_model.model.{name}" for name in (NORM, CLASSIFIER)}
    merge(adapter, folder / "base", folder / "merged")
    before, after = (load_file(folder / name / "model.safetensors") for name in ("base", "merged"))
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        expected = tensor + {NORM: 0.25, CLASSIFIER: -0.5}.get(name, 0.0)
        if name.removesuffix(".weight") in updates:
            expected = tensor + updates[name.removesuffix(".weight")]
        torch.testing.assert_close(after[name], expected, atol=1e-5, rtol=1e-5, msg=name)


def parametrised(*cases: tuple[Change, type[Exception], str]) -> pytest.MarkDecorator:
    """Ways to damage a file, with what is said of each."""
    return pytest.mark.parametrize(("change", "error", "message"), cases)
