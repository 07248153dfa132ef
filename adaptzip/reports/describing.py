"""What there is to know about an adapter before compressing it, as plain data."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor

from adaptzip.core import words
from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.core.batching import group_by_shape
from adaptzip.core.linalg import factored_values
from adaptzip.core.progress import Progress, silent
from adaptzip.core.showing import Shown

RANKS = (1, 2, 4, 8, 16, 32, 64, 128)
"""Where the captured energy is reported."""
_TOGETHER = 2**20
"""Numbers of tensors that are looked at together, unless one has more."""


@dataclass(frozen=True)
class ModuleReport:
    """One module.

    Attributes:
        name: the module.
        shape: (out, in) of its update.
        rank: of its factors.
        scaling: what B @ A is multiplied by.
        norm: Frobenius norm of the update.
        effective_rank: exp of the entropy of the singular values' shares (Roy and Vetterli, 2007); 0 if zero.
        energy: share of |dW|^2 in the top k components, by k.
        layout: see `adaptzip.core.layouts.Layout`.
    """

    name: str
    shape: tuple[int, int]
    rank: int
    scaling: float
    norm: float
    effective_rank: float
    energy: Mapping[int, float]
    layout: str

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON values."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return values | {"shape": list(self.shape), "energy": _by_text(self.energy)}


@dataclass(frozen=True)
class ExtraReport:
    """A tensor that is no factor: its key in the file, dtype, shape and size."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int


@dataclass(frozen=True)
class DtypeReport:
    """All tensors of one dtype.

    Attributes:
        dtype: its name.
        tensors, bytes: how many there are and their size.
        exact_bfloat16, exact_float16: of float32 tensors other than zero, how many hold only values of the
            shorter dtype.
    """

    dtype: str
    tensors: int
    bytes: int
    exact_bfloat16: int = 0
    exact_float16: int = 0


@dataclass(frozen=True, repr=False)
class AdapterReport(Shown):
    """A whole adapter.

    Attributes:
        modules: every module, sorted by name.
        energy: share of |dW|^2 over all modules in each module's top k components, by k.
        effective_rank: mean over the modules that are not zero.
        zero_modules: names of the modules whose update is zero.
        factor_bytes, extras_bytes: size of the factors (with DoRA magnitudes and biases) and of the extras.
        extras: every extra.
        dtypes: what the tensors are stored in.
        config: the fields of the configuration that change what the adapter does.
        base_model: as the adapter names it, or None.
        dialect: the checkpoint's dialect.
    """

    modules: tuple[ModuleReport, ...]
    energy: Mapping[int, float]
    effective_rank: float
    zero_modules: tuple[str, ...]
    factor_bytes: int
    extras_bytes: int
    extras: tuple[ExtraReport, ...]
    dtypes: tuple[DtypeReport, ...]
    config: Mapping[str, Any]
    base_model: str | None
    dialect: str

    @property
    def is_zero(self) -> bool:
        """Whether every update is zero, as in an adapter that was never trained, or whose alpha is 0."""
        return len(self.zero_modules) == len(self.modules)

    @property
    def unscaled_modules(self) -> tuple[str, ...]:
        """Names of the modules whose update is zero because their scale is."""
        return tuple(m.name for m in self.modules if m.scaling == 0)

    @property
    def extras_share(self) -> float:
        """Share of the extras in the bytes of all tensors."""
        return self.extras_bytes / max(1, self.extras_bytes + self.factor_bytes)

    @property
    def parameters(self) -> int:
        """Numbers in all factors."""
        return sum(m.rank * sum(m.shape) for m in self.modules)

    def _told(self) -> Iterator[str]:
        yield self.dialect
        yield words.count(len(self.modules), "module")
        yield words.count(self.parameters, "parameter")
        yield f"effective rank {self.effective_rank:.1f}"
        yield f"{words.size(self.extras_bytes)} of extras" if self.extras else ""
        yield f"base model {self.base_model}" if self.base_model else ""

    def _rows(self) -> tuple[Sequence[str], Iterator[Sequence[str]]]:
        rows = (
            (m.name, f"{m.shape[0]} x {m.shape[1]}", str(m.rank), words.number(m.scaling), words.number(m.norm),
             f"{m.effective_rank:.1f}")
            for m in self.modules
        )  # fmt: skip
        return ("module", "out x in", "rank", "scaling", "norm", "effective rank"), rows

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON values."""
        return {
            "dialect": self.dialect,
            "base_model": self.base_model,
            "parameters": self.parameters,
            "modules": [m.as_dict() for m in self.modules],
            "energy": _by_text(self.energy),
            "effective_rank": self.effective_rank,
            "all_zero": self.is_zero,
            "zero_modules": list(self.zero_modules),
            "factor_bytes": self.factor_bytes,
            "extras_bytes": self.extras_bytes,
            "extras_share": self.extras_share,
            "extras": [asdict(e) | {"shape": list(e.shape)} for e in self.extras],
            "dtypes": [asdict(d) for d in self.dtypes],
            "config": dict(self.config),
        }


def describe(adapter: Adapter, progress: Progress | None = None) -> AdapterReport:
    """Describe an adapter; its spectra come from the factored SVD.

    Args:
        progress: told how far it is (`adaptzip.core.progress.Progress`).
    """
    spectra = _spectra(adapter.modules, progress or silent)
    figures = _figures(spectra)
    modules = tuple(_module(name, m, figures[name]) for name, m in adapter.modules.items())
    alive = [m.effective_rank for m in modules if m.norm > 0]
    factors = [t for m in adapter.modules.values() for t in _tensors(m)]
    extras = tuple(ExtraReport(name, _name(t.dtype), tuple(t.shape), t.nbytes) for name, t in adapter.extras.items())
    return AdapterReport(
        modules=modules,
        energy=_energy(list(figures.values())),
        effective_rank=math.fsum(alive) / max(1, len(alive)),
        zero_modules=tuple(m.name for m in modules if m.norm == 0),
        factor_bytes=sum(t.nbytes for t in factors),
        extras_bytes=sum(e.bytes for e in extras),
        extras=extras,
        dtypes=_dtypes([*factors, *adapter.extras.values()]),
        config=_telling(adapter.meta.config),
        base_model=adapter.meta.base_model,
        dialect=adapter.meta.dialect,
    )


def _spectra(modules: Mapping[str, LoraFactors], report: Progress) -> dict[str, Tensor]:
    """Singular values of every update by module, float64 on the CPU, in the order of `modules`."""
    found: dict[str, Tensor] = {}
    for names in group_by_shape(modules):
        batch = [modules[name] for name in names]
        A, B = torch.stack([m.A for m in batch]), torch.stack([m.B for m in batch])
        scaling = torch.tensor([m.scaling for m in batch], dtype=torch.float64)
        found |= dict(zip(names, factored_values(A, B, scaling), strict=True))
        report("describing", len(found), len(modules))
    return {name: found[name] for name in modules}


@dataclass(frozen=True)
class _Figures:
    """What a module's singular values say: their norm, their effective rank, and squares of the top k for all k."""

    norm: float
    effective_rank: float
    top: Sequence[float]


def _figures(spectra: Mapping[str, Tensor]) -> dict[str, _Figures]:
    """Figures of each module, those of as many values together."""
    alike: dict[int, list[str]] = {}
    for name, values in spectra.items():
        alike.setdefault(len(values), []).append(name)
    found: dict[str, _Figures] = {}
    for count, names in alike.items():
        values = torch.stack([spectra[name] for name in names])
        total = values.sum(1, keepdim=True)
        entropy = torch.special.entr(values / total.clamp(min=torch.finfo(values.dtype).tiny)).sum(1)
        ranks = torch.where(total[:, 0] > 0, entropy.exp(), 0.0).tolist()
        norms = torch.linalg.vector_norm(values, dim=1).tolist() if count else [0.0] * len(names)
        tops = values.square().cumsum(1).tolist()
        for name, norm, rank, top in zip(names, norms, ranks, tops, strict=True):
            found[name] = _Figures(norm, rank, top)
    return found


def _module(name: str, module: LoraFactors, figures: _Figures) -> ModuleReport:
    return ModuleReport(
        name=name,
        shape=module.shape,
        rank=module.rank,
        scaling=module.scaling,
        norm=figures.norm,
        effective_rank=figures.effective_rank,
        energy=_energy([figures]),
        layout=module.layout,
    )


def _energy(modules: Sequence[_Figures]) -> dict[int, float]:
    """Share of the squared singular values in the top k of each module, up to the first k that holds all."""
    total = math.fsum(m.top[-1] for m in modules if m.top)
    most = max((len(m.top) for m in modules), default=0)
    kept = [k for i, k in enumerate(RANKS) if i == 0 or RANKS[i - 1] < most]
    if total == 0:
        return {k: 0.0 for k in kept}
    return {k: math.fsum(m.top[min(k, len(m.top)) - 1] for m in modules if m.top) / total for k in kept}


def _tensors(module: LoraFactors) -> list[Tensor]:
    return [t for t in (module.A, module.B, module.magnitude, module.bias) if t is not None]


def _dtypes(tensors: Sequence[Tensor]) -> tuple[DtypeReport, ...]:
    groups: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        groups.setdefault(tensor.dtype, []).append(tensor)
    return tuple(
        DtypeReport(
            _name(dtype),
            len(group),
            sum(t.nbytes for t in group),
            _holding(group, torch.bfloat16),
            _holding(group, torch.float16),
        )
        for dtype, group in sorted(groups.items(), key=lambda item: str(item[0]))
    )


def _holding(tensors: Sequence[Tensor], shorter: torch.dtype) -> int:
    """How many tensors of one dtype are float32 and not zero, and hold only values of a shorter dtype."""
    if not tensors or tensors[0].dtype != torch.float32:
        return 0
    alike: dict[int, list[Tensor]] = {}
    for tensor in tensors:
        alike.setdefault(tensor.numel(), []).append(tensor)
    count = 0
    for numbers, group in alike.items():
        many = max(1, _TOGETHER // max(1, numbers))
        for first in range(0, len(group), many):
            rows = torch.stack([tensor.flatten() for tensor in group[first : first + many]])
            held = (rows.to(shorter).to(torch.float32) == rows).all(1) & (rows != 0).any(1)
            count += int(held.sum())
    return count


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _telling(config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a configuration that are set to something."""
    return {name: value for name, value in config.items() if value and value != "none"}


def _by_text(values: Mapping[int, float]) -> dict[str, float]:
    return {str(k): v for k, v in values.items()}
