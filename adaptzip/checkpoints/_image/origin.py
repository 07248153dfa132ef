"""A source's own keys and tensors, where factors that were made of them do not show them.

The products of LoHa and LoKr, Tucker's cores and alphas that no scale tells are kept beside the factors, so that they
come out as they came in. A whole difference needs nothing: it is one of its own factors.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adaptzip.checkpoints._base import Checkpoint
from adaptzip.checkpoints._image.factors import alpha_of, factors_of
from adaptzip.checkpoints._image.keys import split
from adaptzip.checkpoints._parts import Parts
from adaptzip.core.adapter import LoraFactors
from adaptzip.files.tensors import header_entries

_NEAR = 1e-5
"""How far, relatively, factors may be from what their parts make on another machine."""


@dataclass(frozen=True, eq=False)
class Origin:
    """What a source's file held.

    Attributes:
        keys: its keys by the module's spelling and the part.
        shapes: those of its tensors by key, as far as the header is sound.
        parts: tensors of the source, as in `Meta.parts`.
        told: modules whose scale its metadata tell.
    """

    keys: Mapping[tuple[str, str], str]
    shapes: Mapping[str, list[Any]]
    parts: Mapping[str, Tensor] = field(default_factory=dict)
    told: Collection[str] = ()

    @staticmethod
    def of(header: bytes, parts: Mapping[str, Tensor], told: Collection[str]) -> Origin:
        """What a header says; nothing of what is none."""
        entries = header_entries(header)
        found = {key: taken for key in entries if (taken := split(key)) is not None}
        shapes = {key: entry.get("shape") for key, entry in entries.items() if isinstance(entry, dict)}
        return Origin(
            {(taken.stem, taken.part): key for key, taken in found.items()},
            {key: shape for key, shape in shapes.items() if isinstance(shape, list)},
            parts,
            told,
        )

    def own(self, name: str, stem: str, factors: LoraFactors) -> dict[str, Tensor]:
        """The source's tensors of a module by part, instead of factors and alpha; those that are still true.

        Args:
            name: the module.
            stem: how the file spells it.
            factors: its update as it is now.
        """
        begin = f"{name}:"
        kept = {key.removeprefix(begin): tensor for key, tensor in self.parts.items() if key.startswith(begin)}
        whole = self._whole(stem, factors)
        if whole is not None:
            return {"diff": whole} | kept
        if kept.keys() - {"alpha"}:
            return kept if _makes(name, kept, factors, name in self.told) else {}
        if kept and (name in self.told or float(kept["alpha"].double()) / factors.rank == factors.scaling):
            return kept
        return {}

    def _whole(self, stem: str, factors: LoraFactors) -> Tensor | None:
        """The update where it was a whole difference, which one factor is and the other leaves as it is."""
        shape = self.shapes.get(self.keys.get((stem, "diff"), ""), [])
        if len(shape) < 2 or shape != [factors.shape[0], *_unflat(factors)] or factors.scaling != 1.0:
            return None
        size = factors.rank
        for factor, other in ((factors.B, factors.A), (factors.A, factors.B)):
            if tuple(factor.shape) == (size, size) and torch.equal(factor, torch.eye(size, dtype=factor.dtype)):
                return other.reshape(shape)
        return None


def _unflat(factors: LoraFactors) -> tuple[int, ...]:
    """The inputs of an update, with its kernel."""
    return factors.shape[1] // math.prod(factors.kernel), *factors.kernel


def parts_of(source: Checkpoint, name: str, keys: Parts, factors: LoraFactors) -> dict[str, Tensor]:
    """What of a module its factors do not show, as `module:part`; nothing where the file's header is not kept."""
    if source.header is None:
        return {}
    made = {part for part in keys if part.startswith(("hada_", "lokr_")) or part == "mid"}
    kept = made | ({"down", "up", "alpha"} & keys.keys() if made else set())
    if "alpha" in keys and alpha_of(factors) != float(source.tensors[keys["alpha"]].double()):
        kept.add("alpha")
    return {f"{name}:{part}": source.tensors[keys[part]] for part in sorted(kept)}


def _makes(name: str, parts: Mapping[str, Tensor], factors: LoraFactors, told: bool) -> bool:
    """Whether factors are those of the parts, but for the rounding of another machine."""
    where = Path(name)
    source = Checkpoint(where, where, parts, {})
    made = factors_of(source, name, {part: part for part in parts}, factors.scaling if told else None)
    if (made.scaling, made.shape, made.rank) != (factors.scaling, factors.shape, factors.rank):
        return False
    return all(_near(ours, theirs) for ours, theirs in ((made.A, factors.A), (made.B, factors.B)))


def _near(ours: Tensor, theirs: Tensor) -> bool:
    return float((ours.double() - theirs.double()).norm()) <= _NEAR * float(ours.double().norm())
