"""A base model's folder, read lazily: its tensors by name, its configuration and its other files."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adaptzip.base.configs import output_name, says_untied
from adaptzip.base.shards import Shard, StoredTensor, open_shard
from adaptzip.errors import BaseModelError

SINGLE_FILES = ("model.safetensors", "pytorch_model.bin")
WEIGHT_SUFFIXES = frozenset(
    (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".h5", ".msgpack", ".onnx", ".onnx_data", ".ot")
)

OUTPUT_EMBEDDINGS = (
    "lm_head.weight",
    "embed_out.weight",
    "predictions.decoder.weight",
    "lm_head.decoder.weight",
    "lm_head.out_proj.weight",
    "generator_lm_head.weight",
    "vocab_projector.weight",
    "proj_out.weight",
)
INPUT_EMBEDDINGS = (
    "embed_tokens.weight",
    "wte.weight",
    "word_embeddings.weight",
    "embed_in.weight",
    "tok_embeddings.weight",
    "tokens_embed.weight",
    "shared.weight",
)
SIDES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
"""The names under which an encoder-decoder model has its `shared` embedding as well."""
_WHICH = "give the folder that holds the base model's config.json and model.safetensors"


@dataclass(frozen=True, eq=False)
class BaseModel:
    """A base model as it lies on disk. Nothing but headers is in memory.

    Attributes:
        path: the folder.
        shards: its weight files, in the order of their names.
        config: the parsed config.json, empty where there is none.
        index: the parsed index of a sharded model, None for a single file.
        others: the files to carry over into a merged model, relative to `path`: configuration, tokenizer,
            code, and the numbered module folders of sentence-transformers; weights in other formats stay out.
    """

    path: Path
    shards: tuple[Shard, ...]
    config: Mapping[str, Any] = field(default_factory=dict)
    index: Mapping[str, Any] | None = None
    others: tuple[Path, ...] = ()

    @classmethod
    def open(cls, path: str | Path) -> BaseModel:
        """Open the base model in the folder `path`.

        Raises:
            BaseModelError: if there is no such folder, or its weights are missing, incomplete or unreadable.
        """
        path = Path(path)
        if not path.is_dir():
            what = "is a file" if path.exists() else "does not exist"
            raise BaseModelError(f"{path}: {what}, expected the folder of a base model", hint=_WHICH)
        index_path, files = _weight_files(path)
        shards = tuple(open_shard(file) for file in files)
        index = None if index_path is None else _load_json(index_path)
        _check_disjoint(shards)
        if index is not None and index_path is not None:
            _check_index(index_path, index, shards)
        config_path = path / "config.json"
        config = _load_json(config_path) if config_path.is_file() else {}
        return cls(path, shards, config, index, _other_files(path))

    @cached_property
    def tensors(self) -> Mapping[str, Shard]:
        """The file that holds each tensor, by the tensor's name."""
        return {name: shard for shard in self.shards for name in shard.tensors}

    @property
    def model_type(self) -> str | None:
        """`model_type` of config.json."""
        return self.config.get("model_type")

    def stored(self, name: str) -> StoredTensor:
        """Dtype and shape of the tensor called `name`."""
        return self.tensors[name].tensors[name]

    def read(self, name: str) -> Tensor:
        """A writable copy of the tensor called `name`."""
        return self.tensors[name].read(name)

    def digest(self, name: str) -> str:
        """sha256 of the stored bytes of one tensor."""
        data = self.read(name).reshape(-1).view(torch.uint8)
        return hashlib.sha256(data.numpy().data).hexdigest()

    def fingerprint(self) -> str:
        """sha256 over every tensor's name, dtype, shape and content, in the order of the names.

        It does not depend on how the tensors are spread over files. It reads the whole model once.
        """
        total = hashlib.sha256()
        for name in sorted(self.tensors):
            stored = self.stored(name)
            line = [name, str(stored.dtype).removeprefix("torch."), list(stored.shape), self.digest(name)]
            total.update(json.dumps(line).encode() + b"\n")
        return total.hexdigest()

    @cached_property
    def input_embedding(self) -> str | None:
        """Name of the stored input embedding, or None where it cannot be told."""
        found = sorted(
            (n for n in self.tensors if n.endswith(INPUT_EMBEDDINGS)), key=lambda n: (n.count("."), len(n), n)
        )
        return found[0] if found else None

    def is_output(self, name: str) -> bool:
        """Whether a tensor called `name` is an output embedding."""
        return name.endswith(OUTPUT_EMBEDDINGS) or name == output_name(self.config)

    def tied_partners(self, name: str) -> tuple[str, ...]:
        """The stored tensors that are one parameter with the one called `name`, itself included if stored.

        An output embedding that is not stored is the input embedding, and so are an encoder's and a decoder's
        where they share one. Where several are stored although the configuration ties them, they count as one if
        their bytes are equal.
        """
        embedding = self.input_embedding
        is_side = embedding is not None and name in side_names(embedding)
        is_output = self.is_output(name)
        if name not in self.tensors and not is_output and not is_side:
            return ()
        if embedding is None or (says_untied(self.config) and not is_side):
            return (name,) if name in self.tensors else ()
        if name not in self.tensors:
            return (embedding,)
        if name != embedding and not is_output and not is_side:
            return (name,)
        family = [embedding, *side_names(embedding), *filter(self.is_output, self.tensors)]
        same = [n for n in family if n != name and n in self.tensors and self._equal(n, name)]
        return (name, *same)

    def _equal(self, one: str, other: str) -> bool:
        a, b = self.stored(one), self.stored(other)
        return (a.dtype, a.shape) == (b.dtype, b.shape) and self.digest(one) == self.digest(other)


def side_names(embedding: str) -> tuple[str, ...]:
    """The names of an encoder's and a decoder's embedding that may be the one called `embedding`."""
    shared = "shared.weight"
    if not embedding.endswith(shared):
        return ()
    return tuple(embedding.removesuffix(shared) + side for side in SIDES)


def _weight_files(path: Path) -> tuple[Path | None, list[Path]]:
    """The index, if there is one, and the weight files."""
    for name in SINGLE_FILES:
        index = path / f"{name}.index.json"
        if index.is_file():
            return index, _files_of_index(index)
        if (path / name).is_file():
            return None, [path / name]
    single = [p for p in sorted(path.glob("*.safetensors")) if not p.name.startswith("adapter_model")]
    if len(single) == 1:
        return None, single
    if len(single) > 1:
        raise BaseModelError(
            f"{path}: holds {len(single)} safetensors files and no index that joins them",
            hint="add the model.safetensors.index.json that belongs to them",
        )
    raise _no_weights(path)


def _no_weights(path: Path) -> BaseModelError:
    if (path / "adapter_config.json").is_file():
        return BaseModelError(f"{path}: holds an adapter, expected a base model", hint=_WHICH)
    for suffix in (".gguf", ".h5", ".msgpack", ".onnx"):
        if any(path.glob(f"*{suffix}")):
            return BaseModelError(
                f"{path}: holds weights only as {suffix}, expected model.safetensors or pytorch_model.bin",
                hint="give the model in its original safetensors form",
            )
    inner = sorted(p.parent.name for p in path.glob("*/model.safetensors"))
    hint = f"did you mean {path / inner[0]}?" if inner else _WHICH
    return BaseModelError(f"{path}: holds no weights, expected model.safetensors or pytorch_model.bin", hint=hint)


def _files_of_index(index_path: Path) -> list[Path]:
    weight_map = _load_json(index_path).get("weight_map")
    names = set(weight_map.values()) if isinstance(weight_map, dict) else set()
    if not names or not all(isinstance(n, str) and Path(n).name == n for n in names):
        raise BaseModelError(f"{index_path}: has no weight_map of file names", hint="download the base model again")
    missing = sorted(n for n in names if not (index_path.parent / n).is_file())
    if missing:
        raise BaseModelError(
            f"{index_path.parent}: lacks the weight files {', '.join(missing[:3])}, which its index names",
            hint="download the base model again",
        )
    return [index_path.parent / n for n in sorted(names)]


def _check_disjoint(shards: tuple[Shard, ...]) -> None:
    seen: dict[str, Shard] = {}
    for shard in shards:
        for name in shard.tensors:
            if name in seen:
                raise BaseModelError(
                    f"{shard.path}: holds the tensor {name}, which {seen[name].path.name} holds too",
                    hint="download the base model again",
                )
            seen[name] = shard


def _check_index(path: Path, index: Mapping[str, Any], shards: tuple[Shard, ...]) -> None:
    tables = {shard.path.name: shard.tensors for shard in shards}
    for name, file in index["weight_map"].items():
        if name not in tables[file]:
            raise BaseModelError(f"{path}: expects the tensor {name} in {file}, which does not hold it")


def _load_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BaseModelError(f"{path}: is not readable JSON ({error})", hint="download the base model again") from error
    if not isinstance(value, dict):
        raise BaseModelError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


def _other_files(path: Path) -> tuple[Path, ...]:
    found = []
    for file in sorted(path.rglob("*")):
        relative = file.relative_to(path)
        hidden = any(part.startswith(".") for part in relative.parts)
        module = re.fullmatch(r"\d+_\w+", relative.parts[0]) is not None and len(relative.parts) > 1
        weights = relative.suffix in WEIGHT_SUFFIXES or relative.name.endswith(".index.json")
        if file.is_file() and not hidden and (module or not weights) and relative.name != "adapter_config.json":
            found.append(relative)
    return tuple(found)
