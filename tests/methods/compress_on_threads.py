"""Compress one adapter with every method on some number of threads, in a process of its own.

usage: python -m tests.methods.compress_on_threads THREADS FOLDER

Sizes are such that torch and BLAS share out their work: what is too small for that is the same on any number.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

import adaptzip
from adaptzip.bases.artefact import write_basis
from adaptzip.bases.directions import dense_directions
from adaptzip.bases.updates import build_basis
from adaptzip.core.adapter import Adapter
from adaptzip.core.workers import on_one_core
from adaptzip.errors import AdaptzipWarning
from adaptzip.testing.adapters import adapter

Shapes = dict[str, tuple[int, int, int]]
FEW: Shapes = {"m.0.q": (768, 768, 8), "m.0.v": (768, 768, 8)}
MIXED: Shapes = {**FEW, "m.1.up": (3072, 768, 8), "m.1.q": (1024, 1024, 16)}
ALIKE: Shapes = {f"m.{i}.up": (3072, 768, 8) for i in range(4)}
RUNS: dict[str, tuple[Shapes, dict[str, Any]]] = {
    "svd": (MIXED, {"budget": "3%"}),
    "vblora": (ALIKE, {"rank": 8, "length": 8, "vectors": 256, "top_k": 1}),
    "vblora of mixtures": (ALIKE, {"to": "vblora", "rank": 8, "length": 16, "vectors": 48, "top_k": 2}),
    "unilora": (MIXED, {"budget": "3000"}),
    "loretta": (MIXED, {"budget": "3%"}),
    "lora-xs": (MIXED, {"budget": "1%"}),
    "lora-sb": (MIXED, {"max_error": 0.5}),
    "auto": (FEW, {"max_error": 0.9}),
    "energy": (FEW, {"to": "svd", "budget": "3%", "allocate": "energy"}),
    "increlora": (FEW, {"to": "svd", "budget": "3%", "allocate": "increlora"}),
    "shared": (FEW, {"to": "svd", "max_error": 0.05}),
}


def base_model(source: Adapter, folder: Path) -> Path:
    """Weights whose leading directions are those of the updates, so that cores between them can serve."""
    generator = torch.Generator().manual_seed(5)
    tensors = {
        f"{name}.weight": module.delta() + 1e-3 * torch.randn(*module.shape, generator=generator)
        for name, module in source.modules.items()
    }
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text("{}")
    return folder


def main(threads: int, folder: Path) -> None:
    torch.set_num_threads(threads)
    warnings.simplefilter("ignore", AdaptzipWarning)
    base = base_model(adapter(MIXED), folder / "base")
    # Half of the directions, so that something is left.
    write_basis(build_basis([adapter(FEW)], 4), folder / "team.basis")
    elsewhere = {"lora-xs": {"base": base}, "shared": {"basis": folder / "team.basis"}}
    for name, (shapes, options) in RUNS.items():
        given: dict[str, Any] = {"to": name, **elsewhere.get(name, {}), **options}
        adaptzip.compress(adapter(shapes), folder / f"{name}.adz", **given)
    with on_one_core():
        U, S, V = dense_directions(torch.randn(640, 512, generator=torch.Generator().manual_seed(1)), 16)
    save_file({"U": U.contiguous(), "S": S, "V": V.contiguous()}, folder / "directions.safetensors")


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
