"""What is to be compressed, and how: a request, and the adapter it is made of, before anything is fitted."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_args

import torch

from adaptzip.adz.coding.packing import ExtrasMode
from adaptzip.bases.banks import bank_for_compress, holds_bank
from adaptzip.bases.resolve import basis_for_compress
from adaptzip.checkpoints._base_name import check_name
from adaptzip.core.adapter import Adapter
from adaptzip.core.bank_builder import BankBuilder
from adaptzip.core.basis import Basis
from adaptzip.core.budget import Budget
from adaptzip.core.calling import nearest
from adaptzip.core.compressed import PackedExtras
from adaptzip.core.effort import EFFORTS, Effort
from adaptzip.core.family import AnyFamily, ConfigT, Family, MethodConfig
from adaptzip.core.linalg import choose_device
from adaptzip.core.method import AnyMethod, FitContext
from adaptzip.core.sensitivity import Sensitivity
from adaptzip.core.survey import Survey
from adaptzip.errors import UsageError
from adaptzip.fitting.allocation import check_allocation
from adaptzip.fitting.asked_starts import asked_start
from adaptzip.fitting.seed_search import SeedSearch
from adaptzip.fitting.surveys import survey_of
from adaptzip.methods import REFERENCE, load, load_fittable

AUTO = "auto"
"""In place of a method's name: whichever gives the smallest error."""


@dataclass(frozen=True, eq=False)
class Request:
    """How to compress; see `adaptzip.compress` for what each field means. The budget is parsed, and `options` holds the
    method's own options."""

    to: str = REFERENCE
    budget: Budget | None = None
    max_error: float | None = None
    lossless: bool = False
    extras: ExtrasMode = "lossless"
    alpha: float | None = None
    config: str | Path | None = None
    device: str | torch.device = "auto"
    seed: int = 0
    base: str | Path | None = None
    basis: str | Path | Basis | None = None
    embed_basis: bool = False
    start: str | Path | None = None
    search_starts: bool | SeedSearch = False
    effort: Effort = "default"
    calibration: str | Path | None = None
    allocate: str | None = None
    ranks: Mapping[str, int] | None = None
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    base_name: str | None = None
    dialect: str | None = None
    text_field: str | None = None
    pair_field: str | None = None
    completion_field: str | None = None

    def __post_init__(self) -> None:
        if self.extras not in get_args(ExtrasMode):
            raise UsageError(
                f"extras mode {self.extras!r} is unknown", hint=f"modes: {', '.join(get_args(ExtrasMode))}"
            )
        if self.effort not in EFFORTS:
            raise UsageError(f"effort {self.effort!r} is unknown", hint=f"efforts: {', '.join(EFFORTS)}")
        _check_types(self)
        if self.max_error is not None and not (isfinite(self.max_error) and 0 < self.max_error < 1):
            raise UsageError(f"max-error {self.max_error:g} is not between 0 and 1", hint="0.1 keeps 99 % of |dW|^2")
        if not 0 <= self.seed < 2**63:
            raise UsageError(f"seed {self.seed} is out of range", hint="give one from 0 to 2^63 - 1")
        if self.calibration is not None and self.base is None:
            raise UsageError("calibration needs the base model", hint="add `base=DIR`")
        named = self.text_field or self.pair_field or self.completion_field
        if named is not None and self.calibration is None:
            raise UsageError(f"the field {named!r} is named, and no texts that have it", hint="give `calibration=FILE`")
        if self.base_name is not None:
            check_name(self.base_name)
        if asked_start(self.start).kind == "base" and self.base is None:
            raise UsageError("the start is the base model's, and no base model was given", hint="add `base=DIR`")
        if self.search_starts and (self.basis is not None or asked_start(self.start).kind != "auto"):
            raise UsageError(
                "the start is given, and all seeds are to be searched for it", hint="drop search_starts, or the start"
            )
        if self.allocate is not None:
            check_allocation(self.allocate)
            if self.budget is None and self.max_error is None:
                raise UsageError("allocating ranks needs a budget or an error", hint="add `budget=` or `max_error=`")
        if self.lossless:
            self._check_nothing_chosen()

    def _check_nothing_chosen(self) -> None:
        chosen = (self.budget, self.max_error, self.allocate, self.calibration, self.basis, self.ranks)
        if any(item is not None for item in chosen) or self.options or self.extras != "lossless":
            raise UsageError("lossless leaves nothing to choose", hint="drop `lossless=True`, or the other option")

    @property
    def basis_path(self) -> str | Path | None:
        """Where the basis artefact lies; None for a basis in memory, and where none was given."""
        return None if isinstance(self.basis, Basis) else self.basis

    def coded_in(self, method: str) -> str | Path | Basis | None:
        """What a method's result may be coded in that is not the base: the basis artefact, or another adapter.

        Where both are given, frames are the start's.
        """
        start = asked_start(self.start).path
        return start if self.basis is None or (start is not None and load(method).takes_frame) else self.basis

    @property
    def inputs(self) -> dict[str, object]:
        """What is read besides the source, as for `files.inputs.check_apart`."""
        return {
            "config": self.config,
            "base": self.base,
            "basis": self.basis,
            "start": asked_start(self.start).path,
            "calibration": self.calibration,
        }


def check_start_used(request: Request) -> None:
    """Refuse a start that is given to a method which does not know what to do with it.

    Raises:
        UsageError: if it is.
    """
    if asked_start(request.start).given and request.to != AUTO and not load(request.to).takes_frame:
        raise UsageError(
            f"method {request.to!r} has no use for a start, and `start='{request.start}'` gives one",
            hint=f"drop `start=`, or compress with `to='{REFERENCE}'`",
        )


def _check_types(request: Request) -> None:
    """Refuse what callers without a type checker pass, before it fails where nothing tells its name."""
    for name, value, kind, expected in (
        ("max_error", request.max_error, float | int | None, "a number"),
        ("seed", request.seed, int, "a whole number"),
        ("ranks", request.ranks, Mapping | None, "a mapping from modules' names to ranks"),
        ("device", request.device, str | torch.device, "text or a torch.device"),
        ("start", request.start, str | Path | None, "text, such as a seed in digits, or a path"),
        ("search_starts", request.search_starts, bool | SeedSearch, "True, False or a SeedSearch"),
    ):
        if not isinstance(value, kind):
            raise UsageError(f"{name} is {value!r}, expected {expected}")


@dataclass(frozen=True, eq=False)
class Original:
    """An adapter that was read.

    Attributes:
        bytes, hash: of its tensor file; without a file the tensors' bytes, and None.
        extras: its extras, packed as the request says.
        sensitivities: by module, from calibration; empty without.
        importance: by module, from calibration; empty without.
        frames: known directions of modules' inputs that methods may code in; None without any.
        packed: whether it was a `.adz` file, which may need the request's basis to be read.
    """

    adapter: Adapter
    bytes: int
    hash: str | None
    extras: PackedExtras
    sensitivities: Mapping[str, Sensitivity] = field(default_factory=lambda: MappingProxyType({}))
    importance: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    frames: Basis | None = None
    packed: bool = False


@dataclass(frozen=True, eq=False)
class Job:
    """One method on one adapter, with everything about it that is already certain."""

    source: Original
    request: Request
    method: AnyMethod
    config: MethodConfig
    context: FitContext
    survey: Survey | None

    @property
    def adapter(self) -> Adapter:
        return self.source.adapter

    @property
    def fixed_ranks(self) -> bool:
        """Whether ranks follow from the config and the fit alone; those of a bank that is given may follow the step."""
        return self.method.fixed_ranks and self.context.bank is None

    @property
    def outside_bank(self) -> bool:
        """Whether a bank is given and stays outside the file."""
        return self.context.bank is not None and self.context.basis is not None


def prepare_job(source: Original, request: Request) -> Job:
    """Find the method, its options, the device and the basis.

    Raises:
        UsageError: if there is no such method or option.
        RefusedError: if the method can only be trained, or a basis is needed and missing.
    """
    method = load_fittable(request.to)
    _check_ranks(source.adapter, request)
    config = configure(method, request.options)
    device = choose_device(request.device)
    shared = _bank(method, request, device)
    if shared is not None and shared.bank is not None and isinstance(method, BankBuilder):
        config = method.with_bank(config, shared.bank.shape)
    survey = survey_of(source.adapter, device) if method.spans_modules or request.allocate else None
    context = FitContext(
        device=device,
        seed=request.seed,
        basis=_basis(method, config, source, request, device) if shared is None else _kept_outside(shared, request),
        bank=None if shared is None else shared.bank,
        sensitivities=source.sensitivities,
        ranks=request.ranks,
        effort=request.effort,
    )
    return Job(source, request, method, config, context, survey)


def _check_ranks(adapter: Adapter, request: Request) -> None:
    """Raises: UsageError: if ranks are asked for of a module that the adapter does not have."""
    for name in request.ranks or ():
        if name not in adapter.modules:
            raise UsageError(
                f"ranks are given for {name!r}, which the adapter does not have",
                hint=nearest(name, adapter.modules, "`adaptzip inspect` lists its modules"),
            )


def _basis(
    method: AnyMethod, config: MethodConfig, source: Original, request: Request, device: torch.device
) -> Basis | None:
    if method.takes_frame:
        return None if source.frames is None else source.frames.to(device)
    if not method.needs_basis:
        return None
    basis: Basis = basis_for_compress(
        method.default_basis,
        source.adapter,
        base=None if request.base is None else Path(request.base),
        basis=Path(request.basis) if isinstance(request.basis, str) else request.basis,
        size=getattr(config, "rank", None),
        embed=request.embed_basis,
    )
    return basis.to(device)


def _bank(method: AnyMethod, request: Request, device: torch.device) -> Basis | None:
    """The bank that a request gives to a method with use for one."""
    if request.basis is None or not method.takes_bank or not holds_bank(request.basis):
        return None
    return bank_for_compress(request.basis).to(device)


def _kept_outside(bank: Basis, request: Request) -> Basis | None:
    return None if request.embed_basis else bank


def configure(method: Family[ConfigT], options: Mapping[str, Any]) -> ConfigT:
    """A method's configuration with these options set.

    Raises:
        UsageError: if it has no such option, or one is out of range.
    """
    known = option_names(method)
    unknown = sorted(options.keys() - set(known))
    if unknown:
        raise UsageError(f"method {method.name!r} has no option {unknown[0]!r}", hint=said_options(known))
    return method.config_type(**options)


def option_names(method: AnyFamily) -> list[str]:
    """Names of a method's own options, sorted."""
    return sorted(field.name for field in dataclasses.fields(method.config_type))


def said_options(names: Sequence[str]) -> str:
    """The hint that tells a method's options."""
    return f"its options: {', '.join(names)}" if names else "it has no options"
