"""Bytes of adapters that share directions: `svd` alone, and in a basis on one side and on both; `lora-sb` beside them.

Three artificial fleets of 384 x 384 modules and rank 8, whose updates have 50, 80 or 97 % of their energy between 64
directions of outputs and 64 of inputs that the fleet shares, and the rest anywhere. A basis is built of 64 adapters,
and others are compressed:

    python -m benchmarks.shared_frames --write

Exits with 1 where frames on both sides take more bytes than those on one.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import adaptzip
from adaptzip import Adapter
from adaptzip.bases.artefact import write_basis
from adaptzip.bases.updates import build_basis
from adaptzip.core.adapter import LoraFactors
from adaptzip.errors import CheckFailedError, RefusedError
from benchmarks.page import put, table

SHARES = (0.5, 0.8, 0.97)
ERRORS = (0.1, 0.2, 0.3, 0.5)
BUILT = 64
"""Adapters that a basis is built of."""
CODED = 2
"""Others that are compressed; bytes are their mean."""
WAYS: dict[str, dict[str, Any]] = {
    "`svd`": {"basis": None},
    "in-vectors in frames": {"sides": 1},
    "both in frames": {},
    "`lora-sb`": {"to": "lora-sb"},
}


@dataclass(frozen=True)
class Fleet:
    """Adapters of one base that share directions.

    Attributes:
        share: of an update's energy that lies between the shared directions of both sides.
        width: inputs and outputs of each module.
        shared: directions that the fleet shares, of inputs and of outputs.
        modules, rank: of each adapter.
    """

    share: float
    width: int = 384
    shared: int = 64
    modules: int = 6
    rank: int = 8

    def adapters(self, count: int, seed: int = 0) -> Iterator[Adapter]:
        """So many adapters; the same seed gives the same directions and adapters."""
        generator = torch.Generator().manual_seed(seed)
        names = [f"model.layers.{number}.self_attn.q_proj" for number in range(self.modules)]
        known = {name: [self._directions(generator) for _ in range(2)] for name in names}
        fall = 0.8 ** torch.arange(self.rank)
        for _ in range(count):
            modules = {}
            for name, sides in known.items():
                A, B = (self._near(side, generator) for side in sides)
                modules[name] = LoraFactors(A.T.contiguous(), B * fall)
            yield Adapter(modules)

    def _directions(self, generator: torch.Generator) -> Tensor:
        """Orthonormal columns, (width, shared)."""
        directions: Tensor = torch.linalg.qr(torch.randn(self.width, self.shared, generator=generator)).Q
        return directions

    def _near(self, directions: Tensor, generator: torch.Generator) -> Tensor:
        """(width, rank) columns of length about 1, as much of them in the directions as the share says."""
        inside = directions @ torch.randn(self.shared, self.rank, generator=generator) / sqrt(self.shared)
        outside = torch.randn(self.width, self.rank, generator=generator) / sqrt(self.width)
        share = sqrt(self.share)
        return sqrt(share) * inside + sqrt(1 - share) * outside


def taken(adapters: Sequence[Adapter], error: float, **way: Any) -> int | None:
    """Mean bytes of adapters at an error, or None where one does not reach it."""
    sizes = []
    for adapter in adapters:
        try:
            sizes.append(adaptzip.compress(adapter, max_error=error, **way).bytes)
        except (CheckFailedError, RefusedError):
            return None
    return round(sum(sizes) / len(sizes))


def rows_of(share: float) -> list[list[int | None]]:
    """A row for each error, and in it the bytes of each way."""
    *built, one, other = Fleet(share).adapters(BUILT + CODED)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fleet.basis"
        write_basis(build_basis(built, Fleet(share).shared), path, dtype="float16")
        return [[taken([one, other], error, **{"basis": path, **way}) for way in WAYS.values()] for error in ERRORS]


def main() -> int:
    """Measure, print, and write the page if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks.md")
    arguments = parser.parse_args()
    found = {share: rows_of(share) for share in SHARES}
    lines = [
        [f"{100 * share:.0f} %", str(error), *("" if size is None else f"{size:,}" for size in sizes)]
        for share, rows in found.items()
        for error, sizes in zip(ERRORS, rows, strict=True)
    ]
    text = table(["in the basis", "relative error", *WAYS], lines)
    print(text)
    if arguments.write:
        put("shared-frames", text)
    return 1 if any(both > one for rows in found.values() for _, one, both, _ in rows if one and both) else 0


if __name__ == "__main__":
    sys.exit(main())
