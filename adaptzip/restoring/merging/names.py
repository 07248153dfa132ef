"""What the files of a merged model are called: as the base's, in safetensors' naming."""

from __future__ import annotations

import unicodedata

from adaptzip.models.folder import BaseModel

_INDEX_ENDING = ".index.json"


def weight_file_names(base: BaseModel) -> tuple[str, ...]:
    """The merged model's name for each weight file of the base, in their order.

    No two are the same, not even where a file system ignores case or how letters are composed: of two files that
    would share a name, such as s.bin and s.safetensors, the second gets a number.
    """
    names: list[str] = []
    taken: set[str] = set()
    for shard in base.shards:
        wanted = name = _in_safetensors(shard.path.name)
        number = 2
        while _folded(name) in taken:
            name, number = f"{wanted.removesuffix('.safetensors')}-{number}.safetensors", number + 1
        taken.add(_folded(name))
        names.append(name)
    return tuple(names)


def index_file_name(base: BaseModel) -> str | None:
    """The merged model's name for the base's index, None where it has none."""
    if base.index_name is None:
        return None
    return _in_safetensors(base.index_name.removesuffix(_INDEX_ENDING)) + _INDEX_ENDING


def _in_safetensors(name: str) -> str:
    if name.endswith(".safetensors"):
        return name
    stem = name.rpartition(".")[0] or name
    return f"{stem.removeprefix('pytorch_') if stem.startswith('pytorch_model') else stem}.safetensors"


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()
