"""One page of HTML on some files: bytes, errors and energy module by module, spectra, the frontier, evaluations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from adaptzip.adz.coding.packing import ExtrasMode
from adaptzip.adz.container.frame import is_adz
from adaptzip.core.adapter import Adapter
from adaptzip.core.basis import Basis
from adaptzip.core.calling import public
from adaptzip.core.progress import Progress, silent
from adaptzip.core.showing import Shown
from adaptzip.core.words import count, size
from adaptzip.errors import UsageError, without_warnings
from adaptzip.files.atomic import atomic_file, check_output
from adaptzip.files.inputs import check_apart
from adaptzip.fitting.requests import Request
from adaptzip.methods import REFERENCE, check_known
from adaptzip.models.hub import adapter_path
from adaptzip.reports.bench_results import Bench
from adaptzip.reports.page.evaluations import evaluation_table
from adaptzip.reports.page.frontiers import frontier_of
from adaptzip.reports.page.subjects import subject
from adaptzip.reports.page.writing import Content, check_writable, written
from adaptzip.restoring.reading import adapter_from


@dataclass(frozen=True, repr=False)
class PageReport(Shown):
    """A page that was written.

    Attributes:
        path: of the page.
        bytes: its size.
        files: what it is about, by the names that it has for them.
        benches: the frontier, by how extras are kept, as the files keep them; {} where it was not asked for, or there
            is nothing to compress.
    """

    path: Path
    bytes: int
    files: tuple[str, ...]
    benches: Mapping[ExtrasMode, Bench] = field(default_factory=dict)

    def _told(self) -> Iterator[str]:
        yield str(self.path)
        yield size(self.bytes)
        yield count(len(self.files), "file")

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON values."""
        return {
            "path": str(self.path),
            "bytes": self.bytes,
            "files": list(self.files),
            "benches": {mode: bench.as_dict() for mode, bench in self.benches.items()},
        }


@public
def report(
    sources: str | Path | Sequence[str | Path],
    output: str | Path,
    *,
    against: str | Path | Adapter | None = None,
    evaluation: str | Path | Mapping[str, Any] | None = None,
    methods: Sequence[str] = (REFERENCE,),
    frontier: bool = True,
    title: str | None = None,
    alpha: float | None = None,
    config: str | Path | None = None,
    dialect: str | None = None,
    base: str | Path | None = None,
    basis: str | Path | Basis | None = None,
    device: str | torch.device = "auto",
    seed: int = 0,
    force: bool = False,
    progress: Progress | None = None,
) -> PageReport:
    """Write one page of HTML, which needs nothing beside it, on one file or on several side by side.

    It shows where the bytes are, what each module takes, its energy and its error as heat maps over the layers,
    singular spectra, the frontier of error over bytes with the files on it and `svd` at the same bytes beside each,
    where the files come from, and an evaluation.

    Args:
        sources: `.adz` files and other readable adapters.
        output: the page.
        against: the adapter that they were made from; without it there are no errors of modules, and no frontier unless
            a source is no `.adz`, which it is drawn for then.
        evaluation: what `adaptzip eval --json` printed, as a file, or `Evaluation.as_dict()`.
        methods: whose frontiers are drawn.
        frontier: False leaves it out, which takes by far the most time.
        title: of the page; None names the files.
        alpha, config, dialect: how to read `against`, as for `read`.
        base: folder of the base model, where a file's basis is that of its weights.
        basis: the basis artefact or its path, where a file names one.
        device, seed: for the frontier, as for `compress`.
        force: replace an existing page.
        progress: told how far it is (`adaptzip.core.progress.Progress`).

    Raises:
        CheckpointError, FormatError: if a file cannot be read.
        UsageError: if there is no source, a method is unknown, `evaluation` is something else, or a module has another
            shape than in `against`.
        RefusedError: if a file needs a basis or a base, or matplotlib or jinja2 is missing.
        OutputError: if the page exists without `force`, or cannot be written.

    Example:
        >>> _ = adaptzip.compress("my-adapter", "small.adz", budget="20%")
        >>> adaptzip.report("small.adz", "report.html", against="my-adapter", frontier=False).files
        ('small.adz',)
    """
    tell = progress or silent
    paths = [adapter_path(one) for one in ([sources] if isinstance(sources, str | Path) else sources)]
    if not paths:
        raise UsageError("there is no file to report on", hint="name a .adz file or an adapter")
    for method in methods:
        check_known(method)
    check_writable()
    for path in (*paths, *([against] if isinstance(against, str | Path) else [])):
        check_apart(output, source=path, config=config, base=base, basis=basis)
    check_output(output, force)
    table = None if evaluation is None else evaluation_table(evaluation)
    request = Request(alpha=alpha, config=config, dialect=dialect, base=base, device=device, seed=seed)
    origin = _origin(paths, against)
    known = None
    if against is not None:
        known = adapter_from(against, alpha=alpha, config=config, dialect=dialect, base=base, basis=basis)
    subjects = []
    for number, (path, name) in enumerate(zip(paths, _names(paths), strict=True)):
        tell("reading", number, len(paths))
        subjects.append(subject(path, name, known, base=base, basis=basis))
    found = None
    if frontier and origin is not None:
        with without_warnings():
            found = frontier_of(origin, request, methods, subjects, tell)
    told = Content(title or ", ".join(one.name for one in subjects), tuple(subjects), known, found, table)
    with atomic_file(output, force) as handle:
        handle.write(written(told).encode("utf-8", "backslashreplace"))
    benches = {} if found is None else found.benches
    return PageReport(Path(output), Path(output).stat().st_size, tuple(one.name for one in subjects), benches)


def _origin(paths: Sequence[Path], against: str | Path | Adapter | None) -> str | Path | Adapter | None:
    """What the frontier is drawn for: the reference, or else the first adapter that is no `.adz`."""
    if against is not None:
        return against
    return next((path for path in paths if not is_adz(path)), None)


def _names(paths: Sequence[Path]) -> list[str]:
    """What the files are called: the ends of their paths, as long as it takes to tell them apart."""
    parts = [path.resolve().parts for path in paths]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    raise UsageError(f"{paths[0]}: is named twice", hint="name each file once")
