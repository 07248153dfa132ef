"""Weight files that are a base model by themselves, without a configuration, as image models are handed on."""

from __future__ import annotations

from pathlib import Path

from adaptzip.errors import BaseModelError
from adaptzip.models.config_file import load_config
from adaptzip.models.dequantising.opening import decoded_shards
from adaptzip.models.files import find_weights
from adaptzip.models.folder import BaseModel
from adaptzip.models.quantised import refuse_quantised_tensors
from adaptzip.models.shards import open_shard
from adaptzip.models.strangers import WHICH

SUFFIX = ".safetensors"


def is_single_file(path: str | Path) -> bool:
    """Whether a base model is given as one file."""
    return Path(path).is_file()


def open_file(path: str | Path, *, dequantised: bool = False) -> BaseModel:
    """The model in one safetensors file.

    Args:
        path: the file.
        dequantised: take quantised weights as float ones.

    Raises:
        BaseModelError: if it is no such file, cannot be read, or is the weight file of a model's folder.
        RefusedError: if it is quantised and may not be, or in a way that is not read.
    """
    path = Path(path)
    check_single(path)
    shard = open_shard(path)
    if dequantised:
        return BaseModel(path, decoded_shards(path, {}, (shard,)))
    refuse_quantised_tensors(path, shard.tensors.values())
    return BaseModel(path, (shard,))


def check_single(path: Path) -> None:
    """Refuse a file that is no model by itself.

    Raises:
        BaseModelError: if it is no safetensors file, or the weight file of a model's folder.
    """
    if path.suffix != SUFFIX:
        raise BaseModelError(
            f"{path}: is a file, expected the folder of a base model, or an image model's {SUFFIX} file", hint=WHICH
        )
    if _is_of_folder(path):
        raise BaseModelError(
            f"{path}: is the weight file of a model, expected the model's folder", hint=f"did you mean {path.parent}?"
        )


def _is_of_folder(path: Path) -> bool:
    """Whether it is what a loader reads by the config.json that lies beside it."""
    if not (path.parent / "config.json").is_file():
        return False
    config = load_config(path.parent)
    if not {"model_type", "architectures", "_class_name"} & config.keys():
        return False
    try:
        return path in find_weights(path.parent, config).files
    except BaseModelError:
        return False
