"""From an adapter to a compressed one, and to a file."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from adaptzip import __version__
from adaptzip.adapter import Adapter
from adaptzip.budget import Budget
from adaptzip.coding.modules import CodedModule
from adaptzip.compressed import Compressed, PackedExtras, Provenance, Site
from adaptzip.container import writer
from adaptzip.digest import file_digest
from adaptzip.errors import AdaptzipWarning, RefusedError, UsageError
from adaptzip.fitting import FittedAdapter, Progress, fit_adapter
from adaptzip.limits import DEFAULT_ERROR, FINEST_ERROR, Limits, RateControl, capped_error, cut_share, parameter_caps
from adaptzip.linalg import choose_device
from adaptzip.methods import load
from adaptzip.packing import ExtrasMode, pack_factors, pack_tensors
from adaptzip.sources import read, weight_file

if TYPE_CHECKING:
    from adaptzip.methods._base import Method

_FILL = 0.99
"""A size budget that is filled less than this is worth a word."""


@dataclass(frozen=True)
class Plan:
    """What compressing would give, predicted without coding anything.

    Attributes:
        bytes: of the whole file.
        parameters: stored numbers, extras not counted.
        relative_error: |dW - dW'| / |dW|.
        ranks: rank of each module that is kept.
    """

    method: str
    bytes: int
    source_bytes: int
    parameters: int
    relative_error: float
    ranks: Mapping[str, int]


@dataclass(frozen=True, eq=False)
class _Job:
    """An adapter to be compressed, with everything about it that is already certain."""

    adapter: Adapter
    method: Method
    config: Any
    extras: PackedExtras
    source_bytes: int
    source_hash: str | None
    seed: int


def compress(
    source: str | Path | Adapter,
    output: str | Path | None = None,
    *,
    to: str = "svd",
    budget: str | Budget | None = None,
    max_error: float | None = None,
    lossless: bool = False,
    extras: ExtrasMode = "lossless",
    alpha: float | None = None,
    config: str | Path | None = None,
    device: str = "auto",
    seed: int = 0,
    force: bool = False,
    progress: Progress | None = None,
    **options: Any,
) -> Compressed:
    """Compress an adapter, and write it to `output` if that is given.

    Args:
        source: a checkpoint's path, or an adapter that was read already.
        to: name of the method.
        budget: an upper limit in parameters, bytes or as a share of the source (`Budget`). A size in bytes is met
            within 1 % from below.
        max_error: largest relative error |dW - dW'| / |dW| over all modules together; met from below with the
            smallest file. 0.1 where neither this nor a budget is given.
        lossless: keep every tensor bit for bit instead.
        extras: how tensors that are no factors are kept: "lossless", "float16", "bfloat16" or "int8".
        alpha, config: as for `read`.
        device: "auto", "cpu", "cuda" or "cuda:N", for the fit.
        seed: makes the choice of modules on which a large adapter's step is searched.
        force: replace an existing `output`.
        progress: called with a phase and the share of it that is done.
        options: the method's own options.

    Raises:
        CheckpointError: if the source is unreadable or malformed.
        RefusedError: if it is no low-rank update.
        UsageError: if options contradict each other or are unknown.
        CheckFailedError: if the budget or the error can't be met.
        OutputError: if `output` exists without `force`, or cannot be written.
    """
    if lossless and (budget is not None or max_error is not None or extras != "lossless" or options):
        raise UsageError("lossless leaves nothing to choose", hint="drop --lossless, or the other option")
    job = _prepare(source, to, extras, alpha, config, seed, options)
    compressed = _exact(job) if lossless else _lossy(job, budget, max_error, device, progress)
    if output is not None:
        writer.write(compressed, output, force=force)
    return compressed


def plan(
    source: str | Path | Adapter,
    *,
    to: str = "svd",
    budget: str | Budget | None = None,
    max_error: float | None = None,
    extras: ExtrasMode = "lossless",
    alpha: float | None = None,
    config: str | Path | None = None,
    device: str = "auto",
    seed: int = 0,
    **options: Any,
) -> Plan:
    """What `compress` with the same arguments would give, from the method's own model; nothing is coded.

    Raises:
        CheckpointError, RefusedError, UsageError, CheckFailedError: as `compress`.
    """
    job = _prepare(source, to, extras, alpha, config, seed, options)
    fitted = fit_adapter(job.method, job.config, job.adapter, choose_device(device), seed=seed)
    if not fitted.profiles:
        return Plan(to, _file_size(job, fitted, 0.0, {}, 0.0), job.source_bytes, 0, 0.0, {})
    control, limits = _control(job, fitted, budget, max_error, None)
    step, ranks = control.foresee(limits)
    size, error = fitted.predict(step, ranks)
    return Plan(
        method=to,
        bytes=control.foreseen_size(size, ranks),
        source_bytes=job.source_bytes,
        parameters=sum(fitted.numbers(name, rank) for name, rank in ranks.items()),
        relative_error=sqrt(error / fitted.energy),
        ranks=ranks,
    )


def _prepare(
    source: str | Path | Adapter,
    to: str,
    extras: ExtrasMode,
    alpha: float | None,
    config: str | Path | None,
    seed: int,
    options: Mapping[str, Any],
) -> _Job:
    if extras not in get_args(ExtrasMode):
        raise UsageError(f"extras mode {extras!r} is unknown", hint=f"modes: {', '.join(get_args(ExtrasMode))}")
    method = load(to)
    method_config = _configure(method, options)
    if isinstance(source, Adapter):
        adapter, size, content = source, _tensor_bytes(source), None
    else:
        adapter = read(source, alpha=alpha, config=config)
        file = weight_file(source)
        size, content = file.stat().st_size, file_digest(file)
    if not adapter.modules:
        raise RefusedError("the adapter has no low-rank module to compress", hint="`adaptzip inspect` shows why")
    return _Job(adapter, method, method_config, _pack_extras(adapter, extras), size, content, seed)


def _configure(method: Method, options: Mapping[str, Any]) -> Any:
    known = {field.name for field in dataclasses.fields(method.config_type)}
    unknown = sorted(options.keys() - known)
    if unknown:
        raise UsageError(
            f"method {method.name!r} has no option {unknown[0]!r}",
            hint=f"its options: {', '.join(sorted(known))}" if known else "it has no options",
        )
    return method.config_type(**options)


def _tensor_bytes(adapter: Adapter) -> int:
    """Bytes of an adapter's tensors, for one that did not come from a file."""
    factors = [t for m in adapter.modules.values() for t in (m.A, m.B, m.magnitude, m.bias) if t is not None]
    return sum(t.numel() * t.element_size() for t in [*factors, *adapter.extras.values()])


def _pack_extras(adapter: Adapter, mode: ExtrasMode) -> PackedExtras:
    tensors = [("extra", name, tensor) for name, tensor in sorted(adapter.extras.items())]
    for name, module in sorted(adapter.modules.items()):
        if module.magnitude is not None:
            tensors.append(("magnitude", name, module.magnitude))
        if module.bias is not None:
            tensors.append(("bias", name, module.bias))
    return pack_tensors(tensors, mode)


def _lossy(
    job: _Job, budget: str | Budget | None, max_error: float | None, device: str, progress: Progress | None
) -> Compressed:
    fitted = fit_adapter(job.method, job.config, job.adapter, choose_device(device), seed=job.seed, progress=progress)
    if not fitted.profiles:
        return _assemble(job, fitted, 0.0, {}, 0.0)
    control, limits = _control(job, fitted, budget, max_error, progress)
    outcome = control.meet(limits)
    if limits.error is None and limits.size is not None and outcome.size < _FILL * limits.size:
        reason = "the next component does not fit" if outcome.error > 2 * FINEST_ERROR else "more would buy nothing"
        warnings.warn(
            f"the file takes {outcome.size} bytes, {outcome.size / limits.size:.0%} of the budget, at relative error "
            f"{outcome.error:.2g}: {reason}",
            AdaptzipWarning,
            stacklevel=3,
        )
    return _assemble(job, fitted, outcome.step, outcome.coded, outcome.error)


def _control(
    job: _Job,
    fitted: FittedAdapter,
    budget: str | Budget | None,
    max_error: float | None,
    progress: Progress | None,
) -> tuple[RateControl, Limits]:
    if max_error is not None and not 0 < max_error < 1:
        raise UsageError(f"max-error {max_error:g} is not between 0 and 1", hint="0.1 keeps 99 % of |dW|^2")
    limit = Budget.parse(budget) if isinstance(budget, str) else budget
    size = None if limit is None else limit.bytes_for(job.source_bytes)
    caps, cut = None, 0.0
    if limit is not None and size is None:
        caps = parameter_caps(fitted, int(limit.amount))
        cut = cut_share(fitted, caps)
        if max_error is None:
            max_error = capped_error(cut)
    elif limit is None and max_error is None:
        max_error = DEFAULT_ERROR

    def total_size(step: float, coded: Mapping[str, CodedModule], error: float) -> int:
        return _file_size(job, fitted, step, coded, error)

    fixed = _file_size(job, fitted, 0.12345678, {}, 0.123456)
    return RateControl(fitted, total_size, fixed, len(job.extras.payload), caps, cut, progress), Limits(size, max_error)


def _file_size(job: _Job, fitted: FittedAdapter, step: float, coded: Mapping[str, CodedModule], error: float) -> int:
    return writer.size(_assemble(job, fitted, step, coded, error))


def _assemble(
    job: _Job, fitted: FittedAdapter, step: float, coded: Mapping[str, CodedModule], error: float
) -> Compressed:
    empty = CodedModule(b"", 0.0, 0)
    meta = job.adapter.meta
    return Compressed(
        method=job.method.name,
        method_version=job.method.version,
        config=dataclasses.asdict(job.config),
        sites=fitted.sites,
        max_rank=fitted.max_rank,
        chunks=[coded.get(name, empty).chunk for name in fitted.sites],
        step=step,
        provenance=_provenance(job, error, sum(module.numbers for module in coded.values())),
        extras=job.extras,
        meta_config=meta.config,
        dialect=meta.dialect,
        base_model=meta.base_model,
    )


def _exact(job: _Job) -> Compressed:
    modules = dict(sorted(job.adapter.modules.items()))
    meta = job.adapter.meta
    return Compressed(
        method=job.method.name,
        method_version=job.method.version,
        config={"lossless": True},
        sites={name: Site(*m.shape, m.layout, m.kernel) for name, m in modules.items()},
        max_rank=max(m.rank for m in modules.values()),
        chunks=[pack_factors(m) for m in modules.values()],
        step=0.0,
        provenance=_provenance(job, 0.0, job.adapter.parameters),
        extras=job.extras,
        meta_config=meta.config,
        dialect=meta.dialect,
        base_model=meta.base_model,
        source_header=meta.header,
        source_config_text=meta.config_text,
    )


def _provenance(job: _Job, error: float, parameters: int) -> Provenance:
    return Provenance(
        made_by=f"adaptzip {__version__}",
        source_bytes=job.source_bytes,
        source_hash=job.source_hash,
        relative_error=float(f"{error:.6g}"),
        parameters=parameters,
        seed=job.seed,
    )
