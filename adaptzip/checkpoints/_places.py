"""Where an adapter lies: which file of a folder holds it."""

from __future__ import annotations

import re
from pathlib import Path

from adaptzip.checkpoints._config import WEIGHT_NAMES
from adaptzip.checkpoints._nowhere import no_adapter
from adaptzip.checkpoints._registry import config_names, weight_names
from adaptzip.checkpoints._shards import INDEX_SUFFIX
from adaptzip.errors import CheckpointError
from adaptzip.files.presence import check_adapter, refuse_dangling

OTHER_NAMES = ("pytorch_lora_weights.safetensors", "pytorch_lora_weights.bin", "adapters.safetensors")
"""What other programs than PEFT call theirs; where a folder has one of these, it is the one meant."""

WHOLE_MODELS = ("model.safetensors", "pytorch_model.bin")
TRAINERS = re.compile(
    r"(training_args|optimizer|scheduler|scaler|rng_state|random_states|trainer_state|dataloader|sampler)"
    r"[\w.-]*\.(bin|pt|pth|pkl|safetensors)"
)
"""What training programs keep beside an adapter to go on from there."""
BESIDE = ("non_lora_trainables.bin", "non_lora_state_dict.bin")
"""Trained tensors beside an adapter's factors, as LLaVA and its kin save them; they belong to the adapter."""

_SHARD = re.compile(r"(.+)-(\d+)-of-(\d+)(\.safetensors|\.bin)")


def weight_file(path: Path) -> Path:
    """The file that holds the tensors of the adapter at `path`, or the index of its shards.

    Raises:
        CheckpointError: if there is none, or more than one; it says where to look.
    """
    check_adapter(path)
    if path.is_file():
        _refuse_parts(path)
        return path
    for name in (*weight_names(), *OTHER_NAMES):
        for file in (path / name, path / f"{name}{INDEX_SUFFIX}"):
            refuse_dangling(file)
            if file.is_file():
                return file
    return _only_weight_file(path)


def config_file(weights: Path) -> Path:
    """Where the configuration beside a weight file, or beside the index of its shards, lies or would lie."""
    names = config_names(weights.name.removesuffix(INDEX_SUFFIX))
    return next((file for name in names if _is_there(file := weights.parent / name)), weights.parent / names[0])


def is_shard(path: Path) -> bool:
    """Whether a file's name says that it is one of several parts."""
    found = _SHARD.fullmatch(path.name)
    return found is not None and int(found[3]) > 1


def _is_there(file: Path) -> bool:
    """Whether a file is there, or a link to one that is not, which `refuse_dangling` tells of."""
    return file.is_file() or file.is_symlink()


def has_configuration(folder: Path) -> bool:
    """Whether a folder has the configuration of an adapter."""
    return any((folder / name).is_file() for name in config_names())


def _refuse_parts(path: Path) -> None:
    """Refuse a file that its name says to be no adapter, or only a part of one."""
    found = _SHARD.fullmatch(path.name)
    if found is not None and is_shard(path):
        index = path.with_name(f"{found[1]}{found[4]}{INDEX_SUFFIX}")
        hint = f"give the index that joins the parts, {index}" if index.is_file() else "give them with their index"
        raise CheckpointError(f"{path}: is part {int(found[2])} of {int(found[3])} of its weights", hint=hint)
    if TRAINERS.fullmatch(path.name):
        raise CheckpointError(f"{path}: is what a trainer keeps beside an adapter, not the adapter", hint=_folder(path))
    if path.name in BESIDE:
        raise CheckpointError(f"{path}: is what was trained beside the LoRA factors, without them", hint=_folder(path))


def _folder(path: Path) -> str:
    """What to give instead of a file that lies beside an adapter."""
    if any((path.parent / name).is_file() for name in weight_names()):
        return f"give the folder {path.parent}"
    return f"give the folder with {WEIGHT_NAMES[0]}"


def _only_weight_file(folder: Path) -> Path:
    """The one weight file of a folder that has none of the usual names."""
    found = [p for p in sorted(folder.iterdir()) if not (TRAINERS.fullmatch(p.name) or is_shard(p))]
    files = [p for p in found if p.suffix in (".safetensors", ".bin", ".adz", ".gguf") and p.name not in BESIDE]
    files = files or [p for p in found if p.suffix in (".pt", ".pth")]
    for file in files:
        refuse_dangling(file)
    files = [p for p in files if p.is_file()]
    if len(files) == 1 and not _is_output(folder, files[0]):
        return files[0]
    if len(files) > 1:
        names = ", ".join([p.name for p in files[:4]] + ["..."] * (len(files) > 4))
        raise CheckpointError(f"{folder}: holds {len(files)} weight files ({names})", hint="name the one you mean")
    raise no_adapter(folder)


def _is_output(folder: Path, file: Path) -> bool:
    """Whether a folder with one weight file is a trainer's output: a whole model, its adapters in checkpoints."""
    return file.name in WHOLE_MODELS and any(folder.glob("checkpoint-*"))
