"""What a folder is that holds no adapter, and where the adapter may lie instead."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from adaptzip.checkpoints._config import CONFIG_NAME, WEIGHT_NAMES
from adaptzip.checkpoints._registry import weight_names
from adaptzip.checkpoints._shards import INDEX_SUFFIX
from adaptzip.errors import CheckpointError
from adaptzip.files.hub_cache import main_snapshot

_DEPTH = 3
_MOST = 500
"""Folders that are looked into at each depth."""
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
_PART = re.compile(r".+-\d+-of-(\d+)\.(safetensors|bin)")


def no_adapter(folder: Path) -> CheckpointError:
    """The error about a folder in which no adapter was found: what it holds, and where to look."""
    said = f"{folder}: there is no adapter in this folder"
    holds = _holds(folder)
    return CheckpointError(f"{said}: {holds}" if holds else said, hint=_where(folder))


def _holds(folder: Path) -> str:
    names = sorted(p.name for p in islice(folder.iterdir(), _MOST))
    parts = [name for name in names if _PART.fullmatch(name)]
    has_config = CONFIG_NAME in names
    if (folder / "snapshots").is_dir() and (folder / "refs").is_dir():
        return "it is the root of a repository in the Hub's cache"
    if any(name.startswith("adapter_model-") for name in parts):
        return f"it holds {len(parts)} parts of an adapter, such as {parts[0]}, and no index that joins them"
    if parts or "model.safetensors" in names or "pytorch_model.bin" in names:
        return f"it holds a whole model{f' and the {CONFIG_NAME} of an adapter' if has_config else ''}"
    states = [name for name in names if name.startswith("global_step")]
    if states:
        return f"it holds DeepSpeed's states ({states[0]})"
    if any(name.startswith("pytorch_model_fsdp") for name in names):
        return "it holds the shards of a training run with FSDP"
    other = next((name for name in names if name.endswith((".gguf", ".ckpt", ".pt", ".pth", ".npz", ".h5"))), None)
    if has_config:
        return f"it has {CONFIG_NAME}, but no {WEIGHT_NAMES[0]}"
    return f"it holds {other}" if other else ""


def _where(folder: Path) -> str:
    snapshot = main_snapshot(folder)
    found = [snapshot] if snapshot is not None and _has_adapter(snapshot) else _below(folder)
    steps = sorted((int(match[1]), p) for p in found if (match := _CHECKPOINT.fullmatch(p.name)))
    if steps:
        return f"the latest of its checkpoints that hold one is {steps[-1][1]}"
    if len(found) == 1:
        return f"did you mean {found[0]}?"
    if found:
        more = ", ..." if len(found) > 4 else ""
        return f"did you mean one of {', '.join(map(str, found[:4]))}{more}?"
    states = sorted(folder.glob("global_step*"))
    if states:
        return f"gather {states[0].name} with DeepSpeed's zero_to_fp32.py, and save the adapter from the result"
    if next(folder.glob("pytorch_model_fsdp*"), None) is not None:
        return "gather them with `accelerate merge-weights`, and save the adapter from the result"
    if (folder / CONFIG_NAME).is_file():
        return f"put the {WEIGHT_NAMES[0]} that belongs to it beside it"
    return f"expected {CONFIG_NAME} and {WEIGHT_NAMES[0]}"


def _below(folder: Path) -> list[Path]:
    """The folders nearest below that hold an adapter."""
    level = [folder]
    for _ in range(_DEPTH):
        level = list(islice(_folders(level), _MOST))
        found = [p for p in level if _has_adapter(p)]
        if found:
            return found
    return []


def _folders(level: list[Path]) -> Iterator[Path]:
    for folder in level:
        try:
            inside = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
        except OSError:
            continue  # A folder that may not be read holds nothing that could be pointed to.
        yield from inside


def _has_adapter(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (*weight_names(), f"{WEIGHT_NAMES[0]}{INDEX_SUFFIX}"))
