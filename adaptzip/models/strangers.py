"""Folders that are taken for a base model's and are something else: what they are, and where the model may lie."""

from __future__ import annotations

import re
from pathlib import Path

from adaptzip.errors import BaseModelError
from adaptzip.files.hub_cache import main_snapshot
from adaptzip.files.json_values import json_values
from adaptzip.files.regular import read_regular

WHICH = "give the folder that holds the base model's config.json and model.safetensors"
_OTHER_FORMATS = (".h5", ".msgpack", ".onnx", ".ot", ".npz", ".ckpt", ".pth", ".pt")
_WEIGHTS = (
    *("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"),
    *("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.safetensors.index.json"),
    "diffusion_pytorch_model.bin",
)
_DENOISERS = ("transformer", "unet", "prior")
_DEPTH = 3


def no_weights(folder: Path) -> BaseModelError:
    """The error about a folder without a base model's weights, with the likeliest place of the model as its hint."""
    if (folder / "adapter_config.json").is_file():
        return BaseModelError(f"{folder}: holds an adapter, expected a base model", hint=_base_of(folder))
    inner = _models_within(folder)
    if (folder / "snapshots").is_dir() or folder.name == "snapshots":
        return _hub_cache(folder, inner)
    if (folder / "model_index.json").is_file():
        denoiser = next((folder / name for name in _DENOISERS if folder / name in inner), None)
        return BaseModelError(
            f"{folder}: is a diffusers pipeline of several models, expected one model's folder",
            hint=f"did you mean {denoiser}?" if denoiser else "give the folder of the model that the adapter changes",
        )
    what = f"{folder}: holds no weights, expected model.safetensors or pytorch_model.bin"
    if inner:
        return BaseModelError(what, hint=f"did you mean {_latest(inner)}?")
    if (file := next(iter(sorted(folder.glob("*.gguf"))), None)) is not None:
        return BaseModelError(
            f"{folder}: holds weights only as .gguf, expected model.safetensors or pytorch_model.bin",
            hint=f"`merge` takes the file itself, `base='{file}'`; all else the model in its original safetensors form",
        )
    for suffix in _OTHER_FORMATS:
        if any(folder.glob(f"*{suffix}")):
            return BaseModelError(
                f"{folder}: holds weights only as {suffix}, expected model.safetensors or pytorch_model.bin",
                hint="give the model in its original safetensors form",
            )
    return BaseModelError(what, hint=WHICH)


def _base_of(folder: Path) -> str:
    """Which base model an adapter's configuration names."""
    try:
        named = json_values(read_regular(folder / "adapter_config.json"))["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return WHICH
    return f"give the base model itself; the adapter names {named}" if isinstance(named, str) and named else WHICH


def _hub_cache(folder: Path, inner: list[Path]) -> BaseModelError:
    cache = folder.parent if folder.name == "snapshots" else folder
    current = main_snapshot(cache)
    found = current if current in inner else next(iter(inner), None)
    return BaseModelError(
        f"{folder}: is a Hub cache, expected one snapshot in it",
        hint=f"did you mean {found}?" if found else "its download was not finished: download the base model again",
    )


def _models_within(folder: Path) -> list[Path]:
    """The folders below that hold weights under a loader's names, the nearest first."""
    level, found = [folder], []
    for _ in range(_DEPTH):
        level = [p for parent in level for p in sorted(parent.iterdir()) if p.is_dir() and not p.name.startswith(".")]
        found += [p for p in level if any((p / name).is_file() for name in _WEIGHTS)]
    return found


def _latest(folders: list[Path]) -> Path:
    """The checkpoint with the highest number of steps, or the first folder where they are none."""
    steps = {p: int(m[1]) for p in folders if (m := re.fullmatch(r"checkpoint-(\d+)", p.name))}
    return max(steps, key=steps.__getitem__) if len(steps) == len(folders) else folders[0]
