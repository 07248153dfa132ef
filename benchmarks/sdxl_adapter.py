"""Make a kohya LoRA of the attention layers of SDXL's UNet: 722 modules at rank 32 in float16, 170 MB.

usage: python -m benchmarks.sdxl_adapter OUTPUT_FOLDER [--rank 32] [--seed 0]

Each module's factors have the spectra of `shaped_adapter.py`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file

from benchmarks.shaped_adapter import factors

CONTEXT = 2048
TRANSFORMERS = {
    **{f"input_blocks_{n}_1": (640, 2) for n in (4, 5)},
    **{f"input_blocks_{n}_1": (1280, 10) for n in (7, 8)},
    "middle_block_1": (1280, 10),
    **{f"output_blocks_{n}_1": (1280, 10) for n in (0, 1, 2)},
    **{f"output_blocks_{n}_1": (640, 2) for n in (3, 4, 5)},
}
"""Width and number of blocks of each transformer."""


def modules() -> Iterator[tuple[str, int, int]]:
    """The name, the outputs and the inputs of each module."""
    for place, (width, blocks) in TRANSFORMERS.items():
        yield f"{place}_proj_in", width, width
        yield f"{place}_proj_out", width, width
        for block in range(blocks):
            name = f"{place}_transformer_blocks_{block}"
            for attention, context in (("attn1", width), ("attn2", CONTEXT)):
                yield f"{name}_{attention}_to_q", width, width
                yield f"{name}_{attention}_to_k", width, context
                yield f"{name}_{attention}_to_v", width, context
                yield f"{name}_{attention}_to_out_0", width, width
            yield f"{name}_ff_net_0_proj", 8 * width, width
            yield f"{name}_ff_net_2", width, 4 * width


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    generator = torch.Generator().manual_seed(arguments.seed)
    tensors = {}
    for name, out, width in modules():
        A, B = factors(out, width, arguments.rank, generator)
        tensors[f"lora_unet_{name}.lora_down.weight"], tensors[f"lora_unet_{name}.lora_up.weight"] = A.half(), B.half()
        tensors[f"lora_unet_{name}.alpha"] = torch.tensor(arguments.rank / 2).half()
    arguments.output.mkdir(parents=True, exist_ok=True)
    metadata = {"ss_network_module": "networks.lora", "ss_base_model_version": "sdxl_base_v1-0", "format": "pt"}
    save_file(tensors, arguments.output / "lora.safetensors", metadata=metadata)


if __name__ == "__main__":
    main()
