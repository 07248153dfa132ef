"""Make an adapter of the shape of a 7B model: 32 layers, 7 linear modules, hidden 4096, intermediate 11008, r 16.

usage: python benchmarks/shaped_adapter.py OUTPUT_FOLDER [--layers 32] [--rank 16] [--seed 0]

Spectra are those of trained adapters: singular values fall as k^-decay with a decay drawn per module, module norms are
log-normal, vectors are Gaussian with heavier tails in some rows, and the factors are put into a random gauge, so that A
looks like its random start and B small, as after training.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import save_file

HIDDEN, INTERMEDIATE = 4096, 11008
SHAPES = {
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "self_attn.k_proj": (HIDDEN, HIDDEN),
    "self_attn.v_proj": (HIDDEN, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HIDDEN),
    "mlp.gate_proj": (INTERMEDIATE, HIDDEN),
    "mlp.up_proj": (INTERMEDIATE, HIDDEN),
    "mlp.down_proj": (HIDDEN, INTERMEDIATE),
}


def factors(out: int, width: int, rank: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """A (rank, width) and B (out, rank) of one module."""

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    decay = 0.8 + 0.6 * float(torch.rand((), generator=generator))
    norm = float(torch.exp(0.4 * normal(1)))
    singular = norm * torch.arange(1, rank + 1).float() ** -decay
    tails = torch.exp(0.3 * normal(out, 1))
    u = torch.linalg.qr(normal(out, rank) * tails)[0]
    v = torch.linalg.qr(normal(width, rank))[0]
    gauge = normal(rank, rank) + 2 * torch.eye(rank)
    scale = (width / 3) ** -0.5
    A = scale * gauge @ v.T
    B = (u * singular) @ torch.linalg.inv(gauge) / scale
    return A.contiguous(), B.contiguous()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    generator = torch.Generator().manual_seed(arguments.seed)
    tensors = {}
    for layer in range(arguments.layers):
        for module, (out, width) in SHAPES.items():
            prefix = f"base_model.model.model.layers.{layer}.{module}"
            A, B = factors(out, width, arguments.rank, generator)
            tensors[f"{prefix}.lora_A.weight"], tensors[f"{prefix}.lora_B.weight"] = A, B
    arguments.output.mkdir(parents=True, exist_ok=True)
    save_file(tensors, arguments.output / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {
        "base_model_name_or_path": "7b-shaped",
        "bias": "none",
        "lora_alpha": 2 * arguments.rank,
        "peft_type": "LORA",
        "r": arguments.rank,
        "target_modules": sorted(name.rpartition(".")[2] for name in SHAPES),
        "task_type": "CAUSAL_LM",
    }
    (arguments.output / "adapter_config.json").write_text(json.dumps(config, indent=2))


if __name__ == "__main__":
    main()
