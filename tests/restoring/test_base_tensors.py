"""What a dialect is told of the base model: its tensors, by the adapter's names, opened when it asks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from adaptzip.errors import BaseModelError
from adaptzip.restoring.base_tensors import stored_base
from tests.cases import tiny_peft

LAYER = "layers.0.self_attn.q_proj"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_peft.llama(tie_word_embeddings=True).save_pretrained(tmp_path)
    return tmp_path


def test_tensors_are_read_by_their_names(folder: Path) -> None:
    base, stored = stored_base(folder), load_file(folder / "model.safetensors")
    assert set(base.names) == stored.keys()
    name = f"model.{LAYER}.weight"
    assert base.shape(name) == (16, 16)
    found = base.read(name)
    assert found is not None
    assert torch.equal(found, stored[name])


def test_a_tied_tensor_is_the_one_that_it_is_tied_to(folder: Path) -> None:
    base = stored_base(folder)
    assert "lm_head.weight" not in base.names
    found, tied = base.read("lm_head.weight"), base.read("model.embed_tokens.weight")
    assert found is not None
    assert tied is not None
    assert torch.equal(found, tied)


def test_another_prefix_is_found_by_the_modules(folder: Path) -> None:
    weights = folder / "model.safetensors"
    save_file({name.removeprefix("model."): t for name, t in load_file(weights).items()}, weights)
    name = f"model.{LAYER}.weight"
    base = stored_base(folder)
    assert base.shape(name) is None
    assert base.read(name) is None
    named = base.named_by([f"model.{LAYER}"])
    assert named.shape(name) == (16, 16)
    assert named.read(name) is not None
    assert named.shape("model.layers.9.self_attn.q_proj.weight") is None
    with pytest.raises(BaseModelError, match="lacks 1 of the adapter's 1 modules"):
        base.named_by(["model.layers.9.self_attn.q_proj"])


def test_the_folder_is_opened_when_something_is_asked_of_it(tmp_path: Path) -> None:
    base = stored_base(tmp_path / "nothing")
    with pytest.raises(BaseModelError, match="does not exist"):
        base.shape("a.weight")
