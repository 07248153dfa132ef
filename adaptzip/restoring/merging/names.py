"""What the files of a merged model are called: as the base's, in safetensors' naming."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

from adaptzip.errors import UsageError
from adaptzip.models.folder import BaseModel

_INDEX_ENDING = ".index.json"
_VARIANT = re.compile(r".+\.safetensors\.index\.[^.]+\.json")
"""The index of files of another dtype, as diffusers calls it."""
_OF_FILES = (".safetensors", ".gguf", ".adz", ".bin")


def check_folder_name(output: Path, base: Path) -> None:
    """Refuse the name of a file for a merged model that is a folder, as its base is.

    Raises:
        UsageError: if it is one.
    """
    if output.suffix in _OF_FILES and not output.is_dir():
        raise UsageError(
            f"{output}: is called as a file, and {base} is a folder, which becomes another",
            hint=f"name a folder: `output='{output.with_suffix('')}'`",
        )


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


def written_names(base: BaseModel) -> list[str]:
    """The merged model's weight files, and its index where it has one."""
    index = index_file_name(base)
    return [*weight_file_names(base), *([] if index is None else [index])]


def index_file_name(base: BaseModel) -> str | None:
    """The merged model's name for the base's index, None where it has none."""
    if base.index_name is None:
        return None
    if _VARIANT.fullmatch(base.index_name):
        return base.index_name
    return _in_safetensors(base.index_name.removesuffix(_INDEX_ENDING)) + _INDEX_ENDING


def _in_safetensors(name: str) -> str:
    if name.endswith(".safetensors"):
        return name
    stem = name.rpartition(".")[0] or name
    return f"{stem.removeprefix('pytorch_') if stem.startswith('pytorch_model') else stem}.safetensors"


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()
