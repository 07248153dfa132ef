"""What `inspect` shows of a `.adz`: what its header says, with nothing decoded and without torch."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adaptzip.adz.container.head import Head
from adaptzip.adz.container.names import expand
from adaptzip.adz.container.reader import Opened, read_header
from adaptzip.cli import _show_start as show_start
from adaptzip.cli import _text as text
from adaptzip.cli._output import Output
from adaptzip.cli._show_scores import ROWS, figure, measured, share
from adaptzip.core.basis import BasisReference
from adaptzip.core.compressed import ExtraEntry, TrainingReport
from adaptzip.errors import FormatError, naming

_MOST_EXTRAS = 8
_HASH_SHOWN = 8


@dataclass(frozen=True)
class _Archive:
    """A file's head, and what else can be read without decoding."""

    path: Path
    opened: Opened

    @property
    def head(self) -> Head:
        return self.opened.head

    @property
    def modules(self) -> int:
        return len(self.head.metadata.sites)

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
        return self.head.metadata.extras

    @property
    def bytes(self) -> int:
        return sum(self.opened.parts.values())

    @property
    def gained(self) -> int:
        """How many modules were multiplied by a gain before they were coded."""
        return sum(gain != 0 for gain in self.head.gains)


def show(path: Path, output: Output) -> None:
    """Describe the `.adz` at `path`, all of which is compared with its hashes."""
    opened = read_header(path)
    with naming(path, FormatError):
        opened.payload.check()
    archive = _Archive(path, opened)
    output.result(_values(archive), lambda: _text(archive, output.verbose))


def _values(archive: _Archive) -> dict[str, Any]:
    head, header, parts = archive.head, archive.head.metadata, archive.opened.parts
    provenance = head.provenance
    return {
        "kind": "adz",
        "path": str(archive.path),
        "bytes": archive.bytes,
        "method": header.method,
        "method_version": header.method_version,
        "method_config": dict(header.config),
        "linear": _linear(head),
        "lossless": bool(header.config.get("lossless", False)),
        "relative_error": provenance.relative_error,
        "parameters": provenance.parameters,
        "source_bytes": provenance.source_bytes,
        "source_hash": provenance.source_hash,
        "ratio": provenance.source_bytes / archive.bytes,
        "made_by": provenance.made_by,
        "seed": provenance.seed,
        "distilled": _told(provenance.distilled),
        "dialect": header.dialect,
        "base_model": _base_model(archive),
        "renamed": header.renamed,
        "basis": None if header.basis is None else dataclasses.asdict(header.basis),
        "start": _start(archive),
        "gained_modules": archive.gained,
        "step": head.step,
        "max_rank": head.max_rank,
        "parts": parts,
        "extras_share": parts["extras"] / archive.bytes,
        "patterns": [
            {"pattern": pattern, "modules": _count(pattern, archive), "shape": [site.out, site.width]}
            for pattern, site in header.patterns
        ],
        "modules": [
            {"name": name, "shape": [site.out, site.width], "layout": site.layout, "bytes": length}
            for (name, site), length in zip(header.sites.items(), archive.lengths, strict=True)
        ],
        "zero_modules": archive.zero,
        "extras": [
            {"role": e.role, "name": e.name, "dtype": e.dtype, "shape": list(e.shape), "stored": e.stored}
            for e in archive.extras
        ],
        "config": dict(head.config),
    }


def _start(archive: _Archive) -> dict[str, Any] | None:
    """Known directions that in-vectors are coded in; None where the file has a basis of another kind, or none."""
    basis, sizes = archive.head.metadata.basis, archive.head.basis_sizes
    framed = 0 if archive.head.basis else show_start.count(sizes)
    return show_start.values(basis, framed, archive.modules)


def _linear(head: Head) -> bool | None:
    """Whether the file holds updates of weights; None where its method is unknown.

    Only what was trained, or has no modules, can be anything else, so that torch, which methods need, is imported for
    such files alone.
    """
    header = head.metadata
    if header.sites and (header.config.get("lossless") or not head.provenance.distilled):
        return True
    from adaptzip.core.method import Method
    from adaptzip.methods import load, names

    return isinstance(load(header.method), Method) if header.method in names() else None


def _base_model(archive: _Archive) -> str | None:
    named = archive.head.metadata.base_model or archive.head.config.get("base_model_name_or_path")
    return None if named is None else str(named)


def _count(pattern: str, archive: _Archive) -> int:
    return len(expand([pattern], archive.modules))


def _text(archive: _Archive, verbose: bool) -> str:
    header, size = archive.head.metadata, archive.bytes
    distilled = archive.head.provenance.distilled
    patterns = [
        [pattern, str(_count(pattern, archive)), f"{site.out} x {site.width}", site.layout]
        for pattern, site in header.patterns
    ]
    kept = {name: part for name, part in archive.opened.parts.items() if part or name == "extras"}
    parts = [[name, text.size(part), text.share(part, size)] for name, part in kept.items()]
    blocks = [
        text.fields(_overview(archive)),
        text.table(patterns, head=["modules", "", "out x in", "layout"], indent=""),
        text.table(parts, head=["part", "size", "share"], indent=""),
        "" if distilled is None else _trained(distilled),
        _modules(archive) if verbose else "",
        _extras(archive.extras, len(archive.extras) if verbose else _MOST_EXTRAS),
    ]
    return "\n\n".join(block for block in blocks if block)


def _overview(archive: _Archive) -> Iterable[tuple[str, str]]:
    header, size = archive.head.metadata, archive.bytes
    made = archive.head.provenance
    yield "file", f"{archive.path}, {text.size(size)}"
    if made.source_bytes:
        yield "source", f"{text.size(made.source_bytes)} ({header.dialect})"
        yield "ratio", text.ratio(made.source_bytes, size)
    yield "method", f"{header.method}, version {header.method_version}"
    yield "settings", ", ".join(f"{name} {value}" for name, value in header.config.items() if name != "lossless")
    start = _start(archive)
    yield "start", show_start.told(start) if start else ""
    yield "basis", "" if header.basis is None or start else _basis(header.basis, _base_model(archive))
    yield "gains", f"in {archive.gained} of {text.count(archive.modules, 'module')}" if archive.gained else ""
    if _linear(archive.head) is False:
        yield "kind", f"functions behind {text.count(len(header.sites), 'layer')}: not linear, can't be merged"
    else:
        yield "error", "0, lossless" if header.config.get("lossless") else text.number(made.relative_error)
    yield "parameters", f"{made.parameters:,} stored"
    rank = f", of rank {archive.head.max_rank} at most" if archive.opened.parts["modules"] else ""
    yield "modules", f"{len(header.sites):,}{rank}"
    zero = len(archive.zero or ())
    if zero == archive.modules:
        unscaled = archive.head.config.get("lora_alpha") == 0
        yield "update", f"{'alpha is 0' if unscaled else 'never trained'}: every update is zero"
    elif zero:
        yield "update", f"zero in {zero} of {text.count(archive.modules, 'module')}"
    yield "base model", f"{_base_model(archive) or ''}{', not as its source calls it' if header.renamed else ''}"
    yield "made by", made.made_by


def _told(report: TrainingReport | None) -> dict[str, Any] | None:
    if report is None:
        return None
    counts = {"texts": report.texts, "held_out": report.held_out, "step": report.step, "steps": report.steps}
    return {**counts, "metric": report.metric, "rows": report.rows}


def _trained(told: TrainingReport) -> str:
    """What training said of held-out texts."""
    # Embeddings and scores have a distance from the teacher's that is no divergence.
    plain = all(agreement is None for _, agreement, _ in told.rows.values())
    names = ["distance" if plain else "KL", "agreement", *([told.metric] if told.metric else [])]
    rows = [[ROWS[name], *_scores(told, row)[: len(names)]] for name, row in told.rows.items()]
    if told.metric:
        rows = [[*row, share(told.gain(name))] for name, row in zip(told.rows, rows, strict=True)]
        names.append("gain")
    shown = text.table(rows, head=["distilled", *names], indent="")
    updates = text.count(told.steps, "update")
    best = f"after update {told.step} of {told.steps}" if told.step else f"as before training, after {updates}"
    return f"{shown}\nbest {best}; {text.count(told.texts, 'text')} trained on, {told.held_out} held out"


def _scores(told: TrainingReport, row: Sequence[float | None]) -> list[str]:
    """KL, agreement and metric, in the units in which `distill` shows them."""
    distance, agreement, metric = row
    return [figure(distance), share(agreement), measured(told.metric, metric)]


def _basis(basis: BasisReference, base_model: str | None) -> str:
    """Where the basis is found, and how to tell that it is the right one."""
    places = {
        "base": f"recomputed from the weights of {base_model or 'the base model'} (--base DIR)",
        "file": f"a file of its own (--basis FILE), {basis.description}".removesuffix(", "),
        "embedded": "in the file itself",
    }
    known = f", hash {basis.hash[:_HASH_SHOWN]}..." if basis.hash else ""
    return f"{places[basis.source]}, {text.count(basis.size, 'direction')} at most{known}"


def _modules(archive: _Archive) -> str:
    rows = [
        [name, f"{site.out} x {site.width}", "with all" if length is None else f"{length:,} B"]
        for (name, site), length in zip(archive.head.metadata.sites.items(), archive.lengths, strict=True)
    ]
    return text.table(rows, head=["module", "out x in", "coded"], indent="")


def _extras(extras: tuple[ExtraEntry, ...], most: int) -> str:
    largest = sorted(extras, key=lambda entry: -math.prod(entry.shape))
    rows = [
        [_name(entry), " x ".join(map(str, entry.shape)) or "scalar", entry.dtype, entry.stored]
        for entry in largest[:most]
    ]
    rest = len(largest) - len(rows)
    lines = text.table(rows, head=["extra", "shape", "dtype", "kept as"], indent="") if rows else ""
    return f"{lines}\nand {rest} more (--verbose shows all)" if rest else lines


def _name(entry: ExtraEntry) -> str:
    return entry.name if entry.role == "extra" else f"{entry.name}.{entry.role}"
