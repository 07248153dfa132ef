"""Which files of a repository are fetched."""

from __future__ import annotations

import pytest

from adaptzip.models.hub_files import adapter_files, wanted_files

TEXTS = ["README.md", "config.json", "tokenizer.json", "tokenizer.model"]
SHARDS = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
INDEX = "model.safetensors.index.json"
BINS = [f"pytorch_model-0000{n}-of-00002.bin" for n in (1, 2)]
BIN_INDEX = "pytorch_model.bin.index.json"


@pytest.mark.parametrize(
    ("weights", "chosen"),
    [
        (["model.safetensors"], ["model.safetensors"]),
        (["model.safetensors", "pytorch_model.bin", "flax_model.msgpack", "model.onnx"], ["model.safetensors"]),
        (["model.safetensors", *SHARDS, INDEX], ["model.safetensors"]),
        ([*SHARDS, INDEX, *BINS, BIN_INDEX], [*SHARDS, INDEX]),
        ([*BINS, BIN_INDEX, "tf_model.h5"], [*BINS, BIN_INDEX]),
        (["model.safetensors", "model.fp16.safetensors", "consolidated.safetensors"], ["model.safetensors"]),
        (["weights.safetensors"], ["weights.safetensors"]),
        (["one.safetensors", "other.safetensors"], []),
        (["a.Q4_K_M.gguf"], []),
        (["original/consolidated.00.pth", "onnx/model.onnx", "onnx/config.json"], []),
        ([".gitattributes", ".cache/model.safetensors", "picture.png"], []),
        (
            ["model.safetensors", "2_Dense/model.safetensors", "2_Dense/pytorch_model.bin", "2_Dense/config.json"],
            ["model.safetensors", "2_Dense/model.safetensors", "2_Dense/config.json"],
        ),
    ],
)
def test_one_form_of_the_weights(weights: list[str], chosen: list[str]) -> None:
    assert wanted_files([*TEXTS, *weights]) == sorted([*TEXTS, *chosen])


def test_the_parts_of_a_pipeline() -> None:
    unet = ["unet/config.json", "unet/diffusion_pytorch_model.safetensors"]
    encoder = ["text_encoder/config.json", "text_encoder/model.safetensors"]
    others = ["sd.safetensors", "unet/diffusion_pytorch_model.bin", "unet/diffusion_pytorch_model.fp16.safetensors"]
    assert wanted_files(["model_index.json", *unet, *encoder, *others]) == sorted(["model_index.json", *unet, *encoder])


def test_an_adapter_is_fetched_without_what_training_left() -> None:
    files = [
        "README.md", "adapter_config.json", "adapter_model.safetensors", "small.adz", "optimizer.pt", "scheduler.pt",
        "training_args.bin", "rng_state.pth", "tokenizer.json", "checkpoint-10/adapter_model.safetensors",
        "model.safetensors", "pytorch_model-00001-of-00002.bin", ".gitattributes", "preview.png",
    ]  # fmt: skip
    wanted = ["README.md", "adapter_config.json", "adapter_model.safetensors", "small.adz", "tokenizer.json"]
    assert adapter_files(files) == wanted
