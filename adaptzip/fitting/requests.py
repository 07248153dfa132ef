"""What is to be compressed, and how: a request, and the adapter it is made of, before anything is fitted."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import isfinite
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, get_args

import torch
from torch import Tensor

from adaptzip.adz.coding.packing import ExtrasMode, pack_tensors
from adaptzip.checkpoints._base_name import check_name, renamed
from adaptzip.checkpoints.peft.vetting import vet, vet_numbers
from adaptzip.core.adapter import Adapter
from adaptzip.core.basis import Basis
from adaptzip.core.budget import Budget
from adaptzip.core.compressed import PackedExtras
from adaptzip.core.linalg import choose_device
from adaptzip.core.method import FitContext, FunctionMethod
from adaptzip.core.sensitivity import Sensitivity
from adaptzip.core.survey import Survey
from adaptzip.errors import AdaptzipWarning, RefusedError, UsageError
from adaptzip.files.digest import file_digest
from adaptzip.fitting.allocation import check_allocation
from adaptzip.fitting.fits import KEPT_NUMBERS, survey_of
from adaptzip.methods import REFERENCE, load
from adaptzip.restoring.reading import read, source_bytes, weight_files

if TYPE_CHECKING:
    from adaptzip.core.method import Method
    from adaptzip.fitting.calibration.choosing import Copier

AUTO = "auto"
"""In place of a method's name: whichever gives the smallest error."""

_LARGEST = 1e18
"""Updates up to this norm have squares that float32 can hold and add up."""


@dataclass(frozen=True, eq=False)
class Request:
    """How to compress; see `adaptzip.compress` for what each field means."""

    to: str = REFERENCE
    budget: str | Budget | None = None
    max_error: float | None = None
    extras: ExtrasMode = "lossless"
    alpha: float | None = None
    config: str | Path | None = None
    device: str = "auto"
    seed: int = 0
    base: str | Path | None = None
    basis: str | Path | Basis | None = None
    embed_basis: bool = False
    calibration: str | Path | None = None
    allocate: str | None = None
    ranks: Mapping[str, int] | None = None
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    base_name: str | None = None
    text_field: str | None = None
    pair_field: str | None = None
    completion_field: str | None = None

    def __post_init__(self) -> None:
        if self.extras not in get_args(ExtrasMode):
            raise UsageError(
                f"extras mode {self.extras!r} is unknown", hint=f"modes: {', '.join(get_args(ExtrasMode))}"
            )
        if self.max_error is not None and not (isfinite(self.max_error) and 0 < self.max_error < 1):
            raise UsageError(f"max-error {self.max_error:g} is not between 0 and 1", hint="0.1 keeps 99 % of |dW|^2")
        if not 0 <= self.seed < 2**63:
            raise UsageError(f"seed {self.seed} is out of range", hint="give one from 0 to 2^63 - 1")
        if self.calibration is not None and self.base is None:
            raise UsageError("calibration needs the base model", hint="add --base DIR")
        named = self.text_field or self.pair_field or self.completion_field
        if named is not None and self.calibration is None:
            raise UsageError(f"the field {named!r} is named, and no texts that have it", hint="give --calibration FILE")
        if self.base_name is not None:
            check_name(self.base_name)
        if self.allocate is not None:
            check_allocation(self.allocate)
            if self.budget is None and self.max_error is None:
                raise UsageError("allocating ranks needs a budget or an error", hint="add --budget or --max-error")
        if isinstance(self.budget, str):
            object.__setattr__(self, "budget", Budget.parse(self.budget))

    @property
    def inputs(self) -> dict[str, object]:
        """What is read besides the source, as for `files.inputs.check_apart`."""
        return {"config": self.config, "base": self.base, "basis": self.basis, "calibration": self.calibration}

    @property
    def limit(self) -> Budget | None:
        """The budget, parsed."""
        return None if isinstance(self.budget, str) else self.budget


@dataclass(frozen=True, eq=False)
class Source:
    """An adapter that was read.

    Attributes:
        bytes, hash: of its tensor file; without a file the tensors' bytes, and None.
        extras: its extras, packed as the request says.
        sensitivities: by module, from calibration; empty without.
        importance: by module, from calibration; empty without.
    """

    adapter: Adapter
    bytes: int
    hash: str | None
    extras: PackedExtras
    sensitivities: Mapping[str, Sensitivity] = field(default_factory=lambda: MappingProxyType({}))
    importance: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, eq=False)
class Job:
    """One method on one adapter, with everything about it that is already certain."""

    source: Source
    request: Request
    method: Method
    config: Any
    context: FitContext
    survey: Survey | None

    @property
    def adapter(self) -> Adapter:
        return self.source.adapter


def load_source(source: str | Path | Adapter, request: Request, *, lossless: bool = False) -> Source:
    """Read an adapter, pack its extras, and calibrate where the request asks for it.

    Args:
        lossless: leave biases as they are; a file whose factors have the scale within has it within biases too.

    Raises:
        CheckpointError, RefusedError, BaseModelError: if something can't be read, or is no low-rank update of finite
            numbers.
    """
    if isinstance(source, Adapter):
        adapter, size, content = source, _tensor_bytes(source), None
    else:
        basis = None if isinstance(request.basis, Basis) else request.basis
        adapter = read(source, alpha=request.alpha, config=request.config, base=request.base, basis=basis)
        size, content = source_bytes(source), file_digest(*weight_files(source))
    if request.base_name is not None:
        adapter = replace(adapter, meta=renamed(adapter.meta, request.base_name))
    if not adapter.modules:
        raise RefusedError("the adapter has no low-rank module to compress", hint="`adaptzip inspect` shows why")
    vet(adapter, "the adapter" if isinstance(source, Adapter) else source)
    vet_numbers(adapter)
    if not lossless:
        _check_square(adapter)
    found = Source(adapter, size, content, pack_extras(adapter, request.extras, folded=not lossless))
    if request.calibration is None or request.base is None:
        return found
    from adaptzip.fitting.calibration import calibrate
    from adaptzip.models.texts.tokenisers import tokeniser_folder

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


def _copier(source: Source, request: Request) -> Copier | None:
    """What the reference leaves of an adapter at the size asked for; None without a size, or where that is slow."""
    if request.limit is None or request.limit.unit == "parameters" or request.max_error is not None:
        return None
    if source.adapter.parameters > KEPT_NUMBERS:
        return None
    plain = Request(budget=request.limit, device=request.device, seed=request.seed)

    def copy(sensitivities: Mapping[str, Sensitivity]) -> Adapter:
        from adaptzip.fitting.compression import run
        from adaptzip.restoring.reconstruction import reconstruct

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AdaptzipWarning)
            return reconstruct(run(prepare_job(replace(source, sensitivities=sensitivities), plain)).compressed)

    return copy


def _aimed_error(source: Source, request: Request) -> float | None:
    """The relative error that the request will come to, about; None where no limit says it."""
    if request.max_error is not None or request.limit is None:
        return request.max_error
    from adaptzip.fitting.forecasts import compare

    plain = Request(budget=request.limit, device=request.device, seed=request.seed)
    found = compare(source, plain, [plain.to]).forecasts
    return found[0].relative_error if found else None


def prepare_job(source: Source, request: Request) -> Job:
    """Find the method, its options, the device and the basis.

    Raises:
        UsageError: if there is no such method or option.
        RefusedError: if the method can only be trained, or a basis is needed and missing.
    """
    method = load(request.to)
    if isinstance(method, FunctionMethod):
        raise method.refusal()
    config = configure(method, request.options)
    device = choose_device(request.device)
    survey = survey_of(source.adapter, device) if method.spans_modules or request.allocate else None
    context = FitContext(
        device=device,
        seed=request.seed,
        basis=_basis(method, config, source.adapter, request, device),
        sensitivities=source.sensitivities,
        ranks=request.ranks,
    )
    return Job(source, request, method, config, context, survey)


def _basis(method: Method, config: Any, adapter: Adapter, request: Request, device: torch.device) -> Basis | None:
    if not method.needs_basis:
        return None
    from adaptzip.bases.resolve import basis_for_compress

    basis: Basis = basis_for_compress(
        method.default_basis,
        adapter,
        base=None if request.base is None else Path(request.base),
        basis=Path(request.basis) if isinstance(request.basis, str) else request.basis,
        size=getattr(config, "rank", None),
        embed=request.embed_basis,
    )
    return basis.to(device)


def _check_square(adapter: Adapter) -> None:
    """Refuse updates whose squared error no float32 holds."""
    for name, module in adapter.modules.items():
        bound = abs(module.scaling) * _norm(module.A) * _norm(module.B)
        if bound > _LARGEST:
            raise RefusedError(
                f"module {name!r}: its update may be as large as {bound:.0e}, which float32 cannot square",
                hint="mend the adapter, or keep it as it is with --lossless",
            )


def _norm(tensor: Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor.double()))


def configure(method: Method, options: Mapping[str, Any]) -> Any:
    """A method's configuration with these options set.

    Raises:
        UsageError: if it has no such option, or one is out of range.
    """
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


def pack_extras(adapter: Adapter, mode: ExtrasMode, *, folded: bool) -> PackedExtras:
    """An adapter's extras, DoRA magnitudes and biases in one block; `folded` multiplies biases by their scale."""
    tensors = [("extra", name, tensor) for name, tensor in sorted(adapter.extras.items())]
    for name, module in sorted(adapter.modules.items()):
        if module.magnitude is not None:
            tensors.append(("magnitude", name, module.magnitude))
        if module.bias is not None:
            scaled = folded and module.scaling != 1.0
            tensors.append(("bias", name, module.bias.float() * module.scaling if scaled else module.bias))
    return pack_tensors(tensors, mode)
