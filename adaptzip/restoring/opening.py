"""Opening the files of an adapter: where its tensors and its configuration lie, and what a dialect makes of them."""

from __future__ import annotations

import codecs
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from adaptzip.adz.container.frame import is_adz
from adaptzip.checkpoints import Checkpoint, opener, read_by, reader, recognise
from adaptzip.checkpoints._beside import add_beside, files_beside
from adaptzip.checkpoints._copies import check_copies
from adaptzip.checkpoints._gguf.bases import config_of, header_of, is_gguf
from adaptzip.checkpoints._keys import plain_keys, warn_of_spelling
from adaptzip.checkpoints._places import config_file, has_configuration
from adaptzip.checkpoints._places import weight_file as find_weights
from adaptzip.checkpoints._shards import INDEX_SUFFIX, open_shards, shard_files
from adaptzip.core.adapter import Adapter
from adaptzip.errors import AdaptzipError, CheckpointError, UsageError
from adaptzip.files.json_values import json_values
from adaptzip.files.magic import refuse_pointers
from adaptzip.files.presence import refuse_dangling
from adaptzip.files.regular import read_regular
from adaptzip.files.weights import Weights, open_weights
from adaptzip.models.hub import base_path
from adaptzip.models.texts.tokenisers import has_vocabulary
from adaptzip.restoring.base_tensors import stored_base

LONGEST_CONFIG = 2**24
"""Bytes of an adapter's configuration: no .adz has room for more."""


def understood(source: Checkpoint, dialect: str | None = None) -> Adapter:
    """What a dialect makes of opened files.

    Args:
        dialect: as for `read`.

    Raises:
        CheckpointError, RefusedError, UsageError: as `read`.
    """
    adapter = read_by(recognise(source) if dialect is None else reader(dialect), source)
    check_copies(adapter, source.weights)
    return adapter


def open_checkpoint(
    path: str | Path,
    *,
    alpha: float | None = None,
    config: str | Path | None = None,
    base: str | Path | None = None,
) -> Checkpoint:
    """Open the files of an adapter that is no `.adz`, without understanding them.

    Args:
        alpha, config, base: as for `read`.

    Raises:
        CheckpointError: if the adapter is missing or unreadable.
        UsageError: if `alpha` is given although there is a configuration.
    """
    with readable(path):
        weights = weight_file(path)
        given = None if config is None else Path(config)
        return checkpoint_at(Path(path), weights, opened_weights(weights), alpha, given, base)


def archive_file(path: str | Path) -> Path | None:
    """The `.adz` file at `path`, by its name or by what it holds, or None for any other adapter.

    Raises:
        CheckpointError: if there is no adapter.
    """
    with readable(path):
        weights = weight_file(path)
        return weights if is_adz(weights) else None


def source_bytes(path: str | Path) -> int:
    """Size in bytes of the files with the adapter's tensors, which is what every ratio refers to.

    Raises:
        CheckpointError: if there are none.
    """
    with readable(path):
        return sum(file.stat().st_size for file in weight_files(path))


def weight_files(path: str | Path) -> tuple[Path, ...]:
    """The files that hold the tensors of the adapter at `path`: one, or its shards, and what lies beside them.

    Raises:
        CheckpointError: if there are none.
    """
    with readable(path):
        weights = weight_file(path)
        shards = shard_files(weights) if weights.name.endswith(INDEX_SUFFIX) else (weights,)
        return (*shards, *files_beside(weights))


def weight_file(path: str | Path) -> Path:
    """The file that holds the tensors of the adapter at `path`, or the index of its shards.

    Raises:
        CheckpointError: if there is none.
    """
    return find_weights(Path(path))


def opened_weights(weights: Path) -> Weights:
    if weights.name.endswith(INDEX_SUFFIX):
        return open_shards(weights)
    own = opener(weights)
    return open_weights(weights) if own is None else own.open(weights)


@contextmanager
def readable(path: str | Path) -> Iterator[None]:
    """Turn the system's errors about the adapter's files into one that names them."""
    try:
        yield
    except AdaptzipError:
        raise
    except OSError as error:
        raise CheckpointError(
            f"{error.filename or path}: cannot be read: {error.strerror or error}",
            hint="check its permissions",
        ) from error


def checkpoint_at(
    path: Path,
    weights: Path,
    opened: Weights,
    alpha: float | None,
    config_path: Path | None,
    base: str | Path | None,
) -> Checkpoint:
    if alpha is not None and not math.isfinite(alpha):
        raise UsageError(
            f"`alpha=` is {alpha}, expected a finite number", hint="give the lora_alpha it was trained with"
        )
    if config_path is not None and not config_path.is_file():
        raise CheckpointError(f"{config_path}: configuration not found", hint="expected an adapter_config.json")
    config_path = config_path or config_file(weights)
    refuse_dangling(config_path)
    text = config = None
    if config_path.is_file():
        text, config = _load_config(config_path)
        if alpha is not None:
            raise UsageError(
                f"`alpha={alpha:g}` was given, but {config_path} sets the scale",
                hint="leave `alpha=` out, or move the configuration away",
            )
    found = add_beside(weights, opened.tensors)
    plain = plain_keys(found, config, weights)
    warn_of_spelling(plain, weights)
    own = len(found) == len(opened.tensors) and all(key == name for key, name in plain.items())
    tensors = {plain[key]: tensor for key, tensor in found.items()}
    header = opened.header if own else None
    return Checkpoint(
        path,
        weights,
        tensors,
        opened.metadata,
        header,
        config,
        text,
        alpha,
        base_config(base),
        base_config(weights.parent),
        None if base is None else stored_base(base),
    )


def base_config(folder: str | Path | None) -> dict[str, Any] | None:
    """The config.json of a model's folder, or what a GGUF file says instead; None where it cannot be read."""
    try:
        if folder is not None and is_gguf(folder):
            return config_of(header_of(Path(folder)))
        config = None if folder is None else json_values(read_regular(base_path(folder) / "config.json"))
    except (OSError, ValueError, RecursionError):  # A CheckpointError is a ValueError.
        return None  # Whoever needs it says what is missing.
    return config if isinstance(config, dict) else None


def _load_config(path: Path) -> tuple[str, dict[str, Any]]:
    size = path.stat().st_size
    if size > LONGEST_CONFIG:
        raise CheckpointError(
            f"{path}: has {size:,} bytes, more than the {LONGEST_CONFIG:,} of any configuration",
            hint="take out of it what does not belong to the adapter",
        )
    content = read_regular(path)
    refuse_pointers(path, content[:256])
    if content.startswith((codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise CheckpointError(f"{path}: begins with a byte order mark", hint="save it as UTF-8 without one")
    try:
        text = content.decode("utf-8")
        config = json_values(text, bytes_a_value=LONGEST_CONFIG)
        json.dumps(config, ensure_ascii=False).encode()  # Half a surrogate pair is JSON, and no text.
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: is not valid JSON ({str(error)[:100]})", hint="save or download it again"
        ) from error
    if not isinstance(config, dict):
        raise CheckpointError(
            f"{path}: expected a JSON object, found {type(config).__name__}", hint="save or download it again"
        )
    return text, config


def tokeniser_folder(adapter: str | Path) -> Path | None:
    """The folder of an adapter, where it has a tokeniser with its vocabulary for transformers beside the weights."""
    folder = Path(adapter) if Path(adapter).is_dir() else Path(adapter).parent
    return folder if has_configuration(folder) and has_vocabulary(folder) else None
