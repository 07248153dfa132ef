"""Where modules are known to have begun, as plain data; nothing here needs torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adaptzip.core.basis import BasisReference


def start_values(
    reference: BasisReference | None, framed: int, modules: int, saved: int | None = None
) -> dict[str, Any] | None:
    """Where modules are known to have begun, as JSON values; None where no module is coded so.

    Args:
        framed: modules that are, of so many `modules`.
        saved: bytes that this is expected to save.
    """
    if reference is None or not framed:
        return None
    start = reference.start
    return {
        "source": reference.source,
        "generator": None if start is None else start.generator,
        "seed": None if start is None else start.seed,
        "offset": None if start is None else min(start.offsets, default=None),
        "correlation": None if start is None else start.correlation,
        "hash": reference.hash or None,
        "description": reference.description or None,
        "directions": reference.size,
        "framed_modules": framed,
        "modules": modules,
        "saved_bytes": saved,
    }


def framed_modules(sizes: Sequence[int]) -> int:
    """Modules that have directions."""
    return sum(size > 0 for size in sizes)
