"""Which files of a repository are a model, in one form of its weights, or an adapter, with what lies beside as text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

_TEXTS = frozenset((".json", ".jinja", ".md", ".merges", ".model", ".py", ".spm", ".tiktoken", ".txt", ".vocab", ""))
"""Ends of names of configurations, tokenisers, code and licences."""
_PIPELINE = "model_index.json"
_MODULE = re.compile(r"\d+_\w+")
"""A numbered module folder of sentence-transformers."""
_INDEX = re.compile(r"\.index(\.[\w-]+)?\.json$")
_FORMS = (
    ("model", "safetensors"),
    ("diffusion_pytorch_model", "safetensors"),
    ("pytorch_model", "bin"),
    ("diffusion_pytorch_model", "bin"),
)
"""Stems and ends of weight files, in the order in which loaders prefer them."""
ADAPTER_WEIGHTS = (".adz", ".safetensors", ".bin", ".pt", ".gguf")
"""How the names of adapters' weight files end."""
_TRAINING = re.compile(r"(optimizer|scheduler|scaler|rng_state|training_args|trainer_state)")
"""What training programs leave beside."""


def adapter_files(files: Sequence[str]) -> list[str]:
    """The files of a repository that are fetched of an adapter: its weights and texts at the root.

    Left out are whole models, what training programs keep to go on from, and folders.
    """
    names = [name for name in files if "/" not in name and not name.startswith(".") and not _TRAINING.match(name)]
    whole = {name for stem, end in _FORMS for name in names if re.fullmatch(rf"{stem}(-\d+-of-\d+)?\.{end}", name)}
    weights = [name for name in names if name.endswith(ADAPTER_WEIGHTS) and name not in whole]
    return sorted({*weights, *_texts(names), *(name for name in names if _INDEX.search(name) and weights)})


def wanted_files(files: Sequence[str]) -> list[str]:
    """The files of a repository that are fetched: its model, or the models of its pipeline, in one form each.

    Left out are other forms of the weights, such as GGUF or a second one of PyTorch, variants in another dtype, what
    belongs to neither, and folders that a loader does not look into.

    Args:
        files: the names in the repository, with slashes.
    """
    folders: dict[str, list[str]] = {}
    for name in files:
        path = PurePosixPath(name)
        if not any(part.startswith(".") for part in path.parts):
            folders.setdefault(str(path.parent), []).append(path.name)
    whole = _PIPELINE in folders.get(".", ())
    found = []
    for folder, names in folders.items():
        if folder == "." or whole or _MODULE.fullmatch(folder.partition("/")[0]):
            chosen = [*_texts(names), *([] if whole and folder == "." else _weights(names))]
            found += [str(PurePosixPath(folder) / name) for name in chosen]
    return sorted(found)


def _texts(names: Sequence[str]) -> Iterator[str]:
    return (n for n in names if PurePosixPath(n).suffix.lower() in _TEXTS and not _INDEX.search(n))


def _weights(names: Sequence[str]) -> list[str]:
    """One form of a folder's weights: a single file before a sharded one, and the only safetensors of any name last."""
    for stem, end in _FORMS:
        if f"{stem}.{end}" in names:
            return [f"{stem}.{end}"]
        shards = [name for name in names if re.fullmatch(rf"{stem}-\d+-of-\d+\.{end}", name)]
        if shards:
            return [*shards, *(name for name in names if name == f"{stem}.{end}.index.json")]
    others = [name for name in names if name.endswith(".safetensors")]
    return others if len(others) == 1 else []
