"""Folders that are given as a base model and are something else: the hint names the place that was meant."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from adaptzip.errors import BaseModelError
from adaptzip.models.folder import BaseModel
from tests.cases.base_folders import write_llama, write_weights


def refusal(folder: Path) -> tuple[str, str]:
    with pytest.raises(BaseModelError) as error:
        BaseModel.open(folder)
    return str(error.value), str(error.value.hint)


def opens(hint: str) -> BaseModel:
    """The base model that a hint names."""
    return BaseModel.open(hint.removeprefix("did you mean ").removesuffix("?"))


@pytest.mark.parametrize("given", [".", "snapshots"])
def test_a_hub_cache(given: str, tmp_path: Path) -> None:
    root = tmp_path / "models--a--b"
    for revision in ("aaa", "bbb"):
        write_llama(root / "snapshots" / revision)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("bbb\n")
    message, hint = refusal(root / given)
    assert "is a Hub cache, expected one snapshot" in message
    assert opens(hint).path == root / "snapshots" / "bbb"
    (root / "snapshots" / "bbb" / "model.safetensors").unlink()
    assert opens(refusal(root)[1]).path.name == "aaa"
    (root / "snapshots" / "aaa" / "model.safetensors").unlink()
    assert "download was not finished" in refusal(root)[1]


def test_a_trainers_output_folder(tmp_path: Path) -> None:
    for steps in (5, 100, 20):
        write_llama(tmp_path / f"checkpoint-{steps}")
    (tmp_path / "trainer_state.json").write_text("{}")
    message, hint = refusal(tmp_path)
    assert "holds no weights" in message
    assert opens(hint).path.name == "checkpoint-100"


@pytest.mark.parametrize("inner", ["model", "a/b", "0_Transformer"])
def test_a_model_that_lies_deeper(inner: str, tmp_path: Path) -> None:
    write_llama(tmp_path / inner)
    assert opens(refusal(tmp_path)[1]).path == tmp_path / inner


@pytest.mark.parametrize("denoiser", ["unet", "transformer"])
def test_a_diffusers_pipeline(denoiser: str, tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text("{}")
    write_llama(tmp_path / "text_encoder")
    (tmp_path / denoiser).mkdir()
    file = tmp_path / denoiser / "diffusion_pytorch_model.safetensors"
    write_weights(file, {"a.weight": torch.ones(2, 2)})
    message, hint = refusal(tmp_path)
    assert "is a diffusers pipeline" in message
    assert opens(hint).path == tmp_path / denoiser


def test_an_adapters_folder(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "somebody/model"}))
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    message, hint = refusal(tmp_path)
    assert "holds an adapter, expected a base model" in message
    assert "the adapter names somebody/model" in hint
    (tmp_path / "adapter_config.json").write_text("[")
    assert "config.json and model.safetensors" in refusal(tmp_path)[1]
