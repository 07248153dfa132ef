"""EntroPack's E8 lattice at some bits per number; everything that it stores counts."""

from __future__ import annotations

from typing import Any

import entropack
import torch

from benchmarks.peers.drivers.exchange import Arrays, serve


def code(arrays: Arrays, bits: Any) -> tuple[int, Arrays]:
    config = entropack.EntroPackLossyConfig(target_bpp=bits, execution_backend="eager")
    packed = {name: entropack.compress(torch.from_numpy(array), config) for name, array in arrays.items()}
    back = {name: entropack.decompress(one, config).float().numpy() for name, one in packed.items()}
    return sum(one.storage_nbytes() for one in packed.values()), back


if __name__ == "__main__":
    serve(code)
