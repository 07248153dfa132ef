"""Reading several adapters, of whatever dialects, and making one of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from adaptzip.checkpoints import conventions
from adaptzip.checkpoints._image.aligning import aligned
from adaptzip.core.adapter import Adapter
from adaptzip.core.basis import Basis
from adaptzip.core.calling import public
from adaptzip.core.combinations import Combination
from adaptzip.core.combining import Weighted, combined
from adaptzip.core.compressed import Compressed
from adaptzip.core.meta import Meta
from adaptzip.core.task_arithmetic import Majority
from adaptzip.errors import RefusedError, UsageError, warn
from adaptzip.restoring.reading import adapter_from

Source = str | Path | Adapter | Compressed


@public
def combine(
    sources: Sequence[Source],
    weights: Sequence[float] | None = None,
    *,
    method: Combination = "cat",
    rank: int | None = None,
    density: float | None = None,
    majority: Majority = "total",
    seed: int | None = 0,
    alpha: float | None = None,
    config: str | Path | None = None,
    dialect: str | None = None,
    base: str | Path | None = None,
    basis: str | Path | Basis | None = None,
) -> Adapter:
    """One adapter out of several, by the rules of PEFT's `add_weighted_adapter`.

    Args:
        sources: adapters of one base model: any readable ones, or in memory.
        weights: what each one's update is multiplied by; None for 1.
        method, rank, density, majority, seed: as for `adaptzip.core.combining.combined`, which tells the methods.
        alpha, config, dialect, base, basis: how to read the sources, as for `read`.

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
    how: dict[str, Any] = {"alpha": alpha, "config": config, "dialect": dialect, "base": base, "basis": basis}
    adapters = [adapter_from(source, **how) for source in sources]
    parts = [Weighted(*part) for part in zip(aligned(*adapters), given, named, strict=True)]
    _check_models(adapters, parts)
    made = combined(parts, method, rank=rank, density=density, majority=majority, seed=seed)
    return replace(made, meta=_origin(adapters, parts))


def _origin(read: Sequence[Adapter], parts: Sequence[Weighted]) -> Meta:
    """That of the first; diffusers' where image adapters are of several dialects or came under its names."""
    first = read[0].meta.described
    alike = len({adapter.meta.dialect for adapter in read}) == 1
    same = all(part.adapter.modules.keys() == adapter.modules.keys() for part, adapter in zip(parts, read, strict=True))
    if not any(conventions(adapter.meta.dialect).pipelines for adapter in read) or (alike and same):
        return first
    return Meta("diffusers", base_model=first.base_model)


def _firsts(adapter: Adapter) -> set[str]:
    return {name.partition(".")[0] for name in adapter.modules}


def _check_models(read: Sequence[Adapter], parts: Sequence[Weighted]) -> None:
    """Raises: RefusedError: if some adapters are of a pipeline's components and others are not."""
    kinds = [conventions(adapter.meta.dialect).pipelines for adapter in read]
    # One of a single model that has found its place in the others' pipeline bears a component's name now.
    inside = [
        kind or (any(kinds) and _firsts(part.adapter) != _firsts(adapter))
        for kind, part, adapter in zip(kinds, parts, read, strict=True)
    ]
    if len(set(inside)) > 1:
        one, other = (parts[inside.index(kind)].name for kind in (True, False))
        raise RefusedError(
            f"{one} is of an image pipeline, and {other} of a model that is no known component of one",
            hint="combine adapters of one model",
        )
    bases = {part.adapter.meta.base_model: part.name for part in reversed(parts) if part.adapter.meta.base_model}
    if len(bases) > 1:
        told = " and ".join(f"{name} for {base}" for base, name in [*bases.items()][:-3:-1])
        warn(f"the adapters name different base models: {told}")
