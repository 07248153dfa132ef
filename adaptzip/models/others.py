"""The files of a base model that are carried over into a merged one: all but weights and what is hidden."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from adaptzip.errors import BaseModelError
from adaptzip.models.links import check_link
from adaptzip.models.shards import check_pointer

WEIGHT_SUFFIXES = frozenset(
    (
        *(".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".ggml", ".h5", ".hdf5", ".msgpack", ".npz"),
        *(".onnx", ".onnx_data", ".ot", ".pkl", ".pickle", ".tflite", ".pdparams"),
    )
)
_INDEX = re.compile(r"\.index(\.[\w-]+)?\.json$|\.ckpt\.(index|meta|data-\S+)$")
_MODULE_FOLDER = re.compile(r"\d+_\w+")
_POINTER_LIMIT = 1024
"""A git-LFS pointer has fewer bytes."""


def other_files(folder: Path, weights: Collection[Path]) -> tuple[Path, ...]:
    """The files to carry over, relative to `folder`: configuration, tokeniser, code.

    The numbered module folders of sentence-transformers are carried over whole. No weights that a loader could
    take for the merged ones are.

    Args:
        folder: the base model's folder.
        weights: the files that are read as its weights, whatever their names.

    Raises:
        BaseModelError: if a link leads nowhere or in a circle, or a file is a git-LFS pointer.
        RefusedError: if a link leads out of the folder.
    """
    found = [path for path in _walk(folder, folder, (folder.resolve(),), _is_carried) if path not in weights]
    return _checked(found, folder)


def whole_folder(folder: Path, root: Path) -> tuple[Path, ...]:
    """All files of a folder within `root`, weights among them, relative to `root`; raises as `other_files`."""
    return _checked(list(_walk(folder, root, (root.resolve(), folder.resolve()), lambda _: True)), root)


def _checked(found: list[Path], root: Path) -> tuple[Path, ...]:
    for path in found:
        if path.stat().st_size < _POINTER_LIMIT:
            check_pointer(path)
    return tuple(path.relative_to(root) for path in found)


def _walk(folder: Path, root: Path, above: tuple[Path, ...], carried: Callable[[Path], bool]) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            check_link(path, root)
            target = path.resolve()
            if target in above:
                raise BaseModelError(f"{path}: is a link that leads back to {target}", hint="remove the link")
            yield from _walk(path, root, (*above, target), carried)
        elif carried(path.relative_to(root)) and (path.is_symlink() or path.is_file()):
            check_link(path, root)
            yield path


def _is_carried(relative: Path) -> bool:
    if relative.name == "adapter_config.json":
        return False
    if len(relative.parts) > 1 and _MODULE_FOLDER.fullmatch(relative.parts[0]):
        return True
    return relative.suffix.lower() not in WEIGHT_SUFFIXES and not _INDEX.search(relative.name)
