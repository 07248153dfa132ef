"""Time, peak memory and error of extracting an adapter, beside a plain full SVD of each matrix and mergekit.

Makes a Llama with random bfloat16 weights in several shards and a tuned one, whose matrices differ by a few strong
directions under noise, and extracts an adapter of one rank with each, in a process of its own. The plain way loads both
models with transformers, takes a dense float32 difference of each matrix and `torch.linalg.svd` of it, and writes the
first directions with safetensors: no rank r is nearer. mergekit, which may be installed elsewhere, takes part where its
program is given; its error is that of the adapter it writes, in the base's bfloat16. Needs transformers:

    python -m benchmarks.extract --layers 4 --hidden 1024 [--mergekit BIN/mergekit-extract-lora] [--write]
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import torch
from safetensors.torch import save_file

from adaptzip.models.folder import BaseModel
from benchmarks.commands import machine, run
from benchmarks.llama import random_llama, save
from benchmarks.page import put, table


def make_models(folder: Path, layers: int, hidden: int) -> None:
    """Write base/ and tuned/."""
    model = random_llama(layers, hidden, 8 * hidden)
    save(model, folder / "base")
    for parameter in model.parameters():
        if parameter.ndim == 2:
            rows, columns = parameter.shape
            few = torch.randn(rows, 24) / torch.arange(1, 25) @ torch.randn(24, columns)
            parameter.data += (2e-3 * few + 1e-3 * torch.randn(rows, columns)).bfloat16()
    save(model, folder / "tuned")


def by_adaptzip(folder: Path, rank: int) -> float:
    import adaptzip
    from adaptzip.restoring.extracting import extraction

    found = extraction(folder / "base", folder / "tuned", rank=rank)
    adaptzip.export(found.adapter, folder / "adaptzip")
    return found.error


def by_full_svd(folder: Path, rank: int) -> float:
    from transformers import AutoModelForCausalLM

    base, tuned = (AutoModelForCausalLM.from_pretrained(folder / name).state_dict() for name in ("base", "tuned"))
    tensors, lost, energy = {}, 0.0, 0.0
    for name in (name for name, tensor in tuned.items() if tensor.ndim == 2):
        U, S, Vt = torch.linalg.svd(tuned[name].float() - base[name].float(), full_matrices=False)
        tensors[f"{name}.lora_B"] = (U[:, :rank] * S[:rank]).contiguous()
        tensors[f"{name}.lora_A"] = Vt[:rank].contiguous()
        squares = S.double().square()
        lost, energy = lost + float(squares[rank:].sum()), energy + float(squares.sum())
    save_file(tensors, folder / "plain.safetensors")
    return math.sqrt(lost / energy)


WAYS: dict[str, Callable[[Path, int], float]] = {"full SVD": by_full_svd, "adaptzip": by_adaptzip}


def by_mergekit(program: Path, folder: Path, rank: int) -> dict[str, float]:
    words = ["--model", "tuned", "--base-model", "base", "--out-path", "mergekit", "--max-rank", str(rank)]
    found = run([str(program), *words, "--embed-lora", "--quiet"], folder)
    return {"total": found["total"], "extract": math.nan, "peak": found["peak"], "error": error_of(folder, "mergekit")}


def error_of(folder: Path, name: str) -> float:
    """|D - D'| / |D| of an extracted adapter over all matrices, D the difference of the stored weights."""
    import adaptzip

    base, tuned = (BaseModel.open(folder / which) for which in ("base", "tuned"))
    lost = energy = 0.0
    for module, factors in adaptzip.read(folder / name).modules.items():
        difference = tuned.read(f"{module}.weight").float() - base.read(f"{module}.weight").float()
        lost += float((difference - factors.weight_delta()).double().square().sum())
        energy += float(difference.double().square().sum())
    return math.sqrt(lost / energy)


def run_alone(way: str, folder: Path, rank: int) -> dict[str, float]:
    """Extract in a process of its own: seconds with and without imports, peak resident bytes and error."""
    command = [sys.executable, "-m", "benchmarks.extract", "--only", way, "--folder", str(folder), "--rank", str(rank)]
    start = time.perf_counter()
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return {"total": time.perf_counter() - start} | found


def measure(way: str, folder: Path, rank: int) -> dict[str, float]:
    start = time.perf_counter()
    error = WAYS[way](folder, rank)
    seconds = time.perf_counter() - start
    return {
        "extract": seconds,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0,
        "error": error,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--mergekit", type=Path)
    parser.add_argument("--plain", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks.md")
    parser.add_argument("--only", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        print(json.dumps(measure(options.only, options.folder, options.rank)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # A child's peak memory starts from its parent's, so the models are made in another child.
        maker = get_context("spawn").Process(target=make_models, args=(folder, options.layers, options.hidden))
        maker.start()
        maker.join()
        shards = [file.stat().st_size for file in (folder / "base").glob("*.safetensors")]
        ways = [way for way in WAYS if options.plain or way == "adaptzip"]
        found = {way: run_alone(way, folder, options.rank) for way in ways}
        if options.mergekit:
            found["mergekit"] = by_mergekit(options.mergekit.absolute(), folder, options.rank)
    own = found["adaptzip"]
    rows = [
        (
            way,
            f"{own['total'] / one['total']:.3f}",
            f"{own['peak'] / one['peak']:.3f}",
            f"{one['peak'] / 2**20:,.0f}",
            f"{one['error']:.6f}",
        )
        for way, one in found.items()
    ]
    head = ("", "adaptzip's time / this", "adaptzip's memory / this", "peak memory, MiB", "error")
    size = f"The base has {sum(shards) / 2**20:,.0f} MiB in {len(shards)} files of bfloat16, {options.layers} layers of"
    text = f"{size} hidden size {options.hidden}; rank {options.rank}. {machine()}\n\n{table(head, rows)}"
    print(text)
    if options.write:
        put("extract", text)


if __name__ == "__main__":
    main()
