"""One bank for a fleet (`adaptzip bank build`): bytes and errors against each adapter's own `svd` file.

usage: python -m benchmarks.shared_bank [--write] [--adapters N]

The fleets are artificial: adapters of four modules of 64 x 64 and rank 4, whose components are drawn from 24 of each
module's place with a strength, a sign and a little noise of their own; the same with a fleet in which nothing is
shared. Every adapter's `svd` file has as many bytes as its share of all files with the bank.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory

import torch

import adaptzip
from adaptzip.adz.container import writer
from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.errors import without_warnings
from adaptzip.fitting.banks import reached
from benchmarks import page

MODULES, WIDTH, RANK, POOL, NOISE = 4, 64, 4, 24, 0.05
OUTSIDE = 8
"""Adapters that no bank was fitted to."""


def fleet(count: int, *, shared: bool) -> list[Adapter]:
    """Artificial adapters."""
    generator = torch.Generator().manual_seed(0)
    pools = [_directions(generator) for _ in range(2 * MODULES)]

    def module(place: int) -> LoraFactors:
        U, V = (pools[2 * place + side] if shared else _directions(generator) for side in (0, 1))
        chosen = torch.randperm(POOL, generator=generator)[:RANK]
        strength = 0.66 ** torch.arange(RANK) * torch.exp(0.2 * torch.randn(RANK, generator=generator))
        strength *= torch.randn(RANK, generator=generator).sign()
        own = NOISE / WIDTH**0.5 * torch.randn(2, WIDTH, RANK, generator=generator)
        return LoraFactors((V[:, chosen] + own[0]).T.contiguous(), (U[:, chosen] + own[1]) * strength)

    return [Adapter({f"layers.{i}": module(i) for i in range(MODULES)}) for _ in range(count)]


def _directions(generator: torch.Generator) -> torch.Tensor:
    """Orthonormal columns (WIDTH, POOL)."""
    found: torch.Tensor = torch.linalg.qr(torch.randn(WIDTH, POOL, generator=generator))[0]
    return found


def compared(count: int) -> str:
    """Both fleets."""
    rows = []
    for shared in (True, False):
        adapters = fleet(count + OUTSIDE, shared=shared)
        inside, outside = adapters[:count], adapters[count:]
        with TemporaryDirectory() as folder, without_warnings():
            path, before = Path(folder) / "team.bank", time.process_time()
            bank = adaptzip.build_bank(inside, path, device="cpu")
            seconds, size = time.process_time() - before, path.stat().st_size
            made = [adaptzip.compress(one, to="vblora", basis=bank, device="cpu") for one in inside]
            whole = size + sum(map(writer.size, made))
            room = whole // count
            plain = [adaptzip.compress(one, budget=f"{room}B", start="none", device="cpu") for one in inside]
            held = [reached(one, bank).error for one in outside]
        shape = bank.bank.shape if bank.bank is not None else None
        assert shape is not None
        errors = [mean(one.provenance.relative_error for one in files) for files in (made, plain)]
        rows.append(
            [
                "shared components" if shared else "nothing shared",
                f"{shape.vectors:,} of {shape.length}",
                f"{size:,}",
                f"{whole:,}",
                f"{errors[0]:.3f}",
                f"{mean(held):.3f}",
                f"{sum(map(writer.size, plain)):,}",
                f"{errors[1]:.3f}",
                f"{seconds:.0f} s",
            ]
        )
    head = [
        f"{count} adapters", "bank", "its bytes", "all bytes", "error", "least error outside", "svd: all bytes",
        "error", "bank fitted in, processor time",
    ]  # fmt: skip
    return page.table(head, rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks.md")
    parser.add_argument("--adapters", type=int, default=64, metavar="N", help="in a fleet")
    asked = parser.parse_args(arguments)
    table = compared(asked.adapters)
    print(table)
    if asked.write:
        page.put("shared-bank", table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
