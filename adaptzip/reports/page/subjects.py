"""What a page says of one file: facts, bytes, and each module's numbers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from adaptzip.adz.coding.packing import MODES, ExtrasMode
from adaptzip.adz.container.frame import is_adz
from adaptzip.checkpoints._image.aligning import aligned
from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.core.basis import Basis
from adaptzip.core.comparing import diff
from adaptzip.core.linalg import factored_values
from adaptzip.core.training_report import TrainingReport
from adaptzip.core.words import count, size
from adaptzip.reports.archives import ArchiveReport, describe_archive
from adaptzip.restoring.opening import source_bytes
from adaptzip.restoring.reading import adapter_from


@dataclass(frozen=True)
class ModuleStory:
    """One module of a file.

    Attributes:
        name, shape, rank: the module, (out, in) of its update, and the rank of its factors.
        bytes: what it takes; None where all modules are in one bit string.
        values: singular values of its update, falling; () where it is no update of weights.
        energy: |dW|^2.
        error: |dW - dW'|, dW the reference's; None without one.
        reference: |dW|^2 of the reference.
        numbers: numbers in the factors, the reference's where there is one.
    """

    name: str
    shape: tuple[int, int]
    rank: int
    bytes: int | None
    values: tuple[float, ...]
    energy: float
    error: float | None = None
    reference: float | None = None
    numbers: int = 0


@dataclass(frozen=True)
class Subject:
    """One file of a page.

    Attributes:
        name: what the page calls it.
        kind: the method of a `.adz`, or the dialect of another file.
        bytes: its size.
        source_bytes: of what it was made from; None for an adapter that is no `.adz`.
        relative_error: the one it states, or the one measured against the reference; None where there is neither.
        facts: where it comes from, in words.
        parts: bytes by what they are for.
        modules: all modules.
        trained: what training measured, where it was distilled.
        extras: how extras are kept.
    """

    name: str
    kind: str
    bytes: int
    source_bytes: int | None
    relative_error: float | None
    facts: tuple[tuple[str, str], ...]
    parts: tuple[tuple[str, int], ...]
    modules: tuple[ModuleStory, ...]
    trained: TrainingReport | None = None
    extras: ExtrasMode = "lossless"


def subject(
    path: Path, name: str, against: Adapter | None, *, base: str | Path | None, basis: str | Path | Basis | None
) -> Subject:
    """Read a file, and measure its modules.

    Raises:
        CheckpointError, FormatError, RefusedError: if it can't be read, or not without something else.
        UsageError: if a module has another shape than in `against`.
    """
    archive = describe_archive(path) if is_adz(path) else None
    if archive is not None and archive.linear is False:
        return _of_archive(archive, name, None)
    adapter = adapter_from(path, base=base, basis=basis)
    reference = None
    if against is not None:
        reference, adapter = aligned(against, adapter)
    found = _of_checkpoint(path, name, adapter) if archive is None else _of_archive(archive, name, adapter)
    return found if reference is None else _beside(found, reference, adapter)


def _of_archive(archive: ArchiveReport, name: str, adapter: Adapter | None) -> Subject:
    made, sites = archive.head.provenance, archive.head.metadata.sites
    lengths = dict(zip(sites, archive.lengths, strict=True))
    if adapter is None:
        modules = [
            ModuleStory(module, (site.out, site.width), 0, lengths[module], (), 0.0) for module, site in sites.items()
        ]
    else:
        modules = [_story(module, factors, lengths.get(module)) for module, factors in adapter.modules.items()]
    return Subject(
        name=name,
        kind=archive.method,
        bytes=archive.bytes,
        source_bytes=made.source_bytes or None,
        relative_error=None if adapter is None else made.relative_error,
        facts=tuple(_facts(archive)),
        parts=tuple((part, count) for part, count in archive.opened.parts.items() if count),
        modules=tuple(modules),
        trained=made.distilled,
        extras=_extras_mode(archive),
    )


def _facts(archive: ArchiveReport) -> Iterator[tuple[str, str]]:
    header, made = archive.head.metadata, archive.head.provenance
    yield "method", f"{header.method}, version {header.method_version}"
    yield "settings", ", ".join(f"{key} {value}" for key, value in header.config.items())
    yield "made by", made.made_by
    yield "seed", str(made.seed)
    yield "source", f"{header.dialect}, {size(made.source_bytes)}, hash {made.source_hash}"
    yield "base model", archive.base_model or "not named"
    yield "modules", f"{archive.modules:,}, {made.parameters:,} numbers stored"
    if header.basis is not None:
        told = f", {header.basis.description}" if header.basis.description else ""
        noun = "vector" if header.basis.source == "bank" else "direction"
        yield "basis", f"{header.basis.source}{told}, {count(header.basis.size, noun)} at most"
    if made.distilled is not None:
        steps = f"step {made.distilled.step:,} of {made.distilled.steps:,}"
        yield "trained", f"on {count(made.distilled.texts, 'text')}, {steps}"
    yield "file hash", archive.opened.hash


def _extras_mode(archive: ArchiveReport) -> ExtrasMode:
    """How extras were asked to be kept, by what they are kept as."""
    modes = {MODES[entry.stored] for entry in archive.extras if entry.stored in MODES}
    # int8 has rows of matrices alone: vectors beside them are float16.
    return "int8" if "int8" in modes else min(modes, default="lossless")


def _of_checkpoint(path: Path, name: str, adapter: Adapter) -> Subject:
    held = {module: _bytes_of(factors) for module, factors in adapter.modules.items()}
    total, factors, extras = source_bytes(path), sum(held.values()), _tensor_bytes(adapter.extras.values())
    facts = [
        ("dialect", adapter.meta.dialect),
        ("base model", adapter.meta.base_model or "not named"),
        ("modules", f"{len(held):,}, {adapter.parameters:,} numbers"),
    ]
    parts = [("factors", factors), ("extras", extras), ("names and header", max(0, total - factors - extras))]
    return Subject(
        name=name,
        kind=adapter.meta.dialect,
        bytes=total,
        source_bytes=None,
        relative_error=None,
        facts=tuple(facts),
        parts=tuple((part, amount) for part, amount in parts if amount),
        modules=tuple(_story(module, factors, held[module]) for module, factors in adapter.modules.items()),
    )


def _story(name: str, module: LoraFactors, stored: int | None) -> ModuleStory:
    values = factored_values(module.A[None], module.B[None], module.scaling)[0]
    energy = float(values.square().sum())
    return ModuleStory(
        name, module.shape, module.rank, stored, tuple(values.tolist()), energy, numbers=module.parameters
    )


def _beside(found: Subject, against: Adapter, adapter: Adapter) -> Subject:
    """The same with each module's error from a reference."""
    apart = diff(against, adapter)
    by_name = {module.name: module for module in apart.modules}
    modules = [
        replace(
            module,
            error=by_name[module.name].error,
            reference=by_name[module.name].norm ** 2,
            numbers=against.modules[module.name].parameters,
        )
        if module.name in by_name
        else module
        for module in found.modules
    ]
    return replace(found, modules=tuple(modules), relative_error=apart.relative_error)


def _bytes_of(module: LoraFactors) -> int:
    return _tensor_bytes([module.A, module.B])


def _tensor_bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)
