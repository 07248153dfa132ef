"""How a merge is done, and what each form of base model brings for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from adaptzip.core.adapter import Adapter
from adaptzip.core.progress import Progress
from adaptzip.restoring.merging.provenance import Origins
from adaptzip.restoring.merging.quantised_bases import How
from adaptzip.restoring.merging.report import MergeReport


@dataclass(frozen=True)
class Writing:
    """How a merge is done.

    Attributes:
        scale: multiplies every update.
        safe: round each update to the weight's dtype before it is added.
        untie: give tied embeddings each their own updates.
        how: what becomes of quantised weights, None where there may be none.
        device: where weights are merged.
        force: replace an existing output.
        origins: what the adapter was made of.
        base_model: the adapter's name for its base model.
        own: the adapter's folder, None where it has none.
        progress: told how far it is (`adaptzip.core.progress.Progress`).
    """

    scale: float = 1.0
    safe: bool = False
    untie: bool = False
    how: How | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    force: bool = False
    origins: Origins = field(default_factory=Origins)
    base_model: str | None = None
    own: Path | None = None
    progress: Progress | None = None

    @property
    def options(self) -> dict[str, Any]:
        """What decides the result, as the provenance tells it."""
        told = {"scale": self.scale, "safe_merge": self.safe, "untie": self.untie, "device": self.device.type}
        return told if self.how is None else told | {"quantised": self.how}


@dataclass(frozen=True)
class Form:
    """One form of base models, by what merging does with it.

    Attributes:
        fits: whether a base model has it.
        check: refuse, of a base, the output and what is asked for, before any work is done.
        plan: decide, for an adapter, base and output, what is done to every tensor.
        foretell: what would be reported of a plan, of which nothing is written.
        write: carry a plan out.
    """

    fits: Callable[[Path], bool]
    check: Callable[[Path, Path, Writing], None]
    plan: Callable[[Adapter, Path, Path, Writing], Any]
    foretell: Callable[[Any, Path], MergeReport]
    write: Callable[[Any, Path, Writing], MergeReport]
