"""Time and peak memory of merging a LoRA into a larger base model, beside PEFT's load, merge and save, mergekit, `cp`.

Makes a Llama with random bfloat16 weights in several shards and a LoRA on all of its linear layers, merges it with each
in a process of its own, and compares the results tensor by tensor. `cp` copies the base's folder, which is the least
that a merge can do, without or with making it durable; they run in turn, from files that are in memory, and the medians
of their ratios count. "Merge" leaves out the interpreter's start and the imports, those of transformers for the check
of what was written included. With several --layers the exponent is fitted by which time grows with the size. Needs peft
and transformers; mergekit, which may be installed elsewhere, takes part where its program is given:

    python -m benchmarks.merge --layers 12 --hidden 2048 [--pairs 5] [--mergekit BIN/mergekit-yaml] [--write]
    python -m benchmarks.merge --hidden 1024 --layers 1 6 33 110 --no-peft [--write]

Exits with 1 where a tensor differs from PEFT's.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import torch
from safetensors import safe_open

from adaptzip.files.exchange import sync_tree
from benchmarks.commands import machine, run, watch_memory
from benchmarks.llama import random_llama, save
from benchmarks.page import put, table


def make_model(folder: Path, layers: int, hidden: int, rank: int) -> None:
    """Write base/ and adapter/."""
    from peft import LoraConfig, get_peft_model

    model = random_llama(layers, hidden, 32000)
    save(model, folder / "base")
    wrapped = get_peft_model(model, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear"))
    for parameter in wrapped.parameters():
        if parameter.requires_grad:
            parameter.data.normal_(std=0.02)
    wrapped.save_pretrained(str(folder / "adapter"))


def merge_adaptzip(folder: Path) -> None:
    import adaptzip

    adaptzip.merge(folder / "adapter", folder / "base", folder / "adaptzip")


def merge_peft(folder: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(folder / "base")
    PeftModel.from_pretrained(base, folder / "adapter").merge_and_unload().save_pretrained(folder / "PEFT")


def copy(folder: Path) -> None:
    subprocess.run(["cp", "-r", str(folder / "base"), str(folder / "cp")], check=True)


def copy_durably(folder: Path) -> None:
    """What a merge does, too, before it gives the result its name."""
    subprocess.run(["cp", "-r", str(folder / "base"), str(folder / DURABLE)], check=True)
    sync_tree(folder / DURABLE)


DURABLE = "cp and sync"
WAYS: dict[str, Callable[[Path], None]] = {
    "adaptzip": merge_adaptzip,
    "cp": copy,
    DURABLE: copy_durably,
    "PEFT": merge_peft,
}


def run_alone(way: str, folder: Path) -> dict[str, float]:
    """Merge in a process of its own: seconds with and without imports, and peak bytes of memory that is no file's."""
    command = [sys.executable, "-m", "benchmarks.merge", "--only", way, "--folder", str(folder)]
    start = time.perf_counter()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return {"total": time.perf_counter() - start} | found


def measure(way: str, folder: Path) -> dict[str, float]:
    if way == "adaptzip":
        from transformers import LlamaForCausalLM

        from adaptzip.checkpoints import dialects
        from adaptzip.restoring.merging import merge

        loaded = (LlamaForCausalLM, merge, dialects())
        assert all(loaded)
    peak, stop = [0.0], threading.Event()
    watcher = threading.Thread(target=watch_memory, args=(peak, stop))
    watcher.start()
    # Memory that was free for some seconds costs more on virtual machines, and what another run left to be written is
    # not this one's to wait for: each way begins right after its last result was taken away.
    shutil.rmtree(folder / way, ignore_errors=True)
    os.sync()
    start = time.perf_counter()
    WAYS[way](folder)
    seconds = time.perf_counter() - start
    stop.set()
    watcher.join()
    return {"merge": seconds, "peak": peak[0]}


def by_mergekit(program: Path, folder: Path) -> dict[str, float]:
    """mergekit's way of putting a LoRA into its base: a base with an adapter beside it, passed through."""
    recipe = "models:\n  - model: base+adapter\nmerge_method: passthrough\ndtype: bfloat16\n"
    (folder / "recipe.yml").write_text(recipe)
    words = ["recipe.yml", "mergekit", "--lora-merge-cache", "cache", "--no-write-model-card", "--quiet"]
    found = run([str(program), *words], folder)
    return {"total": found["total"], "merge": math.nan, "peak": found["anonymous"]}


def count_different(one: Path, other: Path) -> int:
    """How many tensors differ, or are only in one of them."""
    here, there = _homes(one), _homes(other)
    same = (torch.equal(_read(here[key], key), _read(there[key], key)) for key in here.keys() & there.keys())
    return len(here.keys() | there.keys()) - sum(same)


def _homes(folder: Path) -> dict[str, Path]:
    homes: dict[str, Path] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as handle:
            homes |= dict.fromkeys(handle.keys(), file)
    return homes


def _read(file: Path, key: str) -> torch.Tensor:
    with safe_open(file, "pt") as handle:
        tensor: torch.Tensor = handle.get_tensor(key)
    return tensor


@dataclass(frozen=True)
class Comparison:
    """Merges of one base: its bytes, adaptzip's seconds, how many tensors differ from PEFT's, and all in words."""

    bytes: int
    seconds: float
    different: int
    text: str


def compare(folder: Path, layers: int, options: argparse.Namespace) -> Comparison:
    """Merge an adapter into a new base in all ways."""
    # A child's peak memory starts from its parent's, so the model is made in another child.
    maker = get_context("spawn").Process(target=make_model, args=(folder, layers, options.hidden, options.rank))
    maker.start()
    maker.join()
    shards = [file.stat().st_size for file in (folder / "base").glob("*.safetensors")]
    runs: dict[str, list[dict[str, float]]] = {"adaptzip": [], "cp": [], DURABLE: []}
    for pair in range(options.pairs):
        for way in sorted(runs, reverse=bool(pair % 2)):
            runs[way].append(run_alone(way, folder))
    if options.peft:
        runs["PEFT"] = [run_alone("PEFT", folder)]
    if options.mergekit:
        runs["mergekit"] = [by_mergekit(options.mergekit.absolute(), folder)]
    whole = median(run["total"] for run in runs["adaptzip"])
    rows = [_row(way, found, runs, whole) for way, found in runs.items()]
    head = ("", "whole process / adaptzip's", "merge / cp", f"merge / {DURABLE}", "anonymous memory, MiB")
    size = f"The base has {sum(shards) / 2**20:,.0f} MiB in {len(shards)} files of bfloat16; rank {options.rank}."
    others = [way for way in runs if way not in ("adaptzip", "cp", DURABLE)]
    different = {way: count_different(folder / "adaptzip", folder / way) for way in others}
    told = "".join(f"\nTensors that differ from {way}'s: {count}.\n" for way, count in different.items())
    merge = median(run["merge"] for run in runs["adaptzip"])
    return Comparison(sum(shards), merge, different.get("PEFT", 0), f"{size} {machine()}\n\n{table(head, rows)}{told}")


def _row(
    way: str, found: Sequence[dict[str, float]], runs: dict[str, list[dict[str, float]]], whole: float
) -> tuple[str, ...]:
    share = f"{median(run['total'] for run in found) / whole:.2f}"
    ratios = (_against(found, runs[copy]) for copy in ("cp", DURABLE))
    return way, share, *ratios, f"{max(run['peak'] for run in found) / 2**20:,.0f}"


def _against(found: Sequence[dict[str, float]], copies: Sequence[dict[str, float]]) -> str:
    ratio = median(run["merge"] / copy["merge"] for run, copy in zip(found, copies, strict=False))
    return "" if math.isnan(ratio) else f"{ratio:.2f}"


def exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """The slope of the logarithms, by least squares."""
    x, y = ([math.log(value) - sum(map(math.log, all_)) / len(all_) for value in all_] for all_ in (sizes, seconds))
    return sum(a * b for a, b in zip(x, y, strict=True)) / sum(a * a for a in x)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, nargs="+", default=[12])
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--mergekit", type=Path)
    parser.add_argument("--peft", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--write", action="store_true", help="put the tables into docs/benchmarks.md")
    parser.add_argument("--only", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        print(json.dumps(measure(options.only, options.folder)))
        return 0
    found = []
    for layers in options.layers:
        with tempfile.TemporaryDirectory() as name:
            found.append(compare(Path(name), layers, options))
    text = "\n".join(one.text for one in found)
    if len(found) > 1:
        power = exponent([one.bytes for one in found], [one.seconds for one in found])
        text += f"\nTime grows with the size to the power {power:.2f}.\n"
    print(text)
    if options.write:
        put("merge" if len(found) == 1 else "merge-sizes", text)
    return int(any(one.different for one in found))


if __name__ == "__main__":
    sys.exit(main())
