"""Opening an adapter wherever it lies: a PEFT folder, its weight file alone, or a `.adz` file."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from adaptzip.adapter import Adapter
from adaptzip.basis import Basis
from adaptzip.checkpoints import Source, recognise
from adaptzip.checkpoints._files import Weights, open_weights
from adaptzip.errors import AdaptzipError, CheckpointError, UsageError

CONFIG_NAME = "adapter_config.json"
WEIGHT_NAMES = ("adapter_model.safetensors", "adapter_model.bin")
# What other programs call theirs; where a folder has one of these, it is the one meant.
_OTHER_NAMES = ("pytorch_lora_weights.safetensors", "pytorch_lora_weights.bin", "adapters.safetensors")


def read(
    path: str | Path,
    *,
    alpha: float | None = None,
    config: str | Path | None = None,
    base: str | Path | None = None,
    basis: str | Path | Basis | None = None,
) -> Adapter:
    """Read an adapter completely.

    Args:
        path: a PEFT folder, its weight file (with its configuration beside it, or `alpha`), or a `.adz` file.
        alpha: lora_alpha for a weight file without configuration; every module's scale is alpha / its rank.
        config: the configuration file, where it does not lie beside the weights.
        base: folder of the base model, for a `.adz` file whose basis is that of the base weights.
        basis: the basis artefact or its path, for a `.adz` file that names one.

    Raises:
        CheckpointError: if the adapter is missing, unreadable or malformed.
        FormatError: if it is a damaged `.adz` file.
        RefusedError: if it is valid but not a low-rank update, or its basis is missing or another.
        UsageError: if `alpha` is given although there is a configuration.
    """
    with _readable(path):
        weights = weight_file(path)
        opened = None if weights.suffix == ".adz" else open_weights(weights)
        if opened is None or "adaptzip" in opened.metadata:
            return _read_adz(weights, alpha, base, basis)
        source = _source(Path(path), weights, opened, alpha, None if config is None else Path(config))
        return recognise(source).read(source)


def archive_file(path: str | Path) -> Path | None:
    """The `.adz` file at `path`, by its name or by what it holds, or None for any other adapter.

    Raises:
        CheckpointError: if there is no adapter.
    """
    with _readable(path):
        weights = weight_file(path)
        if weights.suffix == ".adz" or "adaptzip" in open_weights(weights).metadata:
            return weights
        return None


def source_bytes(path: str | Path) -> int:
    """Size in bytes of the adapter's weight file, which is what every ratio refers to.

    Raises:
        CheckpointError: if there is none.
    """
    with _readable(path):
        return weight_file(path).stat().st_size


def weight_file(path: str | Path) -> Path:
    """The file that holds the tensors of the adapter at `path`.

    Raises:
        CheckpointError: if there is none.
    """
    path = Path(path)
    if path.is_file():
        return path
    if not path.is_dir():
        raise CheckpointError(f"{path}: no such file or folder", hint="give a PEFT folder or its weight file")
    for name in (*WEIGHT_NAMES, *_OTHER_NAMES):
        if (path / name).is_file():
            return path / name
    return _only_weight_file(path)


def _only_weight_file(folder: Path) -> Path:
    """The one weight file of a folder that has none of PEFT's names."""
    files = sorted(p for p in folder.iterdir() if p.suffix in (".safetensors", ".bin", ".adz") and p.is_file())
    if len(files) == 1:
        return files[0]
    if files:
        names = ", ".join(p.name for p in files[:4])
        raise CheckpointError(f"{folder}: holds several weight files ({names})", hint="name the one you mean")
    inner = sorted(p.parent.name for name in WEIGHT_NAMES for p in folder.glob(f"*/{name}"))
    hint = f"did you mean {folder / inner[0]}?" if inner else f"expected {CONFIG_NAME} and {WEIGHT_NAMES[0]}"
    raise CheckpointError(f"{folder}: there is no adapter in this folder", hint=hint)


@contextmanager
def _readable(path: str | Path) -> Iterator[None]:
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


def _read_adz(path: Path, alpha: float | None, base: str | Path | None, basis: str | Path | Basis | None) -> Adapter:
    """Decode a compressed adapter; imported late, as it needs the entropy coder."""
    if alpha is not None:
        raise UsageError(f"--alpha was given, but {path} has its own scales", hint="leave --alpha out")
    from adaptzip.reconstruction import reconstruct

    return reconstruct(path, base=base, basis=basis)


def _source(path: Path, weights: Path, opened: Weights, alpha: float | None, config_path: Path | None) -> Source:
    if alpha is not None and not math.isfinite(alpha):
        raise UsageError(
            f"--alpha is {alpha}, expected a finite number", hint="give the lora_alpha it was trained with"
        )
    if config_path is not None and not config_path.is_file():
        raise CheckpointError(f"{config_path}: configuration not found", hint="expected an adapter_config.json")
    config_path = config_path or weights.parent / CONFIG_NAME
    text = config = None
    if config_path.is_file():
        text, config = _load_config(config_path)
        if alpha is not None:
            raise UsageError(
                f"--alpha {alpha:g} was given, but {config_path} sets the scale",
                hint="leave --alpha out, or move the configuration away",
            )
    return Source(path, weights, opened.tensors, opened.metadata, opened.header, config, text, alpha)


def _load_config(path: Path) -> tuple[str, dict[str, Any]]:
    try:
        text = path.read_bytes().decode("utf-8")
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: is not valid JSON ({error})", hint="save or download it again") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {type(config).__name__}")
    return text, config
