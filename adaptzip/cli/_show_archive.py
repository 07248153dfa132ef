"""What `inspect` shows of a `.adz`: what its header says, with nothing decoded and without torch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from adaptzip.cli import _show_start as show_start
from adaptzip.cli import _text as text
from adaptzip.cli._output import Output
from adaptzip.cli._show_scores import ROWS, figure, measured, share
from adaptzip.core.basis import BasisReference
from adaptzip.core.compressed import ExtraEntry
from adaptzip.core.training_report import TrainingReport
from adaptzip.reports.archives import ArchiveReport, describe_archive

_MOST_EXTRAS = 8
_HASH_SHOWN = 8


def show(path: Path, output: Output) -> None:
    """Describe the `.adz` at `path`."""
    archive = describe_archive(path)
    output.result(archive.as_dict(), lambda: _text(archive, output.verbose))


def _text(archive: ArchiveReport, verbose: bool) -> str:
    header, size = archive.head.metadata, archive.bytes
    distilled = archive.head.provenance.distilled
    patterns = [
        [pattern, str(archive.numbers_of(pattern)), f"{site.out} x {site.width}", site.layout]
        for pattern, site in header.patterns
    ]
    kept = {name: part for name, part in archive.opened.parts.items() if part or name == "extras"}
    parts = [[name, text.size(part), text.share(part, size)] for name, part in kept.items()]
    blocks = [
        text.fields(_overview(archive)),
        text.table(patterns, head=["modules", "", "out x in", "layout"]),
        text.table(parts, head=["part", "size", "share"]),
        "" if distilled is None else _trained(distilled),
        _modules(archive) if verbose else "",
        _extras(archive.extras, len(archive.extras) if verbose else _MOST_EXTRAS),
    ]
    return "\n\n".join(block for block in blocks if block)


def _overview(archive: ArchiveReport) -> Iterable[tuple[str, str]]:
    header, size = archive.head.metadata, archive.bytes
    made = archive.head.provenance
    yield "file", f"{archive.path}, {text.size(size)}"
    if made.source_bytes:
        yield "source", f"{text.size(made.source_bytes)} ({header.dialect})"
        yield "ratio", text.ratio(made.source_bytes, size)
    yield "method", f"{header.method}, version {header.method_version}"
    yield "settings", ", ".join(f"{name} {value}" for name, value in header.config.items() if name != "lossless")
    start = archive.start
    yield "start", show_start.told(start) if start else ""
    yield "basis", "" if header.basis is None or start else _basis(header.basis, archive.base_model)
    yield "gains", f"in {archive.gained} of {text.count(archive.modules, 'module')}" if archive.gained else ""
    if archive.linear is False:
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
    yield "base model", f"{archive.base_model or ''}{', not as its source calls it' if header.renamed else ''}"
    yield "made by", made.made_by


def _trained(told: TrainingReport) -> str:
    """What training said of held-out texts."""
    # Embeddings and scores have a distance from the teacher's that is no divergence.
    plain = all(agreement is None for _, agreement, _ in told.rows.values())
    names = ["distance" if plain else "KL", "agreement", *([told.metric] if told.metric else [])]
    rows = [[ROWS[name], *_scores(told, row)[: len(names)]] for name, row in told.rows.items()]
    if told.metric:
        rows = [[*row, share(told.gain(name))] for name, row in zip(told.rows, rows, strict=True)]
        names.append("gain")
    shown = text.table(rows, head=["distilled", *names])
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
        "bank": f"a bank of its own (--basis FILE), {basis.description}".removesuffix(", "),
    }
    known = f", hash {basis.hash[:_HASH_SHOWN]}..." if basis.hash else ""
    size = f"{text.count(basis.size, 'direction')} at most"
    size = text.count(basis.size, "vector") if basis.source == "bank" else size
    return f"{places[basis.source]}, {size}{known}"


def _modules(archive: ArchiveReport) -> str:
    rows = [
        [name, f"{site.out} x {site.width}", "with all" if length is None else f"{length:,} B"]
        for (name, site), length in zip(archive.head.metadata.sites.items(), archive.lengths, strict=True)
    ]
    return text.table(rows, head=["module", "out x in", "coded"])


def _extras(extras: tuple[ExtraEntry, ...], most: int) -> str:
    largest = sorted(extras, key=lambda entry: -math.prod(entry.shape))
    rows = [
        [_name(entry), " x ".join(map(str, entry.shape)) or "scalar", entry.dtype, entry.stored]
        for entry in largest[:most]
    ]
    rest = len(largest) - len(rows)
    lines = text.table(rows, head=["extra", "shape", "dtype", "kept as"]) if rows else ""
    return f"{lines}\nand {rest} more (--verbose shows all)" if rest else lines


def _name(entry: ExtraEntry) -> str:
    return entry.name if entry.role == "extra" else f"{entry.name}.{entry.role}"
