"""Which of a folder's files hold the base model's weights: judged by what transformers loads from it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
import transformers as tf
from safetensors.torch import load_file, save_file
from torch import Tensor

from adaptzip.errors import BaseModelError, RefusedError
from adaptzip.models.folder import BaseModel
from adaptzip.restoring.merging import merge
from tests.cases.base_folders import (
    MODULE,
    adapter,
    llama_tensors,
    write_config,
    write_index,
    write_llama,
    write_weights,
)
from tests.cases.merged_files import TOLD

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
BIN, BIN_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"


def put(folder: Path, name: str, value: float) -> None:
    """The weight file or index called `name`, every number in it `value`."""
    tensors = llama_tensors(value)
    if name.endswith(".index.json"):
        suffix = ".bin" if ".bin." in name else ".safetensors"
        write_index(folder / name, tensors, *(f"{int(value)}-{part}{suffix}" for part in "ab"))
    else:
        write_weights(folder / name, tensors)


@pytest.mark.parametrize(
    "names",
    [
        (SINGLE, INDEX),
        (INDEX, SINGLE),
        (INDEX, BIN),
        (BIN, INDEX, BIN_INDEX),
        (BIN_INDEX, BIN),
        (BIN_INDEX,),
        (SINGLE, "model.fp16.safetensors"),
        (INDEX, "consolidated.safetensors", "model.safetensors.index.fp16.json"),
        (BIN, SINGLE, "adapter_model.safetensors"),
    ],
)
def test_what_transformers_loads_is_what_counts(names: tuple[str, ...], tmp_path: Path) -> None:
    folder = write_config(tmp_path / "base")
    for value, name in enumerate(names):
        put(folder, name, float(value + 1))
    expected = tf.AutoModelForCausalLM.from_pretrained(folder).state_dict()
    base = BaseModel.open(folder)
    assert base.tensors.keys() == expected.keys()
    assert all(torch.equal(base.read(name), tensor) for name, tensor in expected.items())
    merge(adapter(), folder, tmp_path / "merged")
    merged = tf.AutoModelForCausalLM.from_pretrained(tmp_path / "merged").state_dict()
    changed = [name for name, tensor in expected.items() if not torch.equal(merged[name], tensor)]
    assert changed == [f"{MODULE}.weight"]
    others = {"config.json", *TOLD, *(["model.safetensors.index.json"] if base.index else [])}
    weights = {path.name for path in (tmp_path / "merged").iterdir()} - others
    assert len(weights) == len(base.shards)
    assert all(name.endswith(".safetensors") for name in weights)


def test_a_file_that_the_configuration_names(tmp_path: Path) -> None:
    folder = write_llama(tmp_path / "base", 1.0, transformers_weights="other.safetensors")
    with pytest.raises(BaseModelError, match=r"lacks other\.safetensors"):
        BaseModel.open(folder)
    write_weights(folder / "other.safetensors", llama_tensors(2.0))
    merge(adapter(), folder, tmp_path / "merged")
    for path in (folder, tmp_path / "merged"):
        model = tf.AutoModelForCausalLM.from_pretrained(path).state_dict()
        assert bool((model["model.norm.weight"] == 2).all())
    assert {path.name for path in (tmp_path / "merged").iterdir()} == {"config.json", "other.safetensors", *TOLD}
    write_config(folder, transformers_weights="../other.safetensors")
    with pytest.raises(BaseModelError, match="transformers_weights is '../other.safetensors'"):
        BaseModel.open(folder)


def test_a_tensor_that_the_index_does_not_list_is_kept(tmp_path: Path) -> None:
    folder = write_config(tmp_path / "base")
    put(folder, INDEX, 1.0)
    index = json.loads((folder / INDEX).read_text())
    del index["weight_map"]["model.norm.weight"]
    index["metadata"] = "none"
    (folder / INDEX).write_text(json.dumps(index))
    merge(adapter(), folder, tmp_path / "merged")
    merged = json.loads((tmp_path / "merged" / INDEX).read_text())
    assert merged["weight_map"].keys() == llama_tensors(1.0).keys()
    assert merged["metadata"]["total_size"] > 0
    tf.AutoModelForCausalLM.from_pretrained(tmp_path / "merged")


def test_the_single_file_beside_an_index_lacks_what_the_index_names(tmp_path: Path) -> None:
    folder = write_config(tmp_path / "base")
    put(folder, INDEX, 1.0)
    kept = {name: tensor for name, tensor in llama_tensors(2.0).items() if MODULE not in name}
    write_weights(folder / SINGLE, kept)
    with pytest.raises(BaseModelError, match="lacks 1 of the adapter's 1 modules") as error:
        merge(adapter(), folder, tmp_path / "merged")
    assert error.value.hint is not None
    assert f"loaders read {SINGLE} alone" in error.value.hint


@pytest.mark.parametrize(
    ("index", "files"),
    [
        (INDEX, ("s.bin", "s.safetensors")),
        (BIN_INDEX, ("s.pt", "s.bin", "s.pth")),
        (INDEX, ("s.safetensors", "S.safetensors")),
        (INDEX, ("\u00e9.safetensors", "e\u0301.safetensors")),
        (BIN_INDEX, ("pytorch_model.bin.1", "pytorch_model.bin.2")),
        (BIN_INDEX, ("s-2.bin", "s.bin", "s.pt")),
    ],
)
def test_files_that_would_share_a_name_lose_no_tensor(index: str, files: tuple[str, ...], tmp_path: Path) -> None:
    folder = write_config(tmp_path / "base")
    write_index(folder / index, llama_tensors(1.0), *files)
    report = merge(adapter(), folder, tmp_path / "merged")
    weights = [name for name in report.files if name.endswith(".safetensors")]
    assert len({name.casefold() for name in weights}) == len(files)
    _, info = tf.AutoModelForCausalLM.from_pretrained(tmp_path / "merged", output_loading_info=True)
    assert not any(info.values())


def test_a_weight_file_by_another_name_is_no_other_file(tmp_path: Path) -> None:
    folder = write_config(tmp_path / "base")
    write_index(folder / INDEX, llama_tensors(1.0), "a.safetensors", "b.safetensors")
    (folder / "b.safetensors").rename(folder / "tokenizer.json")
    (folder / INDEX).write_text((folder / INDEX).read_text().replace("b.safetensors", "tokenizer.json"))
    report = merge(adapter(), folder, tmp_path / "merged")
    assert "tokenizer.json" not in report.files
    tf.AutoModelForCausalLM.from_pretrained(tmp_path / "merged")


def diffusion(folder: Path, value: float, *names: str) -> Path:
    """A diffusion transformer's folder: its files hold another value each."""
    folder.mkdir()
    (folder / "config.json").write_text('{"_class_name": "Some2DModel"}')
    tensors = {f"transformer_blocks.{i}.to_q.weight": torch.zeros(16, 16) for i in range(2)}
    for step, name in enumerate(names):
        filled = {key: tensor + value + step for key, tensor in tensors.items()}
        if name.endswith(".index.json"):
            stem = name.split(".")[0]
            write_index(folder / name, filled, *(f"{stem}-0000{part}-of-00002.safetensors" for part in "12"))
        else:
            write_weights(folder / name, filled)
    return folder


@pytest.mark.parametrize(
    ("names", "kept"),
    [
        (
            ("diffusion_pytorch_model.safetensors.index.json", "diffusion_pytorch_model.safetensors"),
            {
                "diffusion_pytorch_model.safetensors.index.json",
                "diffusion_pytorch_model-00001-of-00002.safetensors",
                "diffusion_pytorch_model-00002-of-00002.safetensors",
            },
        ),
        (
            ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors"),
            {"diffusion_pytorch_model.safetensors"},
        ),
        (("diffusion_pytorch_model.bin", "model.safetensors"), {"diffusion_pytorch_model.safetensors"}),
    ],
)
def test_a_diffusion_model_keeps_the_names_that_diffusers_looks_for(
    names: tuple[str, ...], kept: set[str], tmp_path: Path
) -> None:
    folder = diffusion(tmp_path / "base", 1.0, *names)
    report = merge(adapter("transformer_blocks.0.to_q"), folder, tmp_path / "merged")
    assert set(report.files) == {"config.json", *TOLD, *kept}
    tensors: dict[str, Tensor] = {}
    for file in (tmp_path / "merged").glob("*.safetensors"):
        tensors |= load_file(file)
    assert bool((tensors["transformer_blocks.1.to_q.weight"] == 1).all())


@pytest.mark.parametrize("length", [640, 896, 1152])
def test_a_header_that_starts_like_a_pickle(length: int, tmp_path: Path) -> None:
    folder = write_config(tmp_path / "base")
    metadata = {"format": "pt", "pad": ""}
    file = folder / "a.weights"  # torch.load itself goes by the ending .safetensors.
    (folder / INDEX).write_text(json.dumps({"weight_map": {"a.weight": file.name}}))
    for _ in range(2):
        save_file({"a.weight": torch.ones(4, 4)}, file, metadata=metadata)
        metadata["pad"] = "x" * (length - int.from_bytes(file.read_bytes()[:8], "little"))
    assert file.read_bytes()[0] == 0x80
    assert torch.equal(BaseModel.open(folder).read("a.weight"), torch.ones(4, 4))


@pytest.mark.parametrize(
    ("value", "match"),
    [
        ({1: torch.ones(2)}, "has the key 1 of type int"),
        ({"state_dict": {"a": torch.ones(2)}}, "under 'state_dict', found dict"),
        ([torch.ones(2)], "expected a dictionary of tensors, found list"),
        ({"a": torch.eye(3).to_sparse()}, "tensor a is sparse"),
        ({"a": torch.ones(2, dtype=torch.complex64)}, "tensor a is complex64"),
        ({"a": torch.ones(2, device="meta")}, "tensor a has no numbers"),
    ],
)
def test_a_pytorch_file_of_something_else(value: object, match: str, tmp_path: Path) -> None:
    torch.save(value, tmp_path / BIN)
    with pytest.raises(BaseModelError, match=match):
        BaseModel.open(tmp_path)


@pytest.mark.filterwarnings("ignore")
def test_a_quantised_tensor_in_a_pytorch_file(tmp_path: Path) -> None:
    made = {"qint8": torch.quantize_per_tensor(torch.ones(4, 4), 0.1, 0, torch.qint8)}
    made["float8_e8m0fnu"] = torch.ones(4, 4, dtype=torch.float8_e8m0fnu)
    for dtype, tensor in made.items():
        torch.save({"a": tensor}, tmp_path / BIN)
        with pytest.raises(RefusedError, match=rf"is quantised \(a is {dtype}\)"):
            BaseModel.open(tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("architectures", 5),
        ("architectures", [5]),
        ("model_type", ["llama"]),
        ("tie_word_embeddings", "x"),
        ("id2label", ["a"]),
        ("num_labels", "two"),
        ("text_config", []),
    ],
)
def test_a_configuration_of_other_types(key: str, value: object, tmp_path: Path) -> None:
    with pytest.raises(BaseModelError, match=rf"config\.json: {key} is .*, expected"):
        BaseModel.open(write_llama(tmp_path / "base", 1.0, **{key: value}))


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "[]", '\ufeff{"a": 1}', "{"])
def test_a_configuration_that_is_no_json_object(text: str, tmp_path: Path) -> None:
    folder = write_llama(tmp_path / "base")
    (folder / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(BaseModelError, match=r"config\.json"):
        BaseModel.open(folder)


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    """A pipe would keep the program waiting."""
    folder = write_llama(tmp_path / "base")
    os.mkfifo(folder / "notes.txt")
    assert set(merge(adapter(), folder, tmp_path / "merged").files) == {"config.json", *TOLD, SINGLE}
    (folder / SINGLE).unlink()
    os.mkfifo(folder / SINGLE)
    with pytest.raises(BaseModelError, match="holds no weights"):
        BaseModel.open(folder)
    (folder / "config.json").unlink()
    (folder / "config.json").mkdir()
    with pytest.raises(BaseModelError, match=r"config\.json: is no file"):
        BaseModel.open(folder)


@pytest.mark.parametrize("dtype", ["[]", "{}", "[[]]", "null", "1"])
def test_a_header_whose_dtype_is_no_text(tmp_path: Path, dtype: str) -> None:
    folder = write_llama(tmp_path / "base")
    header = f'{{"a":{{"dtype":{dtype},"shape":[1],"data_offsets":[0,4]}}}}'.encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(BaseModelError, match="tensor a has dtype"):
        BaseModel.open(folder)
