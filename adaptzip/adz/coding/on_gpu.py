"""Decoding many modules on a CUDA device, where that takes less time than decoding them on the CPU and copying them.

Times here are counted, in bytes of blocks that a thread of a CPU decodes meanwhile (four numbers each, of 7 ns); they
were never measured on a GPU. A number of a module waits for 16 instructions of 65 and for one load, the number after it
for that number: 150 cycles if the load hits the nearest cache, 350 if it hits the second: 90 to 210 ns, 13 to 30
times what a CPU takes, so that it takes many modules side by side, of which none is far larger than the others.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from adaptzip.adz.coding.coders import AnyCoder, layout_of
from adaptzip.adz.coding.lanes import Begun, decode_together, kernel_tables
from adaptzip.core import compiled
from adaptzip.core.compressed import Buffer
from adaptzip.errors import AdaptzipError

SLOWNESS = 64
"""How many times as long a number takes that waits for the one before it: twice what was counted."""
PER_MODULE = 2**12
"""For each module: some 20 launches, of 5 us each, make its factors of its numbers."""
SHARE = 16
"""One part in so many: classes of rows, which one thread decodes alone, and instructions of all modules together."""
FIRST_USE = 2**25
"""For the first use in a process: importing triton, and making the kernel ready."""
OPTIONS = {"num_warps": 1, "enable_fp_fusion": False}
"""Of the kernel: a program has a warp at least, whose threads all do the same here."""

_log = logging.getLogger(__name__)


class _Work:
    """What a GPU would have saved so far, in bytes that a thread decodes meanwhile, and whether it can't be used."""

    saved = 0
    broken = False


def worthwhile(lengths: Sequence[int], device: torch.device) -> bool:
    """Whether blocks of so many bytes are to be decoded on a device; False for all but CUDA ones.

    The first use has to have paid for itself, by what the process decoded before as well.
    """
    if device.type != "cuda" or not lengths or _Work.broken:
        return False
    spent = SLOWNESS * max(lengths) + PER_MODULE * len(lengths) + sum(lengths) // SHARE
    gained = sum(lengths) // torch.get_num_threads() - spent
    _Work.saved += max(0, gained)
    return gained > 0 and _Work.saved > FIRST_USE and compiled.available()


def decode_on(
    device: torch.device, coder: AnyCoder, chunks: Mapping[str, Buffer], step: float
) -> dict[str, dict[str, Tensor]]:
    """Tensors of modules by role, as `adaptzip.adz.coding.decoding.decode_module` gives them, on a device.

    A module that is missing is to be decoded on the CPU: it is damaged, or odd, or the device can't be used.

    Args:
        chunks: blocks, not empty.

    Raises:
        FormatError: if a rank is out of range.
    """
    layouts = [layout_of(coder, name, len(chunk)) for name, chunk in chunks.items()]
    try:
        from adaptzip.adz.coding.kernels.cuda import decode

        found = decode_together(list(chunks.values()), coder.max_rank, layouts, partial(_on, device, decode))
    except AdaptzipError:
        raise
    except torch.cuda.OutOfMemoryError:
        return {}
    except Exception as error:  # Whatever triton, its compiler and the device's driver raise.
        _Work.broken = True
        _log.info("modules are decoded on the CPU, since triton does not run here: %s", error)
        return {}
    return {
        name: {
            # Directions are left in steps; other tensors don't share the room of what they were decoded with.
            spec.role: values if spec.directions else values * step
            for spec, values in zip(numbers.specs, numbers.tensors, strict=True)
        }
        for name, numbers in zip(chunks, found, strict=True)
        if numbers is not None
    }


def _on(device: torch.device, kernel: Any, begun: Begun) -> tuple[Tensor, list[bool]]:
    """As `adaptzip.adz.coding.lanes.on_cpu`, on a device; in a module that is whole no row is too long either."""
    jobs = len(begun.jobs)
    out = torch.zeros(int(begun.places[-1]), device=device)
    whole = torch.zeros(jobs, dtype=torch.int32, device=device)
    if jobs:
        nearly, models, _ = kernel_tables()
        given = (begun.words, begun.jobs, begun.first_rows, begun.places, begun.rows, nearly, models)
        arrays = [torch.from_numpy(array).to(device) for array in given]
        with torch.cuda.device(device):
            kernel[(jobs,)](*arrays, out, whole, **OPTIONS)
    return out, [bool(is_whole) for is_whole in whole.tolist()]
