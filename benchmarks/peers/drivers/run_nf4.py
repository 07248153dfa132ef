"""bitsandbytes' NF4 in blocks of 64; codes and scales count, tables that are the same for all do not."""

from __future__ import annotations

from typing import Any

import torch
from bitsandbytes import functional

from benchmarks.peers.drivers.exchange import Arrays, serve

BLOCK = 64


def code(arrays: Arrays, doubled: Any) -> tuple[int, Arrays]:
    """`doubled`: quantise the scales too."""
    size, back = 0, {}
    for name, array in arrays.items():
        packed, state = functional.quantize_4bit(
            torch.from_numpy(array), blocksize=BLOCK, quant_type="nf4", compress_statistics=doubled
        )
        parts = [packed, state.absmax, *([state.state2.absmax, state.offset] if doubled else [])]
        size += sum(part.numel() * part.element_size() for part in parts)
        back[name] = functional.dequantize_4bit(packed, state).float().numpy()
    return size, back


if __name__ == "__main__":
    serve(code)
