"""What a merge tells of itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from adaptzip.core.showing import Shown
from adaptzip.core.words import count, size
from adaptzip.restoring.merging.plan import listed
from adaptzip.restoring.merging.rounding import Rounding


@dataclass(frozen=True, repr=False)
class MergeReport(Shown):
    """What `merge` wrote.

    Attributes:
        path: the folder of the merged model, or the GGUF file.
        bytes: size of all its files.
        files: their names, sorted.
        modules: how many modules were merged.
        extras: how many extras (heads, biases, token rows, embeddings) were applied.
        tokenizer: whose tokenizer it carries, "adapter" or "base"; None where neither brings one.
        untied: tied embeddings became parameters of their own.
        warnings: what the user should know of the result, a line each.
        rounding: what rounding left of the update, None where the base is not quantised.
        resumed: how many weight files an earlier run that was stopped had finished.
    """

    path: Path
    bytes: int
    files: tuple[str, ...]
    modules: int
    extras: int
    tokenizer: str | None = None
    untied: bool = False
    warnings: tuple[str, ...] = ()
    rounding: Rounding | None = None
    resumed: int = 0

    def _told(self) -> Iterator[str]:
        yield str(self.path)
        yield size(self.bytes)
        yield count(self.modules, "module")
        yield count(self.extras, "extra") if self.extras else ""
        yield count(len(self.warnings), "warning") if self.warnings else ""

    def as_dict(self) -> dict[str, object]:
        """The report as JSON values."""
        return {
            "path": str(self.path),
            "bytes": self.bytes,
            "files": list(self.files),
            "modules": self.modules,
            "extras": self.extras,
            "tokenizer": self.tokenizer,
            "untied": self.untied,
            "warnings": list(self.warnings),
            "rounding": None if self.rounding is None else self.rounding.as_dict(),
            "resumed": self.resumed,
        }


def broken_warnings(names: Sequence[str]) -> Iterator[str]:
    """What the user should know of tensors that hold NaN or infinity as in the base."""
    if names:
        yield f"NaN or infinity in {listed(names)}: the base holds it and the adapter does not change it"
