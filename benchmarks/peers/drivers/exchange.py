"""The exchange with the benchmark: arrays and settings in, and for each setting bytes and arrays out.

A job is a folder with `in.npz` and `settings.json`. The answer to setting number i is `out-i.npz`, and all sizes are in
`sizes.json`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray[Any, Any]]
Code = Callable[[Arrays, Any], tuple[int, Arrays]]
"""Arrays and a setting to the bytes that the peer takes for them, and the arrays that it gives back."""


def serve(code: Code) -> None:
    """Answer the job whose folder is the first word of the command line."""
    folder = Path(sys.argv[1])
    given = load(folder / "in.npz")
    sizes = []
    for number, setting in enumerate(json.loads((folder / "settings.json").read_text())):
        size, arrays = code({name: array.copy() for name, array in given.items()}, setting)
        np.savez(folder / f"out-{number}.npz", **arrays)  # type: ignore[arg-type]
        sizes.append(size)
    (folder / "sizes.json").write_text(json.dumps(sizes))


def load(path: Path) -> Arrays:
    with np.load(path) as found:
        return {name: found[name] for name in found.files}


def folder_bytes(folder: Path) -> int:
    """Of every file in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def by_adapter(arrays: Arrays) -> dict[str, dict[str, dict[str, np.ndarray[Any, Any]]]]:
    """Arrays called adapter|module|side, by those three."""
    found: dict[str, dict[str, dict[str, np.ndarray[Any, Any]]]] = {}
    for name, array in arrays.items():
        adapter, module, side = name.split("|")
        found.setdefault(adapter, {}).setdefault(module, {})[side] = array
    return found
