"""A base model's folder, read lazily: its tensors by name, its configuration and its other files."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from adaptzip.core.scratch import Scratch
from adaptzip.errors import BaseModelError
from adaptzip.models.config_file import load_config
from adaptzip.models.configs import output_name, says_untied
from adaptzip.models.dequantising.opening import decoded_shards, is_settings_file, without_settings
from adaptzip.models.files import AGAIN, find_weights, load_json
from adaptzip.models.hub import INSTALL, base_path
from adaptzip.models.others import other_files
from adaptzip.models.quantised import refuse_quantised_config, refuse_quantised_tensors
from adaptzip.models.shards import Shard, StoredTensor, open_shard
from adaptzip.models.strangers import WHICH

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

Quantised = Literal["refused", "dequantised", "decoded", "stored"]
"""What a quantised model is: an error; a float model in all respects; one whose weights alone are read as floats, with
its own configuration and files; or what it is."""


@dataclass(frozen=True, eq=False)
class BaseModel:
    """A base model as it lies on disk. Nothing but headers is in memory.

    Attributes:
        path: the folder.
        shards: its weight files, in the order of their names.
        config: the parsed config.json, empty where there is none.
        index: the parsed index of a sharded model, None for a single file.
        index_name: the name of the index's file.
        others: the files to carry over into a merged model, relative to `path`: configuration, tokenizer,
            code, and the numbered module folders of sentence-transformers; weights in other formats stay out.
    """

    path: Path
    shards: tuple[Shard, ...]
    config: Mapping[str, Any] = field(default_factory=dict)
    index: Mapping[str, Any] | None = None
    index_name: str | None = None
    others: tuple[Path, ...] = ()

    @classmethod
    def open(cls, path: str | Path, *, quantised: Quantised = "refused") -> BaseModel:
        """Open the base model in the folder `path`: what transformers would load from it, by default.

        Args:
            path: the folder, or a model of the Hub as for `base_path`.

        Raises:
            BaseModelError: if there is no such folder or model, or its weights are missing, incomplete or unreadable.
            RefusedError: if its weights are quantised, or a link leads out of the folder.
        """
        path = base_path(path)
        if not path.is_dir():
            what = "is a file" if path.exists() else "does not exist"
            if path.is_symlink() and not path.exists():
                what = f"is a link to {path.readlink()}, which is not there"
            # A name as on a model hub.
            named = not path.exists() and not path.is_absolute() and len(path.parts) == 2 and ".." not in path.parts
            fetch = f"a model of the Hub is fetched where huggingface_hub is installed: {INSTALL}"
            hint = fetch if named else WHICH
            raise BaseModelError(f"{path}: {what}, expected the folder of a base model", hint=hint)
        config = load_config(path)
        if quantised == "refused":
            refuse_quantised_config(path, config)
        weights = find_weights(path, config)
        shards = tuple(open_shard(file) for file in weights.files)
        if quantised == "refused":
            refuse_quantised_tensors(path, (stored for shard in shards for stored in shard.tensors.values()))
        _check_disjoint(shards)
        others = other_files(path, weights.files)
        if weights.index is None:
            model = cls(path, shards, config, others=others)
        else:
            index = load_json(weights.index)
            _check_index(weights.index, index, shards)
            model = cls(path, shards, config, index, weights.index.name, others)
        return model if quantised in ("refused", "stored") else _decoded(model, quantised == "dequantised")

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

    def read(self, name: str, rows: tuple[int, int] | None = None, scratch: Scratch | None = None) -> Tensor:
        """A writable copy of the tensor called `name`, or of its rows from the first of `rows` to before the second.

        With `scratch` it may lie there, and is good until the next.
        """
        return self.tensors[name].read(name, rows, scratch)

    def digest(self, name: str) -> str:
        """sha256 of the stored bytes of one tensor."""
        data = self.read(name).reshape(-1).view(torch.uint8)
        return hashlib.sha256(data.numpy().data).hexdigest()

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


def _decoded(model: BaseModel, plainly: bool) -> BaseModel:
    """The model with float weights; `plainly` without its quantiser's settings and files as well."""
    shards = decoded_shards(model.path, model.config, model.shards)
    if shards == model.shards or not plainly:
        return replace(model, shards=shards)
    others = tuple(file for file in model.others if not is_settings_file(file.as_posix()))
    return replace(model, shards=shards, config=without_settings(model.config), others=others)


def _check_disjoint(shards: tuple[Shard, ...]) -> None:
    seen: dict[str, Shard] = {}
    for shard in shards:
        for name in shard.tensors:
            if name in seen:
                raise BaseModelError(
                    f"{shard.path}: holds the tensor {name}, which {seen[name].path.name} holds too",
                    hint=AGAIN,
                )
            seen[name] = shard


def _check_index(path: Path, index: Mapping[str, Any], shards: tuple[Shard, ...]) -> None:
    """Loaders read every tensor of the files, so that only one that is in none of them is lost."""
    stored = {name for shard in shards for name in shard.tensors}
    for name, file in index["weight_map"].items():
        if name not in stored:
            raise BaseModelError(f"{path}: expects the tensor {name} in {file}, which does not hold it", hint=AGAIN)
