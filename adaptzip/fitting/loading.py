"""Reading what is to be compressed, and calibrating it where a request asks for that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from adaptzip.adz.coding.packing import ExtrasMode, pack_tensors
from adaptzip.checkpoints import resolved, vet, vet_numbers
from adaptzip.checkpoints._base_name import renamed
from adaptzip.checkpoints._functions import FunctionDialect
from adaptzip.checkpoints._parts import base_name
from adaptzip.checkpoints._registry import conventions
from adaptzip.core.adapter import Adapter
from adaptzip.core.compressed import PARTS, PackedExtras
from adaptzip.core.meta import Meta
from adaptzip.core.sensitivity import Sensitivity
from adaptzip.errors import RefusedError, without_warnings
from adaptzip.files.digest import file_digest
from adaptzip.fitting.calibration import calibrate
from adaptzip.fitting.calibration.choosing import Copier
from adaptzip.fitting.fit_adapter import KEPT_NUMBERS
from adaptzip.fitting.forecasts import compare
from adaptzip.fitting.requests import Original, Request, prepare_job
from adaptzip.fitting.running import run
from adaptzip.fitting.starting import known_frames
from adaptzip.models.hub import adapter_path
from adaptzip.restoring.functions import function_checkpoint
from adaptzip.restoring.opening import archive_file, readable, source_bytes, tokeniser_folder, weight_files
from adaptzip.restoring.reading import read
from adaptzip.restoring.reconstruction import reconstruct

_LARGEST = 1e18
"""Updates up to this norm have squares that float32 can hold and add up."""


def load_source(source: str | Path | Adapter, request: Request) -> Original:
    """Read an adapter, pack its extras, and calibrate where the request asks for it.

    A file whose factors have the scale within has it within biases too; a lossless one leaves both as they are.

    Raises:
        CheckpointError, RefusedError, BaseModelError: if something can't be read, or is no low-rank update of finite
            numbers.
    """
    if isinstance(source, Adapter):
        adapter, size, content = _detached(source), _tensor_bytes(source), None
    else:
        with readable(source):
            source = adapter_path(source)
        adapter = _read(source, request)
        size, content = source_bytes(source), file_digest(*weight_files(source))
    if request.base_name is not None:
        adapter = replace(adapter, meta=renamed(adapter.meta, request.base_name))
    if not adapter.modules and not keeps_functions(adapter):
        raise RefusedError("the adapter has no low-rank module to compress", hint="`adaptzip inspect` shows why")
    vet(adapter, "the adapter" if isinstance(source, Adapter) else source)
    vet_numbers(adapter)
    if isinstance(source, Adapter):
        adapter = resolved(adapter)
    if not request.lossless:
        _check_square(adapter)
    extras = pack_extras(adapter, request.extras, folded=not request.lossless)
    packed = not isinstance(source, Adapter) and archive_file(source) is not None
    found = Original(adapter, size, content, extras, frames=known_frames(source, adapter, request), packed=packed)
    if request.calibration is None or request.base is None:
        return found
    calibration = calibrate(
        Path(request.base),
        adapter,
        Path(request.calibration),
        seed=request.seed,
        device=request.device,
        error=_aimed_error(found, request),
        compressed=_copier(found, request),
        tokeniser=None if isinstance(source, Adapter) else tokeniser_folder(source),
        text_field=request.text_field,
        pair_field=request.pair_field,
        completion_field=request.completion_field,
    )
    return replace(found, sensitivities=calibration.sensitivities, importance=calibration.importance)


def _read(source: str | Path, request: Request) -> Adapter:
    """The adapter at a path; for a lossless file of functions their tensors as they are, as its extras."""
    try:
        how: dict[str, Any] = {"alpha": request.alpha, "config": request.config, "dialect": request.dialect}
        return read(source, base=request.base, basis=request.basis_path, **how)
    except RefusedError:
        found = (
            function_checkpoint(source, request.config) if request.lossless and archive_file(source) is None else None
        )
        if found is None:
            raise
        opened, dialect = found
        dialect.functions(opened.tensors, opened.config, opened.weights)  # What is malformed is not kept.
        config = opened.config or {}
        meta = Meta(dialect.name, MappingProxyType(dict(config)), base_name(config), config_text=opened.config_text)
        return Adapter({}, opened.tensors, meta)


def keeps_functions(adapter: Adapter) -> bool:
    """Whether what was read is a checkpoint of functions, whose tensors are kept as extras."""
    return isinstance(conventions(adapter.meta.dialect), FunctionDialect)


def _copier(source: Original, request: Request) -> Copier | None:
    """What the reference leaves of an adapter at the size asked for; None without a size, or where that is slow."""
    if request.budget is None or request.budget.unit == "parameters" or request.max_error is not None:
        return None
    if source.adapter.parameters > KEPT_NUMBERS:
        return None
    plain = _plain(request)

    def copy(sensitivities: Mapping[str, Sensitivity]) -> Adapter:
        with without_warnings():
            made = run(prepare_job(replace(source, sensitivities=sensitivities), plain))
            return reconstruct(made.compressed, base=request.base, basis=request.coded_in(plain.to))

    return copy


def _plain(request: Request) -> Request:
    """The reference at the size asked for, with what its frames may need to be made again."""
    return Request(
        budget=request.budget,
        device=request.device,
        seed=request.seed,
        base=request.base,
        basis=request.basis,
        start=request.start,
    )


def _aimed_error(source: Original, request: Request) -> float | None:
    """The relative error that the request will come to, about; None where no limit says it."""
    if request.max_error is not None or request.budget is None:
        return request.max_error
    plain = _plain(request)
    found = compare(source, plain, [plain.to]).forecasts
    return found[0].relative_error if found else None


def _detached(adapter: Adapter) -> Adapter:
    """The adapter without what gradients flow back through, where there is any."""
    if not any(m.A.requires_grad or m.B.requires_grad for m in adapter.modules.values()):
        return adapter
    modules = {name: replace(m, A=m.A.detach(), B=m.B.detach()) for name, m in adapter.modules.items()}
    return replace(adapter, modules=modules)


def _tensor_bytes(adapter: Adapter) -> int:
    """Bytes of an adapter's tensors, for one that did not come from a file."""
    factors = [t for m in adapter.modules.values() for t in (m.A, m.B, m.magnitude, m.bias) if t is not None]
    return sum(t.numel() * t.element_size() for t in [*factors, *adapter.extras.values()])


def _check_square(adapter: Adapter) -> None:
    """Refuse updates whose squared error no float32 holds."""
    for name, module in adapter.modules.items():
        bound = abs(module.scaling) * _norm(module.A) * _norm(module.B)
        if bound > _LARGEST:
            raise RefusedError(
                f"module {name!r}: its update may be as large as {bound:.0e}, which float32 cannot square",
                hint="mend the adapter, or keep it as it is with `lossless=True`",
            )


def _norm(tensor: Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor, dtype=torch.float64))


def pack_extras(adapter: Adapter, mode: ExtrasMode, *, folded: bool) -> PackedExtras:
    """An adapter's extras, DoRA magnitudes and biases in one block.

    Args:
        folded: multiply biases by their scale, and leave out the source's own parts; not in a lossless file.
    """
    tensors = [("extra", name, tensor) for name, tensor in sorted(adapter.extras.items())]
    for name, module in sorted(adapter.modules.items()):
        if module.magnitude is not None:
            tensors.append(("magnitude", name, module.magnitude))
        if module.bias is not None:
            scaled = folded and module.scaling != 1.0
            tensors.append(("bias", name, module.bias.float() * module.scaling if scaled else module.bias))
    if not folded:
        tensors += [("extra", PARTS + name, tensor) for name, tensor in sorted(adapter.meta.parts.items())]
    return pack_tensors(tensors, mode)
