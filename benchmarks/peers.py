"""What people do today to make an adapter smaller, beside adaptzip at the same error and at the same bytes.

First table: each storage's bytes and relative error, and what adaptzip's file takes at that error (its lossless file
where the storage is exact). Second table: adaptzip at three errors, and the error of two others in the same bytes.
A storage's bytes are its numbers and scales alone; adaptzip's are the whole file less the `extras` stream. Each
number is a median over the adapters.

    python -m benchmarks.peers [FOLDER ...] [--json] [--write]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import adaptzip
from adaptzip.adz.container import writer
from adaptzip.core.adapter import Adapter, LoraFactors
from benchmarks import page, storage
from benchmarks.bound import ERRORS
from benchmarks.rate_distortion import compress
from benchmarks.real_adapters import RealAdapter, add_folders, find
from benchmarks.storage import Stored

Store = Callable[[Adapter], Stored | None]


def _int(bits: int, *, symmetric: bool) -> Store:
    return lambda adapter: storage.integers(adapter, bits, symmetric=symmetric)


def _rank(share: int) -> Store:
    """A uniform rank of 1 / share of the numbers, in float16."""
    return lambda adapter: storage.uniform_rank(adapter, 2 * adapter.parameters / share)


def _global_int4(share: int) -> Store:
    return lambda adapter: storage.global_rank_int4(adapter, 2 * adapter.parameters / share)


def _length(module: LoraFactors) -> int:
    """Numbers in one unit of rank."""
    return sum(module.shape)


STORAGES: dict[str, Store] = {
    "as stored, zstd -19": storage.zstd,
    "as stored, byte planes, zstd -19": lambda adapter: storage.zstd(adapter, shuffled=True),
    "float16": storage.half,
    "float16, zstd -19": lambda adapter: storage.zstd(adapter, as_half=True),
    "float16, byte planes, zstd -19": lambda adapter: storage.zstd(adapter, as_half=True, shuffled=True),
    "int8, groups of 64": _int(8, symmetric=True),
    "int4, groups of 64": _int(4, symmetric=True),
    "int4, groups of 64 with zero points": _int(4, symmetric=False),
    "half the rank, float16": _rank(2),
    "a quarter of the rank, float16": _rank(4),
    "rank 1, float16": lambda adapter: storage.uniform_rank(adapter, 2 * sum(map(_length, adapter.modules.values()))),
    "global ranks, int4, 1/8 of float16": _global_int4(8),
    "global ranks, int4, 1/16 of float16": _global_int4(16),
    "global ranks, int4, 1/32 of float16": _global_int4(32),
}


@dataclass(frozen=True)
class PeerRow:
    """One adapter in one storage, and adaptzip at its error."""

    adapter: str
    storage: str
    bytes: float
    float16_bytes: int
    relative_error: float
    adaptzip_bytes: int


@dataclass(frozen=True)
class EqualRow:
    """adaptzip at one error, and the errors of others in its bytes; None where not even rank 1 fits."""

    adapter: str
    asked: float
    bytes: int
    float16_bytes: int
    adaptzip_error: float
    global_int4_error: float
    uniform_rank_error: float | None


def at_equal_error(real: RealAdapter, name: str) -> PeerRow | None:
    """None where the storage cannot hold the adapter: there is no half of rank 1, nor a part of a component."""
    stored = STORAGES[name](real.adapter)
    if stored is None or stored.relative_error >= 1:
        return None
    ours = compress(real, stored.relative_error).bytes if stored.relative_error > 0 else lossless_bytes(real)
    return PeerRow(real.name, name, stored.bytes, 2 * real.adapter.parameters, stored.relative_error, ours)


def lossless_bytes(real: RealAdapter) -> int:
    """The lossless file without its extras."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "adapter.adz"
        compressed = adaptzip.compress(real.path, path, lossless=True)
        return path.stat().st_size - writer.sizes(compressed).get("extras", 0)


def at_equal_bytes(real: RealAdapter, error: float) -> EqualRow:
    point = compress(real, error)
    uniform = storage.uniform_rank(real.adapter, point.bytes)
    return EqualRow(
        adapter=real.name,
        asked=error,
        bytes=point.bytes,
        float16_bytes=2 * real.adapter.parameters,
        adaptzip_error=point.error,
        global_int4_error=storage.global_rank_int4(real.adapter, point.bytes).relative_error,
        uniform_rank_error=None if uniform is None else uniform.relative_error,
    )


def render(peers: Sequence[PeerRow], equal: Sequence[EqualRow]) -> str:
    head = ["storage", "float16 / bytes", "relative error", "adaptzip / bytes", "largest"]
    by_storage = {name: [row for row in peers if row.storage == name] for name in STORAGES}
    rows = [_peer_row(name, rows) for name, rows in by_storage.items() if rows]
    head_equal = ["adaptzip at", "float16 / bytes", "adaptzip's error", "global ranks, int4", "uniform rank, float16"]
    rows_equal = [_equal_row([row for row in equal if row.asked == error]) for error in ERRORS]
    return "\n".join([page.table(head, rows), page.table(head_equal, rows_equal)])


def _peer_row(name: str, rows: Sequence[PeerRow]) -> list[str]:
    shares = [row.adaptzip_bytes / row.bytes for row in rows]
    return [
        name,
        f"{median(row.float16_bytes / row.bytes for row in rows):.2f}",
        f"{median(row.relative_error for row in rows):.2g}",
        f"{median(shares):.2f}",
        f"{max(shares):.2f}",
    ]


def _equal_row(rows: Sequence[EqualRow]) -> list[str]:
    fitting = [row.uniform_rank_error for row in rows if row.uniform_rank_error is not None]
    uniform = f"{median(fitting):.2f} ({len(fitting)} of {len(rows)} fit)" if fitting else "no rank fits"
    return [
        f"error {rows[0].asked:g}",
        f"{median(row.float16_bytes / row.bytes for row in rows):.1f}",
        f"{median(row.adaptzip_error for row in rows):.3f}",
        f"{median(row.global_int4_error for row in rows):.3f}",
        uniform,
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_folders(parser)
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/benchmarks.md")
    options = parser.parse_args(arguments)
    adapters = find(options.folders)
    if not adapters:
        print("error: no readable adapter with a non-zero update was found", file=sys.stderr)
        return 2
    peers = [row for real in adapters for name in STORAGES if (row := at_equal_error(real, name))]
    equal = [at_equal_bytes(real, error) for real in adapters for error in ERRORS]
    if options.json:
        print(
            json.dumps({"equal_error": [asdict(r) for r in peers], "equal_bytes": [asdict(r) for r in equal]}, indent=2)
        )
    else:
        print(render(peers, equal))
    if options.write:
        page.put("peers", render(peers, equal))
    return 0


if __name__ == "__main__":
    sys.exit(main())
