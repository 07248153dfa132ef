"""adaptzip's own files, of which everything counts but the `extras` stream (heads, biases and embeddings)."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

import adaptzip
from adaptzip.adz.container import writer
from adaptzip.errors import CheckFailedError
from benchmarks.peers.rates import Point
from benchmarks.rate_distortion import compress
from benchmarks.real_adapters import RealAdapter

NAME = "adaptzip"
ERRORS = (0.02, 0.05, 0.1, 0.2, 0.316, 0.5, 0.7, 0.9)
"""Where our curve is measured."""
EXACT = 1e-5
"""An error below this is that of float32, and our lossless file stands beside it."""


def file_at(real: RealAdapter, error: float) -> Point:
    """Our file at an error, called by `setting`: the lossless one where quantisation does not come so near."""
    if error < EXACT:
        return Point(setting(error), lossless_bytes(real), 0.0)
    try:
        found = compress(real, error)
    except CheckFailedError:
        return Point(setting(error), lossless_bytes(real), 0.0)
    return Point(setting(error), found.bytes, found.error)


def setting(error: float) -> str:
    """What a file of ours is called that is to be as good as some error."""
    return "lossless" if error < EXACT else f"error {error!r}"


def lossless_bytes(real: RealAdapter) -> int:
    """The lossless file without its extras."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "adapter.adz"
        compressed = adaptzip.compress(real.path, path, lossless=True)
        return path.stat().st_size - writer.sizes(compressed).get("extras", 0)


def curve(points: Iterable[Point]) -> list[Point]:
    """The points at `ERRORS`."""
    names = {setting(error) for error in ERRORS}
    return [point for point in points if point.setting in names]
