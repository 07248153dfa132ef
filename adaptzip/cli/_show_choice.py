"""What `compress`, `plan` and `bench` say of methods beside each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptzip.cli import _show_start as start
from adaptzip.cli import _text as text
from adaptzip.reports.starts import framed_modules, start_values

if TYPE_CHECKING:
    from adaptzip.core.basis import Basis
    from adaptzip.core.compressed import Compressed
    from adaptzip.fitting.appraisal import Appraisal
    from adaptzip.fitting.choosing import Foreseen
    from adaptzip.fitting.forecasts import PlanReport
    from adaptzip.fitting.requests import Request
    from adaptzip.fitting.running import Made, Tried

_HEAD = ("method", "size", "ratio", "parameters")
_NOTHING_BESIDE: Mapping[str, Any] = {
    "captured_energy": None, "basis_bytes": None, "tried": None, "reference": None, "weighted_error": None,
}  # fmt: skip
"""The keys of what stands beside a result, where nothing does."""


@dataclass(frozen=True)
class Limits:
    """What a result was held to.

    Attributes:
        size: bytes, or None.
        error: the relative error, or None.
        budget: the limit of the size as it was read, in words; "" without one.
    """

    size: float | None = None
    error: float | None = None
    budget: str = ""

    @classmethod
    def of(cls, request: Request, source_bytes: int) -> Limits:
        """Those of a request, for a source of so many bytes."""
        budget = request.budget
        size = None if budget is None else budget.bytes_for(source_bytes)
        return cls(size, request.max_error, "" if budget is None else budget.told)


def summary(values: Mapping[str, Any], limits: Limits) -> str:
    """`112.2 KiB  (1.9 % of 5.8 MiB, 52x, error 0.0998)`, with a weighted error and a budget where there are some.

    No number is rounded beyond the limit that it was held to.
    """
    size, source = values["bytes"], values["source_bytes"]
    parts = f"{text.share(size, source)} of {text.size(source)}, {text.ratio(source, size)}"
    errors = {"error": values["relative_error"], "weighted error": values["weighted_error"]}
    told = [f", {name} {text.number(error, limits.error)}" for name, error in errors.items() if error is not None]
    if limits.budget:
        told.append(f"; budget {limits.budget}")
    return f"{text.size(size, limits.size)}  ({parts}{''.join(told)})"


def counts(values: Mapping[str, Any]) -> str:
    """`method svd, 1,234 numbers stored for 12 modules`."""
    said = f"method {values['method']}, {text.count(values['parameters'], 'number')} stored"
    kept = values["kept_modules"]
    return said if kept is None else f"{said} for {text.count(kept, 'module')}"


def reference(values: Mapping[str, Any]) -> str:
    """What the reference makes of the same bytes, and who wins."""
    found = values["reference"]
    name, error, own = found["method"], text.number(found["relative_error"]), text.number(found["against"])
    said = f"{name} reaches {_kind(weighted(values))} {error} at the same bytes"
    if found["wins"]:
        return f"{said}: smaller than {own}, so {name} wins"
    return f"{said}: {values['method']} reaches {own}"


def result(values: Mapping[str, Any], path: Path, source_bytes: int, *, dry_run: bool) -> dict[str, Any]:
    """What `compress` says of a file, or of what would be one, with where it is and how small."""
    where = {"path": str(path)}
    told = {**values, **where} if dry_run else {**where, **values}
    return {**told, "source_bytes": source_bytes, "ratio": source_bytes / values["bytes"], "dry_run": dry_run}


def made(
    found: Made, beside: Appraisal, *, captured: float | None = None, basis: str | Path | Basis | None = None
) -> dict[str, Any]:
    """What came of compressing, as JSON values.

    Args:
        captured: share of the update's energy that the basis holds.
        basis: where it was read from.
    """
    compressed = found.compressed
    around = _NOTHING_BESIDE if compressed.lossless else _around(found, beside, captured, basis)
    return {
        "method": compressed.method,
        "options": {} if compressed.lossless else dict(compressed.config),
        "parameters": compressed.provenance.parameters,
        "relative_error": compressed.provenance.relative_error,
        "modules": len(compressed.sites),
        "kept_modules": sum(len(chunk) > 0 for chunk in compressed.chunks),
        "module_bytes": compressed.payload_bytes,
        "extras": len(compressed.extras.entries),
        "extras_bytes": len(compressed.extras.payload),
        "lossless": compressed.lossless,
        "seed": compressed.provenance.seed,
        "start": _start(found),
        **around,
        "bytes": found.size,
    }


def _start(found: Made) -> dict[str, Any] | None:
    compressed, saved = found.compressed, found.saved
    embedded = compressed.basis is not None and compressed.basis.source == "embedded"
    framed = 0 if embedded else framed_modules(compressed.basis_sizes)
    return start_values(compressed.basis, framed, len(compressed.sites), saved)


def _around(found: Made, beside: Appraisal, captured: float | None, basis: str | Path | Basis | None) -> dict[str, Any]:
    """What stands beside a result, under the keys of `_NOTHING_BESIDE`."""
    return {
        "weighted_error": beside.weighted_error,
        "captured_energy": captured,
        "basis_bytes": _basis_bytes(found.compressed, basis),
        "tried": [tried_row(row) for row in found.tried] or None,
        "reference": None if beside.reference is None else asdict(beside.reference) | {"wins": beside.reference.wins},
    }


def _basis_bytes(compressed: Compressed, basis: str | Path | Basis | None) -> int | None:
    """Size of the basis that the file leans on; None where it is in the file, in the base model, or not needed."""
    beside = compressed.basis is not None and compressed.basis.source in ("file", "bank")
    return basis.stat().st_size if beside and isinstance(basis, Path) else None


def foreseen(found: Foreseen, *, weighted: bool) -> dict[str, Any]:
    """What is expected of compressing, as JSON values.

    Args:
        weighted: whether the error is that which calibration weighs.
    """
    best = found.best
    return {
        **_NOTHING_BESIDE,
        "tried": None if found.report is None else forecast_rows(found.report),
        "weighted_error": best.relative_error if weighted else None,
        "method": best.method,
        "options": dict(best.options),
        "parameters": best.parameters,
        "relative_error": None if weighted else best.relative_error,
        "kept_modules": len(best.ranks) if best.ranks else None,
        "lossless": False,
        "start": start_values(best.frames, best.framed, best.modules, best.saved),
        "bytes": best.bytes,
    }


def started(values: Mapping[str, Any]) -> str:
    """Where A is known to have begun, and what that saves; "" where it is not."""
    found = values["start"]
    return f"start: {start.told(found)}{start.saving(found, values.get('module_bytes'))}" if found else ""


def weighted(values: Mapping[str, Any]) -> bool:
    """Whether errors beside these values are those that calibration weighs."""
    return values["weighted_error"] is not None


def tried_row(row: Tried) -> dict[str, Any]:
    """One method that was tried, as JSON values."""
    return {
        "method": row.method,
        "bytes": row.bytes,
        "parameters": row.parameters,
        "relative_error": row.error,
        "options": dict(row.options),
        "reason": row.reason or None,
    }


def forecast_rows(report: PlanReport) -> list[dict[str, Any]]:
    """A plan's rows as JSON values, refusals last."""
    from adaptzip.fitting.plan_files import row

    refused: dict[str, Any] = {"bytes": None, "parameters": None, "relative_error": None, "options": {}}
    return [
        *({**row(forecast), "reason": None} for forecast in report.forecasts),
        *({"method": refusal.method, **refused, "reason": refusal.reason} for refusal in report.refusals),
    ]


def tried(rows: Sequence[Mapping[str, Any]], source_bytes: int, *, weighted: bool) -> str:
    """A table of methods and settings, and under it those that can't, with the reason.

    Args:
        weighted: whether the errors are those that calibration weighs.
    """
    made = [row for row in rows if row["reason"] is None]
    head = [*_HEAD, _kind(weighted), "options"]
    cells = [[*_cells(row, source_bytes), said_options(row["options"])] for row in made]
    reasons = [f"{row['method']}: {row['reason']}" for row in rows if row["reason"] is not None]
    return "\n".join([*([text.table(cells, head=head, left=(0, len(head) - 1))] if made else []), *reasons])


def _kind(weighted: bool) -> str:
    return "weighted error" if weighted else "error"


def _cells(row: Mapping[str, Any], source_bytes: int) -> list[str]:
    return [
        row["method"],
        text.size(row["bytes"]),
        text.ratio(source_bytes, row["bytes"]),
        "-" if row["parameters"] is None else f"{row['parameters']:,}",
        text.number(row["relative_error"]),
    ]


def said_options(options: Mapping[str, Any]) -> str:
    """`rank=1 length=48`, as -s takes them; nothing where all have their defaults."""
    return " ".join(f"{key}={value}" for key, value in options.items())
