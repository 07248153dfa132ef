"""What `inspect` shows of a checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from adaptzip.adz.container.names import expand, factor
from adaptzip.cli import _show_start as show_start
from adaptzip.cli import _text as text
from adaptzip.cli._output import Output
from adaptzip.core.adapter import Adapter
from adaptzip.core.progress import Progress
from adaptzip.fitting.forecasts import foresee_errors
from adaptzip.fitting.loading import load_source
from adaptzip.fitting.requests import Original, Request
from adaptzip.fitting.starting import known_frames
from adaptzip.methods import REFERENCE
from adaptzip.reports.describing import AdapterReport, DtypeReport, ModuleReport, describe
from adaptzip.reports.starts import start_values
from adaptzip.reports.yardsticks import yardsticks
from adaptzip.restoring.opening import source_bytes
from adaptzip.restoring.reading import read

ERRORS = (0.1, 0.2, 0.316)
"""The relative errors that costs are given for."""

_MOST_EXTRAS = 8
_ORIGINS = {
    "architecture": ("modelspec.architecture", "ss_base_model_version"),
    "title": ("modelspec.title", "ss_output_name"),
    "trained by": ("ss_network_module", "modelspec.implementation", "software", "ot_branch"),
}
"""What the metadata of image models' files says, by the names that trainers give it, best first."""
_LONGEST_ORIGIN = 80
_TELLING = {
    "alpha_pattern", "bias", "exclude_modules", "fan_in_fan_out", "layer_replication", "layers_pattern",
    "layers_to_transform", "lora_alpha", "lora_bias", "modules_to_save", "r", "rank_pattern",
    "target_modules", "target_parameters", "task_type", "trainable_token_indices", "use_dora", "use_rslora",
}  # fmt: skip
"""Fields of a configuration that say what the adapter does; --verbose shows the others too."""


def show(
    path: Path,
    output: Output,
    *,
    alpha: float | None,
    config: Path | None,
    base: Path | None,
    dialect: str | None,
    device: str | None,
) -> None:
    """Describe the adapter at `path`; with a device, also what each method would cost, and where its A began."""
    size = source_bytes(path)
    adapter = read(path, alpha=alpha, config=config, base=base, dialect=dialect)
    with output.progress() as progress:
        report = describe(adapter, progress)
        loaded = _loaded(path, adapter, device) if device and not report.is_zero else None
        costs = [] if loaded is None or device is None else _costs(loaded, size, device, progress)
    frames = None if loaded is None else loaded.frames
    framed = 0 if frames is None else len(frames.modules)
    start = start_values(None if frames is None else frames.reference, framed, len(adapter.modules))
    values = _values(path, size, report) | {"start": start, "costs": costs}
    output.result(values, lambda: _text(path, size, report, start, costs, output.verbose))


def described(
    path: Path, *, alpha: float | None, config: Path | None, base: Path | None, dialect: str | None
) -> dict[str, Any]:
    """What there is to say of the adapter at `path` without costs, as JSON values."""
    adapter = read(path, alpha=alpha, config=config, base=base, dialect=dialect)
    return _values(path, source_bytes(path), describe(adapter)) | {"start": None, "costs": []}


def _values(path: Path, size: int, report: AdapterReport) -> dict[str, Any]:
    return {
        "kind": "checkpoint",
        "path": str(path),
        "bytes": size,
        **report.as_dict(),
        "patterns": [{"pattern": p, "modules": n} for p, n in _patterns(report)],
    }


def _loaded(path: Path, adapter: Adapter, device: str) -> Original:
    """What was read at `path`, ready to be compressed; costs depend on where its A began, which is looked for."""
    loaded = load_source(adapter, Request(device=device, start="none"))
    return replace(loaded, frames=known_frames(path, loaded.adapter, Request(device=device)))


def _costs(source: Original, size: int, device: str, progress: Progress) -> list[dict[str, Any]]:
    """Bytes and errors: the simple ways to store the factors, then the reference method at a few errors."""
    rows = [{**asdict(row), "method": None, "ratio": size / row.bytes} for row in yardsticks(source.adapter)]
    request = Request(device=device)
    for error, planned in zip(ERRORS, foresee_errors(source, request, ERRORS, progress), strict=True):
        rows.append(
            {
                "name": f"{REFERENCE} --max-error {error:g}",
                "method": REFERENCE,
                "bytes": planned.bytes,
                "relative_error": planned.relative_error,
                "ratio": size / planned.bytes,
            }
        )
    return rows


def _text(
    path: Path,
    size: int,
    report: AdapterReport,
    start: Mapping[str, Any] | None,
    costs: list[dict[str, Any]],
    verbose: bool,
) -> str:
    began = [("start", show_start.told(start))] if start else []
    blocks = [
        text.fields([*_overview(path, size, report), *began]),
        text.table(
            [[pattern, str(number)] for pattern, number in _patterns(report)],
            head=["modules", ""],
        ),
        _energy(report),
        _modules(report.modules) if verbose else "",
        _extras(report, len(report.extras) if verbose else _MOST_EXTRAS),
        _config(report.config, verbose),
        _cost_table(costs),
    ]  # fmt: skip
    return "\n\n".join(block for block in blocks if block)


def _overview(path: Path, size: int, report: AdapterReport) -> Iterable[tuple[str, str]]:
    yield "file", f"{path}, {text.size(size)}"
    yield "kind", f"{report.dialect} LoRA"
    yield "base model", report.base_model or ""
    yield from _origin(report.config.get("metadata"))
    made = report.config.get("made_of")
    if isinstance(made, Mapping):
        yield "made of", ", ".join(f"{count} {kind}" for kind, count in made.items())
    yield "modules", f"{len(report.modules):,}"
    yield "parameters", f"{report.parameters:,}"
    yield "ranks", _tally(m.rank for m in report.modules)
    yield "scaling", _tally(f"{m.scaling:g}" for m in report.modules)
    yield "layouts", _tally(m.layout for m in report.modules)
    yield "dtypes", "; ".join(map(_dtype, report.dtypes))
    yield "extras", f"{text.share(report.extras_share, 1)} of the bytes" if report.extras else "none"
    if report.zero_modules:
        yield "update", _zero_updates(report)


def _origin(metadata: object) -> Iterable[tuple[str, str]]:
    """What a file of an image model says of where it comes from."""
    if isinstance(metadata, Mapping):
        for what, names in _ORIGINS.items():
            found = next((str(metadata[name]) for name in names if metadata.get(name)), None)
            if found is not None:
                yield what, found if len(found) <= _LONGEST_ORIGIN else f"{found[:_LONGEST_ORIGIN]}..."


def _zero_updates(report: AdapterReport) -> str:
    """How many updates are zero, and why."""
    unscaled, zero, modules = len(report.unscaled_modules), len(report.zero_modules), len(report.modules)
    if unscaled == modules:
        return "alpha is 0: every update is multiplied by 0"
    if report.is_zero and not unscaled:
        return "never trained: every update is zero"
    because = f", {unscaled} of them by alpha 0" if unscaled else ""
    return f"zero in {zero} of {text.count(modules, 'module')}{because}"


def _patterns(report: AdapterReport) -> list[tuple[str, int]]:
    """Module names as few patterns, each with the number of names that it stands for."""
    found = factor(m.name for m in report.modules)
    return [(pattern, len(expand([pattern], len(report.modules)))) for pattern in found]


def _tally(values: Iterable[object]) -> str:
    """`16`, or `8 (12 modules), 16 (60 modules)`."""
    counts: dict[object, int] = {}
    for value in values:
        counts[value] = counts.get(value, 0) + 1
    if len(counts) == 1:
        return str(next(iter(counts)))
    return ", ".join(f"{value} ({text.count(number, 'module')})" for value, number in counts.items())


def _dtype(dtype: DtypeReport) -> str:
    said = f"{dtype.dtype} ({text.count(dtype.tensors, 'tensor')}, {text.size(dtype.bytes)})"
    exact = [("bfloat16", dtype.exact_bfloat16), ("float16", dtype.exact_float16)]
    for name, number in exact:
        if number:
            said += f", {number} of them hold {name} values exactly"
    return said


def _energy(report: AdapterReport) -> str:
    if report.is_zero:
        return ""
    ranks = [["share of |dW|^2", *(f"{100 * share:.1f} %" for share in report.energy.values())]]
    lines = text.table(ranks, head=["top components", *map(str, report.energy)])
    return f"{lines}\neffective rank {report.effective_rank:.1f} on average"


def _modules(modules: Iterable[ModuleReport]) -> str:
    rows = [
        [m.name, f"{m.shape[0]} x {m.shape[1]}", str(m.rank), text.number(m.scaling), text.number(m.norm),
         f"{m.effective_rank:.1f}", f"{100 * m.energy[1]:.0f} %"]
        for m in modules
    ]  # fmt: skip
    head = ["module", "out x in", "rank", "scaling", "norm", "effective", "top 1"]
    return text.table(rows, head=head)


def _extras(report: AdapterReport, most: int) -> str:
    largest = sorted(report.extras, key=lambda extra: -extra.bytes)
    rows = [
        [extra.name, " x ".join(map(str, extra.shape)) or "scalar", extra.dtype, text.size(extra.bytes)]
        for extra in largest[:most]
    ]
    rest = len(largest) - len(rows)
    lines = text.table(rows, head=["extra", "shape", "dtype", "size"]) if rows else ""
    return f"{lines}\nand {rest} more (--verbose shows all)" if rest else lines


def _config(config: Mapping[str, Any], verbose: bool) -> str:
    """The configuration's fields; those that change what the adapter does, or all."""
    rows = [(f"  {name}", _value(value, verbose)) for name, value in config.items() if verbose or name in _TELLING]
    return f"config\n{text.fields(rows)}" if rows else ""


def _value(value: object, verbose: bool) -> str:
    """A field of the configuration, cut short unless everything is asked for."""
    said = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return said if verbose or len(said) <= 80 else f"{said[:77]}..."


def _cost_table(costs: list[dict[str, Any]]) -> str:
    if not costs:
        return ""
    rows = [
        [
            cost["name"],
            text.size(cost["bytes"]),
            f"{cost['ratio']:.1f}x",
            "-" if cost["relative_error"] is None else text.number(cost["relative_error"]),
        ]
        for cost in costs
    ]
    lines = text.table(rows, head=["what it would cost", "size", "ratio", "error"])
    return f"{lines}\nthe first two are factors alone; methods are estimates of the whole file"
