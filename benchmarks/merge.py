"""Time and peak memory of merging a LoRA into a larger base model, beside PEFT's load, merge and save.

Makes a Llama with random bfloat16 weights in several shards and a LoRA on all of its linear layers, merges it
with each in a process of its own, and compares the results tensor by tensor. Needs peft and transformers:

    python -m benchmarks.merge --layers 12 --hidden 1536
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import torch
from safetensors import safe_open


def make_model(folder: Path, layers: int, hidden: int, rank: int) -> None:
    """Write base/ and adapter/."""
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=32000,
        hidden_size=hidden,
        intermediate_size=hidden * 11 // 4,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        dtype=torch.bfloat16,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).bfloat16()
    model.save_pretrained(folder / "base", max_shard_size=f"{model.num_parameters() // 2000}KB")
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
    PeftModel.from_pretrained(base, folder / "adapter").merge_and_unload().save_pretrained(folder / "peft")


WAYS: dict[str, Callable[[Path], None]] = {"adaptzip": merge_adaptzip, "peft": merge_peft}


def run_alone(way: str, folder: Path) -> dict[str, float]:
    """Merge in a process of its own: seconds with and without imports, and peak resident bytes."""
    command = [sys.executable, "-m", "benchmarks.merge", "--only", way, "--folder", str(folder)]
    start = time.perf_counter()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return {"total": time.perf_counter() - start} | found


def measure(way: str, folder: Path) -> dict[str, float]:
    start = time.perf_counter()
    WAYS[way](folder)
    seconds = time.perf_counter() - start
    return {"merge": seconds, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0}


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--hidden", type=int, default=1536)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--only", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        print(json.dumps(measure(options.only, options.folder)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # A child's peak memory starts from its parent's, so the model is made in another child.
        maker = get_context("spawn").Process(
            target=make_model, args=(folder, options.layers, options.hidden, options.rank)
        )
        maker.start()
        maker.join()
        shards = [file.stat().st_size for file in (folder / "base").glob("*.safetensors")]
        print(f"base: bfloat16, {sum(shards) / 2**20:.0f} MiB in {len(shards)} shards\n")
        print("| | whole process, s | merge, s | peak memory, MiB |\n|---|---:|---:|---:|")
        for way in WAYS:
            found = run_alone(way, folder)
            print(f"| {way} | {found['total']:.1f} | {found['merge']:.1f} | {found['peak'] / 2**20:.0f} |")
        print(f"\ntensors that differ: {count_different(folder / 'adaptzip', folder / 'peft')}")


if __name__ == "__main__":
    main()
