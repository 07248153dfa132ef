"""Checking a `.adz`: that it is intact, that it decodes, and that what it says about its error is true."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from adaptzip.adz.coding.packing import MODES, pack_tensors, unpack_tensors
from adaptzip.adz.container.reader import open_adz
from adaptzip.core.adapter import Adapter
from adaptzip.core.basis import Basis
from adaptzip.core.calling import public
from adaptzip.core.comparing import DiffReport, ModuleDiff, diff, same_bits
from adaptzip.core.compressed import Compressed, ExtraEntry
from adaptzip.core.limits import Limits
from adaptzip.core.showing import Shown
from adaptzip.core.words import number
from adaptzip.errors import AdaptzipError, FormatError, RefusedError, UsageError, naming
from adaptzip.models.folder import BaseModel
from adaptzip.reports.weighing import weighed
from adaptzip.restoring.functions import functions
from adaptzip.restoring.reading import adapter_from
from adaptzip.restoring.reconstruction import holds_functions, reconstruct, reconstruct_native

_HASH_SHOWN = 8
AGREEMENT = 1e-3
"""How far, relatively, the stated error may be from the measured one: machines sum in different orders."""


@dataclass(frozen=True)
class Check:
    """One question to a file.

    Attributes:
        name: what was checked.
        passed: whether the answer was yes.
        detail: what was found, in words.
    """

    name: str
    passed: bool
    detail: str


@dataclass(frozen=True, repr=False)
class VerifyReport(Shown):
    """What checking a file found.

    Attributes:
        method: the method that made it.
        stated_error: the relative error that the file states.
        measured_error: the one measured against the source; None without one, or where it is infinite.
        checks: every check, in the order they were made.
        modules: every module's error against the source; empty without one.
        weighted_error: the measured error as the model's activations see it; None without source or calibration.
    """

    method: str
    stated_error: float
    measured_error: float | None
    checks: tuple[Check, ...]
    modules: tuple[ModuleDiff, ...] = ()
    weighted_error: float | None = None

    @property
    def passed(self) -> bool:
        """Whether every check said yes."""
        return all(check.passed for check in self.checks)

    def _told(self) -> Iterator[str]:
        failed = [check for check in self.checks if not check.passed]
        yield "passed" if self.passed else f"NO: {failed[0].name}: {failed[0].detail}"
        yield self.method
        yield f"stated error {number(self.stated_error)}"
        yield "" if self.measured_error is None else f"measured {number(self.measured_error)}"

    def _rows(self) -> tuple[Sequence[str], Iterator[Sequence[str]]]:
        return ("check", "", "found"), (("yes" if c.passed else "NO", c.name, c.detail) for c in self.checks)

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON values."""
        return {
            "method": self.method,
            "passed": self.passed,
            "stated_error": self.stated_error,
            "measured_error": self.measured_error,
            "weighted_error": self.weighted_error,
            "checks": [{"name": c.name, "passed": c.passed, "detail": c.detail} for c in self.checks],
            "modules": [
                {"name": m.name, "norm": m.norm, "error": m.error, "relative_error": m.relative_error}
                for m in self.modules
            ],
        }


@public
def verify(
    path: str | Path,
    against: str | Path | Adapter | None = None,
    *,
    max_error: float | None = None,
    alpha: float | None = None,
    config: str | Path | None = None,
    dialect: str | None = None,
    base: str | Path | None = None,
    basis: str | Path | Basis | None = None,
    calibration: str | Path | None = None,
    text_field: str | None = None,
    pair_field: str | None = None,
    completion_field: str | None = None,
    limits: Limits | None = None,
) -> VerifyReport:
    """Check a `.adz` file: that it is intact, that it decodes, and that what it says of its error is true.

    Args:
        path: the file.
        against: the adapter it was made from; without it the stated error is believed.
        max_error: largest relative error over all modules that is accepted; the plain one, as the stated error is.
        alpha, config, dialect: how to read `against`, as for `read`.
        base: folder of the base model, where the file's basis is that of its weights, and for calibration.
        basis: the basis artefact or its path, where the file names one.
        calibration: a file of texts, which weigh each module's error for `weighted_error`.
        text_field, pair_field, completion_field: where its rows have the text, the second of a pair, and what completes
            it; None looks for the usual names.
        limits: what a `.adz` file may make of itself; None for the usual ones (`adaptzip.Limits`).

    Raises:
        FormatError: if the file is malformed: a wrong hash, a broken structure, an undecodable module, numbers that
            are not finite.
        CheckpointError: if `against` cannot be read.
        UsageError: if it is the folder of a whole model, or there are texts and no base or nothing to weigh.
        RefusedError: if the file's basis is missing or another, or its configuration asks for more than W + s*B@A.

    Example:
        >>> _ = adaptzip.compress("my-adapter", "small.adz", max_error=0.1)
        >>> report = adaptzip.verify("small.adz", "my-adapter", max_error=0.1)
        >>> report.passed, report.measured_error <= 0.1
        (True, True)
    """
    source = None
    if against is not None:
        source = adapter_from(against, alpha=alpha, config=config, dialect=dialect, base=base, basis=basis)
    fields = {"text_field": text_field, "pair_field": pair_field, "completion_field": completion_field}
    sensitivities = weighed(source, against, base, calibration, **fields)
    _refuse_models(Path(path))
    compressed = open_adz(path)
    restored = _decode(compressed, path, base, basis, alone=source is None)
    checks = [
        Check("structure", True, "hashes and structure are intact"),
        Check("decoding", True, f"all {len(restored.modules)} modules decode"),
        Check("numbers", True, "all are finite"),
        *_made_again(compressed),
    ]
    stated = compressed.provenance.relative_error
    if source is None:
        checks += _small_enough(stated, max_error)
        return VerifyReport(compressed.method, stated, None, tuple(checks))
    checks.append(_fitting(source, restored))
    if not checks[-1].passed:
        return VerifyReport(compressed.method, stated, None, tuple(checks))
    found = diff(source, restored, sensitivities)
    checks += [_truthful(stated, found.relative_error), _extras(compressed, source, restored, found)]
    if compressed.lossless:
        checks.append(_identical(source, restored))
    checks += _small_enough(found.relative_error, max_error)
    return VerifyReport(
        compressed.method, stated, found.relative_error, tuple(checks), found.modules, found.weighted_error
    )


def _made_again(compressed: Compressed) -> Iterator[Check]:
    """Known directions that modules were decoded in, which had to be made again or found for that."""
    reference, framed = compressed.basis, sum(size > 0 for size in compressed.basis_sizes)
    if reference is None or not framed or reference.source == "embedded":
        return
    modules = "1 module" if framed == 1 else f"{framed:,} modules"
    if reference.start is not None:
        yield Check("start", True, f"made again from seed {reference.start.seed} for {modules}")
        return
    origin = "made again from the base weights" if reference.source == "base" else "given"
    yield Check("start", True, f"{origin}, of hash {reference.hash[:_HASH_SHOWN]}..., for {modules}")


def _refuse_models(path: Path) -> None:
    """Raises: UsageError: if there is a whole model and no `.adz` file."""
    if not path.is_dir() or (path / "adapter_config.json").is_file():
        return
    try:
        BaseModel.open(path)
    except AdaptzipError:
        return
    raise UsageError(
        f"{path}: is a whole model, expected a .adz file",
        hint="whether it is a base model with an adapter merged is told by "
        f"`adaptzip check {path} --base BASE --adapter ADAPTER`",
    )


def _decode(
    compressed: Compressed,
    path: str | Path,
    base: str | Path | None,
    basis: str | Path | Basis | None,
    *,
    alone: bool,
) -> Adapter:
    """The adapter; of a file of functions that is held against nothing, their matrices in its place."""
    with naming(path, FormatError, RefusedError):
        if alone and holds_functions(compressed):
            if compressed.lossless:
                return Adapter({}, functions(compressed).extras)
            return reconstruct_native(compressed, base=base, basis=basis)[1]
        return reconstruct(compressed, base=base, basis=basis)


def _fitting(source: Adapter, restored: Adapter) -> Check:
    """Whether both change the same modules of the same shapes."""
    for name in sorted(source.modules.keys() | restored.modules.keys()):
        if name not in restored.modules:
            return Check("modules", False, f"the file lacks {name}, which the source has")
        if name not in source.modules:
            return Check("modules", False, f"the file has {name}, which the source lacks")
        ours, theirs = restored.modules[name].shape, source.modules[name].shape
        if ours != theirs:
            return Check("modules", False, f"{name} is {list(ours)}, in the source {list(theirs)}")
    return Check("modules", True, "names and shapes are the source's")


def _truthful(stated: float, measured: float | None) -> Check:
    agrees = measured is not None and math.isclose(stated, measured, rel_tol=AGREEMENT, abs_tol=1e-6)
    found = "infinite" if measured is None else f"{measured:.6g}"
    return Check("stated error", agrees, f"the file says {stated:.6g}, measured {found}")


def _extras(compressed: Compressed, source: Adapter, restored: Adapter, found: DiffReport) -> Check:
    """Every extra must be the source's bit for bit, or the source's rounded to what the file keeps it as."""
    entries = {_label(entry): entry for entry in compressed.extras.entries}
    rounded = 0
    for name in found.extras_different:
        ours = _tensor(restored, entries[name]) if name in entries else None
        theirs = _tensor(source, entries[name]) if name in entries else None
        if ours is None:
            return Check("extras", False, f"the file lacks {name}, which the source has")
        if theirs is None:
            return Check("extras", False, f"the file has {name}, which the source lacks")
        if not same_bits(ours, _rounded(entries[name], theirs)):
            return Check("extras", False, f"{name} is not the source's")
        rounded += 1
    told = f"{len(found.extras_equal)} are the source's bit for bit"
    return Check("extras", True, f"{told}, {rounded} are the source's rounded" if rounded else told)


def _label(entry: ExtraEntry) -> str:
    """The name that `diff` gives an extra."""
    return entry.name if entry.role == "extra" else f"{entry.name}.{entry.role}"


def _tensor(adapter: Adapter, entry: ExtraEntry) -> Tensor | None:
    if entry.role == "extra":
        return adapter.extras.get(entry.name)
    tensor: Tensor | None = getattr(adapter.modules[entry.name], entry.role)
    return tensor


def _rounded(entry: ExtraEntry, tensor: Tensor) -> Tensor:
    """What packing makes of an extra that is kept as `entry` says."""
    mode = MODES.get(entry.stored, "lossless")
    return unpack_tensors(pack_tensors([(entry.role, entry.name, tensor)], mode))[0]


def _identical(source: Adapter, restored: Adapter) -> Check:
    for name, module in source.modules.items():
        again = restored.modules[name]
        pairs = ((module.A, again.A), (module.B, again.B))
        if module.scaling != again.scaling or not all(same_bits(a, b) for a, b in pairs):
            return Check("lossless", False, f"{name} is not the source's bit for bit")
    return Check("lossless", True, "every factor is the source's bit for bit")


def _small_enough(error: float | None, limit: float | None) -> Iterator[Check]:
    if limit is None:
        return
    found = "infinite" if error is None else f"{error:.6g}"
    yield Check("max error", error is not None and error <= limit, f"{found}, allowed {limit:g}")
