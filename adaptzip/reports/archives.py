"""What a `.adz` file says of itself: its header, with nothing decoded and without torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adaptzip.adz.container.head import Head
from adaptzip.adz.container.names import expand
from adaptzip.adz.container.reader import Opened, read_header
from adaptzip.core.compressed import ExtraEntry
from adaptzip.core.showing import Shown
from adaptzip.core.training_report import TrainingReport
from adaptzip.core.words import count, number, ratio, size
from adaptzip.errors import FormatError, naming
from adaptzip.reports.starts import framed_modules, start_values


@dataclass(frozen=True, repr=False)
class ArchiveReport(Shown):
    """What a `.adz` file says of itself.

    Attributes:
        path: the file.
        opened: its head, read and checked.
    """

    path: Path
    opened: Opened

    @property
    def head(self) -> Head:
        """What is told of the blocks."""
        return self.opened.head

    @property
    def method(self) -> str:
        """What made it."""
        return self.head.metadata.method

    @property
    def relative_error(self) -> float:
        """The error that the file states; 0 if lossless."""
        return self.head.provenance.relative_error

    @property
    def modules(self) -> int:
        """How many modules it changes."""
        return len(self.head.metadata.sites)

    @property
    def bytes(self) -> int:
        """Size of the file."""
        return sum(self.opened.parts.values())

    @property
    def lengths(self) -> Sequence[int | None]:
        """Bytes of each module's block; None where all modules are in one bit string."""
        return [None] * self.modules if self.head.grouped else self.head.lengths

    @property
    def zero(self) -> list[str] | None:
        """The modules without a block, whose update is zero; None where only decoding would tell."""
        if self.head.grouped:
            return None
        return [name for name, length in zip(self.head.metadata.sites, self.lengths, strict=True) if not length]

    @property
    def extras(self) -> tuple[ExtraEntry, ...]:
        """The tensors that are no factors."""
        return self.head.metadata.extras

    @property
    def gained(self) -> int:
        """How many modules were multiplied by a gain before they were coded."""
        return sum(gain != 0 for gain in self.head.gains)

    @property
    def base_model(self) -> str | None:
        """What the file calls the base model."""
        named = self.head.metadata.base_model or self.head.config.get("base_model_name_or_path")
        return None if named is None else str(named)

    @property
    def start(self) -> dict[str, Any] | None:
        """Known directions that in-vectors are coded in; None where the file has a basis of another kind, or none."""
        basis, sizes = self.head.metadata.basis, self.head.basis_sizes
        framed = 0 if self.head.basis else framed_modules(sizes)
        return start_values(basis, framed, self.modules)

    @property
    def linear(self) -> bool | None:
        """Whether the file holds updates of weights; None where its method is unknown.

        Only what was trained, or has no modules, can be anything else, so that torch, which methods need, is imported
        for such files alone.
        """
        header = self.head.metadata
        if header.sites and (header.config.get("lossless") or not self.head.provenance.distilled):
            return True
        from adaptzip.core.method import Method
        from adaptzip.methods import load, names

        return isinstance(load(header.method), Method) if header.method in names() else None

    def numbers_of(self, pattern: str) -> int:
        """How many modules a pattern of names stands for."""
        return len(expand([pattern], self.modules))

    def _told(self) -> Iterable[str]:
        made = self.head.provenance
        yield self.method
        yield size(self.bytes)
        yield ratio(made.source_bytes, self.bytes) if made.source_bytes else ""
        yield "lossless" if self.head.metadata.config.get("lossless") else f"error {number(made.relative_error)}"
        yield count(self.modules, "module")

    def _rows(self) -> tuple[Sequence[str], Iterable[Sequence[str]]]:
        sites = self.head.metadata.sites.items()
        rows = [
            (name, f"{site.out} x {site.width}", "with all" if length is None else f"{length:,}")
            for (name, site), length in zip(sites, self.lengths, strict=True)
        ]
        return ("module", "out x in", "bytes"), rows

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON values."""
        head, header, parts = self.head, self.head.metadata, self.opened.parts
        provenance = head.provenance
        return {
            "kind": "adz",
            "path": str(self.path),
            "bytes": self.bytes,
            "method": header.method,
            "method_version": header.method_version,
            "method_config": dict(header.config),
            "linear": self.linear,
            "lossless": bool(header.config.get("lossless", False)),
            "relative_error": provenance.relative_error,
            "parameters": provenance.parameters,
            "source_bytes": provenance.source_bytes,
            "source_hash": provenance.source_hash,
            "ratio": provenance.source_bytes / self.bytes,
            "made_by": provenance.made_by,
            "seed": provenance.seed,
            "distilled": _distilled(provenance.distilled),
            "dialect": header.dialect,
            "base_model": self.base_model,
            "renamed": header.renamed,
            "basis": None if header.basis is None else dataclasses.asdict(header.basis),
            "start": self.start,
            "gained_modules": self.gained,
            "step": head.step,
            "max_rank": head.max_rank,
            "parts": parts,
            "extras_share": parts["extras"] / self.bytes,
            "patterns": [
                {"pattern": pattern, "modules": self.numbers_of(pattern), "shape": [site.out, site.width]}
                for pattern, site in header.patterns
            ],
            "modules": [
                {"name": name, "shape": [site.out, site.width], "layout": site.layout, "bytes": length}
                for (name, site), length in zip(header.sites.items(), self.lengths, strict=True)
            ],
            "zero_modules": self.zero,
            "extras": [
                {"role": e.role, "name": e.name, "dtype": e.dtype, "shape": list(e.shape), "stored": e.stored}
                for e in self.extras
            ],
            "config": dict(head.config),
        }


def describe_archive(path: str | Path) -> ArchiveReport:
    """Describe a `.adz`, all of which is compared with its hashes.

    Raises:
        FormatError: if it is damaged.
        RefusedError: if it needs a newer adaptzip.
    """
    opened = read_header(path)
    with naming(path, FormatError):
        opened.payload.check()
    return ArchiveReport(Path(path), opened)


def _distilled(report: TrainingReport | None) -> dict[str, Any] | None:
    if report is None:
        return None
    counts = {"texts": report.texts, "held_out": report.held_out, "step": report.step, "steps": report.steps}
    return {**counts, "metric": report.metric, "rows": report.rows}
