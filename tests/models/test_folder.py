"""Opening base models, finding modules in them, and what is wrong with a base that cannot be opened."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from adaptzip.core.adapter import LoraFactors
from adaptzip.errors import BaseModelError
from adaptzip.models.folder import BaseModel
from adaptzip.models.layouts import stored_layout
from adaptzip.models.names import Location, Renaming, locate, locate_tensor
from adaptzip.models.renaming import find_renaming

TENSORS = {
    "model.embed_tokens.weight": torch.arange(40.0).reshape(10, 4),
    "model.layers.0.proj.weight": torch.arange(12.0).reshape(3, 4).bfloat16(),
    "model.layers.0.proj.bias": torch.arange(3.0),
    "model.layers.1.proj.weight": -torch.arange(12.0).reshape(3, 4).bfloat16(),
    "model.ids": torch.arange(5),
    "model.empty": torch.zeros(0, 3),
}


def write(folder: Path, tensors: Mapping[str, Tensor] = TENSORS, **config: Any) -> Path:
    folder.mkdir(exist_ok=True)
    save_file(dict(tensors), folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps({"model_type": "tiny", **config}))
    return folder


def write_sharded(folder: Path) -> Path:
    folder.mkdir()
    names = sorted(TENSORS)
    files = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(names)}
    for file in set(files.values()):
        save_file({name: TENSORS[name] for name in names if files[name] == file}, folder / file)
    index = {"metadata": {"total_size": 1}, "weight_map": files}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def write_pytorch(folder: Path) -> Path:
    folder.mkdir()
    torch.save(TENSORS, folder / "pytorch_model.bin")
    return folder


@pytest.mark.parametrize("make", [write, write_sharded, write_pytorch])
def test_every_tensor_is_read_by_its_name(make: Callable[[Path], Path], tmp_path: Path) -> None:
    base = BaseModel.open(make(tmp_path / "base"))
    assert base.tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        read = base.read(name)
        assert read.dtype == tensor.dtype
        assert torch.equal(read, tensor)
        assert (base.stored(name).dtype, base.stored(name).shape) == (tensor.dtype, tuple(tensor.shape))
        read.zero_()
        assert torch.equal(base.read(name), tensor)


def test_model_type_and_a_missing_config(tmp_path: Path) -> None:
    assert BaseModel.open(write(tmp_path / "a")).model_type == "tiny"
    assert BaseModel.open(write_sharded(tmp_path / "b")).model_type is None


def spoil_pointer(folder: Path) -> None:
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")


def spoil_missing(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def spoil_gguf(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-q8_0.gguf")


def spoil_adapter(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text("{}")


def spoil_empty(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"")


def spoil_end(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-7])


def spoil_header(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:60])


def spoil_content(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"hello, hello, hello")


def spoil_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def spoil_depth(folder: Path) -> None:
    (folder / "inner").mkdir()
    (folder / "model.safetensors").rename(folder / "inner" / "model.safetensors")


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (spoil_pointer, "git-LFS pointer"),
        (spoil_missing, "holds no weights"),
        (spoil_gguf, "only as .gguf"),
        (spoil_adapter, "holds an adapter"),
        (spoil_empty, "empty"),
        (spoil_end, "truncated"),
        (spoil_header, "truncated inside its header"),
        (spoil_content, "not a safetensors file"),
        (spoil_config, "config.json: is not readable JSON"),
        (spoil_depth, "holds no weights"),
    ],
)
def test_a_broken_base_says_what_is_wrong(spoil: Callable[[Path], None], match: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "base")
    spoil(folder)
    with pytest.raises(BaseModelError, match=match) as error:
        BaseModel.open(folder)
    assert str(tmp_path) in str(error.value)
    assert error.value.hint


def test_a_path_that_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(BaseModelError, match="does not exist"):
        BaseModel.open(tmp_path / "nothing")
    (tmp_path / "file").write_text("")
    with pytest.raises(BaseModelError, match="is a file"):
        BaseModel.open(tmp_path / "file")


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    folder = write_sharded(tmp_path / "base")
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(BaseModelError, match=r"lacks the weight files model-00002-of-00002\.safetensors"):
        BaseModel.open(folder)


def test_shards_without_an_index(tmp_path: Path) -> None:
    folder = write_sharded(tmp_path / "base")
    (folder / "model.safetensors.index.json").unlink()
    with pytest.raises(BaseModelError, match="2 safetensors files and no index"):
        BaseModel.open(folder)


@pytest.mark.parametrize(
    ("weight_map", "match"),
    [
        ({"a": "../model.safetensors"}, r"names '\.\./model\.safetensors', expected a file in its own folder"),
        ({"a": ""}, "names '', expected"),
        ({"a": ".."}, r"names '\.\.', expected"),
        ({"a": "a\0b"}, "expected a file in its own folder"),
        ({"a": ["x"]}, "expected a file in its own folder"),
        ({"a": {}}, "expected a file in its own folder"),
        ({"a": 5}, "names '5', expected"),
        ({"a": "x" * 5000}, "names 'x{80}', expected a file in its own folder"),
        ({}, "no weight_map of file names"),
        ([], "no weight_map of file names"),
        ({"a": "model-00001-of-00002.safetensors"}, "expects the tensor a"),
    ],
)
def test_an_index_that_does_not_fit(weight_map: object, match: str, tmp_path: Path) -> None:
    folder = write_sharded(tmp_path / "base")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(BaseModelError, match=match):
        BaseModel.open(folder)


def test_a_tensor_that_two_shards_hold(tmp_path: Path) -> None:
    folder = write_sharded(tmp_path / "base")
    one, two = sorted(folder.glob("*.safetensors"))
    two.write_bytes(one.read_bytes())
    with pytest.raises(BaseModelError, match=f"{two.name}: holds the tensor .* which {one.name} holds too"):
        BaseModel.open(folder)


def test_a_pickle_that_holds_code(tmp_path: Path) -> None:
    torch.save({"a": Path}, tmp_path / "pytorch_model.bin")
    with pytest.raises(BaseModelError, match="could run code"):
        BaseModel.open(tmp_path)


def test_tied_partners(tmp_path: Path) -> None:
    embedding, output = "model.embed_tokens.weight", "lm_head.weight"
    base = BaseModel.open(write(tmp_path / "a"))
    assert base.tied_partners(output) == (embedding,)
    assert base.tied_partners("model.ids") == ("model.ids",)
    assert base.tied_partners("unknown") == ()
    untied = BaseModel.open(write(tmp_path / "b", tie_word_embeddings=False))
    assert untied.tied_partners(output) == ()
    twin = {**TENSORS, output: TENSORS[embedding].clone()}
    assert set(BaseModel.open(write(tmp_path / "c", twin)).tied_partners(output)) == {embedding, output}
    other = {**TENSORS, output: TENSORS[embedding] + 1}
    assert BaseModel.open(write(tmp_path / "d", other)).tied_partners(output) == (output,)


def test_locate_follows_one_change_of_prefix(tmp_path: Path) -> None:
    base = BaseModel.open(write(tmp_path / "base"))
    modules = ["layers.0.proj", "layers.1.proj", "embed_tokens"]
    renaming = find_renaming(base, modules)
    assert renaming == Renaming("", "model.")
    assert locate(base, "layers.1.proj", renaming) == (Location("model.layers.1.proj.weight"),)
    assert locate_tensor(base, "layers.0.proj.bias", renaming) == "model.layers.0.proj.bias"
    assert find_renaming(base, ["a.b.layers.0.proj"]) == Renaming("a.b.", "model.")
    assert find_renaming(base, ["model.layers.0.proj"]) == Renaming()
    with pytest.raises(BaseModelError, match="lacks 1 of the adapter's 3 modules: layers.2.proj"):
        find_renaming(base, ["layers.0.proj", "layers.1.proj", "layers.2.proj"])


def test_experts_are_found_stacked_and_apart(tmp_path: Path) -> None:
    apart = {f"l.0.mlp.experts.1.{part}_proj.weight": torch.zeros(3, 4) for part in ("gate", "up", "down")}
    base = BaseModel.open(write(tmp_path / "apart", apart))
    assert locate(base, "l.0.mlp.experts.gate_up_proj[1]", Renaming()) == (
        Location("l.0.mlp.experts.1.gate_proj.weight", (0, 3)),
        Location("l.0.mlp.experts.1.up_proj.weight", (3, 6)),
    )
    assert locate(base, "l.0.mlp.experts.down_proj[1]", Renaming()) == (Location("l.0.mlp.experts.1.down_proj.weight"),)
    assert locate(base, "l.0.mlp.experts.down_proj[2]", Renaming()) == ()
    stacked = BaseModel.open(write(tmp_path / "stacked", {"l.0.mlp.experts.down_proj": torch.zeros(2, 3, 4)}))
    assert locate(stacked, "l.0.mlp.experts.down_proj[1]", Renaming()) == (
        Location("l.0.mlp.experts.down_proj", expert=1),
    )
    assert locate(stacked, "l.0.mlp.experts.down_proj[2]", Renaming()) == ()


@pytest.mark.parametrize(
    ("shape", "bias", "model_type", "flag", "expected"),
    [
        ((3, 4), None, "tiny", "transposed", "linear"),
        ((4, 3), None, "tiny", "linear", "transposed"),
        ((4, 4), None, "gpt2", "linear", "transposed"),
        ((4, 4), None, "tiny", "linear", "linear"),
        ((4, 4), None, "tiny", "transposed", "transposed"),
        ((4, 4), (4, 12), "tiny", "linear", "transposed"),
        ((4, 4), (12, 4), "tiny", "transposed", "linear"),
    ],
)
def test_stored_layout(
    shape: tuple[int, int],
    bias: tuple[int, int] | None,
    model_type: str,
    flag: str,
    expected: str,
    tmp_path: Path,
) -> None:
    tensors = {"h.0.a.weight": torch.zeros(shape)}
    if bias is not None:
        tensors |= {"h.0.b.weight": torch.zeros(bias), "h.0.b.bias": torch.zeros(12)}
    base = BaseModel.open(write(tmp_path / "base", tensors, model_type=model_type))
    out, width = (4, 4) if shape == (4, 4) else (3, 4)
    factors = LoraFactors(torch.zeros(1, width), torch.zeros(out, 1), layout=flag)  # type: ignore[arg-type]
    assert stored_layout(base, "h.0.a", factors, Location("h.0.a.weight")) == expected


def test_a_whole_path_is_no_name_on_the_hub() -> None:
    with pytest.raises(BaseModelError, match="^/org/model: does not exist") as caught:
        BaseModel.open("/org/model")
    assert "Hub" not in str(caught.value.hint)
