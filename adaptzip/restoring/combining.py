"""Reading several adapters, of whatever dialects, and making one of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from adaptzip.core.adapter import Adapter
from adaptzip.core.combining import Combination, Weighted, combined
from adaptzip.core.compressed import Compressed
from adaptzip.core.task_arithmetic import Majority
from adaptzip.errors import UsageError
from adaptzip.restoring.reading import adapter_from

Source = str | Path | Adapter | Compressed


def combine(
    sources: Sequence[Source],
    weights: Sequence[float] | None = None,
    *,
    method: Combination = "cat",
    rank: int | None = None,
    density: float | None = None,
    majority: Majority = "total",
    seed: int | None = 0,
    **reading: Any,
) -> Adapter:
    """One adapter out of several, by the rules of PEFT's `add_weighted_adapter`.

    Args:
        sources: adapters of one base model: any readable ones, or in memory.
        weights: what each one's update is multiplied by; None for 1.
        method, rank, density, majority, seed: as for `adaptzip.core.combining.combined`, which tells the methods.
        reading: how to read the sources: `base`, `basis`, `alpha` and others, as for `read`.

    Raises:
        CheckpointError, FormatError: if a source cannot be read.
        RefusedError: if adapters do not fit together, naming the module or tensor.
        UsageError: if the numbers of sources and weights differ, or an argument does not belong to the method.

    Example:
        >>> both = adaptzip.combine(["my-adapter", "my-adapter"], [0.5, 0.5])
        >>> one = adaptzip.read("my-adapter").modules
        >>> all(torch.allclose(both.modules[name].delta(), one[name].delta()) for name in one)
        True
    """
    given = [1.0] * len(sources) if weights is None else list(weights)
    if len(given) != len(sources):
        raise UsageError(f"{len(sources)} adapters have {len(given)} weights", hint="give one weight for each")
    named = [str(source) if isinstance(source, str | Path) else f"adapter {n}" for n, source in enumerate(sources, 1)]
    parts = [
        Weighted(adapter_from(source, **reading), weight, name)
        for source, weight, name in zip(sources, given, named, strict=True)
    ]
    return combined(parts, method, rank=rank, density=density, majority=majority, seed=seed)
