"""The independent decoder, written from the format's text, against adaptzip on adapters made at random."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import adaptzip
from adaptzip import Adapter, LoraFactors
from adaptzip.adz.container import writer
from adaptzip.bases.artefact import write_basis
from adaptzip.bases.updates import build_basis
from adaptzip.core.gains import divisor
from adaptzip.files.dtypes import DTYPES
from adaptzip.testing.adapters import adapter
from formats import decoder
from tests.formats.decoded import GOLDEN, decoded, plain
from tests.formats.decoded import agree as same

SHAPES: dict[str, Any] = {
    "several": [(64, 48, 4), (30, 90, 6), (5, 7, 2)],
    "one": [(40, 40, 8)],
    "thin": [(1, 1, 1), (300, 1, 1), (1, 300, 1)],
    "chains": [(129, 127, 1), (128, 256, 1)],
}


def agree(source: Adapter, path: Path, *, near: bool = False, **options: Any) -> dict[str, Any]:
    """Compress, decode by both, and compare; what they found."""
    adaptzip.compress(source, path, force=True, **options)
    found = decoded(path.read_bytes())
    assert same(plain(adaptzip.reconstruct(path)), found, near=near)
    return found


@pytest.mark.parametrize("error", [0.5, 0.05, 0.001])
@pytest.mark.parametrize("shapes", SHAPES)
def test_errors_and_shapes(shapes: str, error: float, tmp_path: Path) -> None:
    agree(adapter(SHAPES[shapes], seed=1), tmp_path / "x.adz", max_error=error)


@pytest.mark.parametrize("error", [0.3, 0.003])
def test_numbers_far_outside(error: float, tmp_path: Path) -> None:
    source = adapter([(40, 40, 3)], seed=2)
    source.modules["m.0"].A[0, ::9] *= 300
    agree(source, tmp_path / "x.adz", max_error=error)


def test_long_blocks(tmp_path: Path) -> None:
    source = Adapter({"m": LoraFactors(torch.randn(4, 9000), torch.eye(20, 4))})
    found = agree(source, tmp_path / "x.adz", max_error=0.6)
    assert found["A m"][1] == (4, 9000)


def test_modules_that_vanish(tmp_path: Path) -> None:
    source = adapter([(20, 30, 3)] * 3)
    faint = {name: LoraFactors(m.A, m.B * 10.0**-i) for i, (name, m) in enumerate(source.modules.items())}
    found = agree(Adapter(faint), tmp_path / "x.adz", max_error=0.3)
    assert found["A m.2"][1] == (0, 30)


def test_no_update_at_all(tmp_path: Path) -> None:
    agree(Adapter({"m": LoraFactors(torch.zeros(2, 6), torch.zeros(5, 2))}), tmp_path / "x.adz")


@pytest.mark.parametrize(
    "options", [{"order": "delta"}, {"order": "rep"}, {"order": "rep", "rank": 2, "max_error": 0.95}]
)
@pytest.mark.parametrize("shapes", SHAPES)
def test_tensor_trains(shapes: str, options: dict[str, Any], tmp_path: Path) -> None:
    agree(adapter(SHAPES[shapes], seed=4), tmp_path / "x.adz", near=True, to="loretta", **options)


@pytest.mark.parametrize("shapes", SHAPES)
def test_cores(shapes: str, tmp_path: Path) -> None:
    agree(adapter(SHAPES[shapes], seed=5), tmp_path / "x.adz", near=True, to="lora-sb", max_error=0.1)


@pytest.mark.parametrize("rank", [None, 5])
def test_cores_on_a_mean(rank: int | None, tmp_path: Path) -> None:
    adapters = [adapter({"a": (20, 16, 3), "b": (9, 16, 3)}, seed=seed) for seed in (1, 2)]
    built = build_basis(adapters, 6)
    modules = {}
    for name, module in built.modules.items():
        mean = sum((one.modules[name].delta() for one in adapters), torch.zeros(len(module.U), len(module.V))) / 2
        modules[name] = replace(module, mean=module.U.T @ mean @ module.V)
    write_basis(replace(built, modules=modules), tmp_path / "x.basis")
    path, basis = tmp_path / "x.adz", tmp_path / "x.basis"
    adaptzip.compress(adapters[0], path, to="lora-sb", basis=basis, max_error=0.6, mean=True, rank=rank)
    kept = {name: (m.U.numpy(), m.V.numpy(), m.mean.numpy()) for name, m in modules.items()}
    assert same(plain(adaptzip.reconstruct(path, basis=basis)), decoded(path.read_bytes(), kept))


@pytest.mark.parametrize(("length", "vectors", "top_k"), [(1, 9, 1), (7, 300, 1), (5, 11, 2), (16, 33, 3)])
def test_banks(length: int, vectors: int, top_k: int, tmp_path: Path) -> None:
    source = adapter(SHAPES["several"], seed=6)
    options: dict[str, Any] = {"rank": 2, "length": length, "vectors": vectors, "top_k": top_k}
    agree(source, tmp_path / "x.adz", to="vblora", max_error=0.99, **options)


@pytest.mark.parametrize("gain", range(-128, 128))
def test_gains(gain: int) -> None:
    assert decoder.undo_gain(gain) == np.float32(divisor(gain))
    assert float(decoder.undo_gain(gain)) == pytest.approx(2 ** (-gain / 4), rel=1e-7)


@pytest.mark.parametrize("mode", ["lossless", "float16", "bfloat16", "int8"])
def test_extras_of_every_dtype(mode: str, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(3)
    numbers = torch.randn(30, 21, generator=generator)
    extras = {f"x.{name}": (numbers * 4).to(dtype) for name, dtype in DTYPES.items()}
    extras |= {"huge": torch.tensor([1e38, -1e38, 1e-40]), "wide": torch.tensor([[1e300, 1e-300]]).double()}
    agree(adapter([(6, 5, 1)], extras=extras), tmp_path / "x.adz", extras=mode)


@pytest.mark.parametrize(
    "change", [{"method": "another"}, {"method_version": 7}, {"config": {"lossless": True, "option": 1}}]
)
def test_a_lossless_file_with_modules_needs_no_method(change: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "x.adz"
    writer.write(replace(adaptzip.compress(adapter({"m": (8, 6, 2)}), lossless=True), **change), path)
    assert same(plain(adaptzip.reconstruct(path)), decoded(path.read_bytes()), near=False)


def test_lossless_factors_of_every_float(tmp_path: Path) -> None:
    floats = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
    modules = {
        f"{a}/{b}": LoraFactors(torch.randn(2, 5).to(a), torch.randn(4, 2).to(b), 0.1) for a in floats for b in floats
    }
    agree(Adapter(dict(sorted(modules.items()))), tmp_path / "x.adz", lossless=True)


def test_it_shares_no_code_with_adaptzip() -> None:
    code = (
        "import sys; from formats import decoder; decoder.main(decoder.Path(sys.argv[1]));"
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(GOLDEN / "layouts.adz")],
        capture_output=True,
        text=True,
        check=True,
        cwd=GOLDEN.parents[1],
    )
    assert "module z: A (2, 7), B (9, 2), scaling 1" in done.stdout
    loaded = {name.partition(".")[0] for name in done.stderr.split()}
    assert not loaded & {"adaptzip", "torch", "constriction", "safetensors", "scipy"}
