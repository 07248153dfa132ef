"""Any method, named as for `--to`, on any adapter: with the basis that it needs, down to one coded module."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any

from torch import Tensor

from adaptzip import methods
from adaptzip.adz.coding.coders import Coder
from adaptzip.adz.coding.decoding import decode_module, decode_shared
from adaptzip.adz.coding.modules import CodedBlock, CodedModule, code_modules, code_shared
from adaptzip.bases.artefact import write_basis
from adaptzip.bases.updates import build_basis
from adaptzip.core.adapter import Adapter
from adaptzip.core.budget import Budget
from adaptzip.core.compressed import Compressed, Site
from adaptzip.core.method import AnyMethod
from adaptzip.core.sensitivity import Sensitivity
from adaptzip.fitting import compression
from adaptzip.fitting.candidates import candidates, fit_candidate
from adaptzip.fitting.fits import FittedAdapter
from adaptzip.fitting.loading import load_source
from adaptzip.fitting.requests import Job, Request, prepare_job


def needs(name: str, source: Adapter) -> dict[str, Any]:
    """What `adaptzip.compress` must be given for this method: a basis that holds the whole update, if any."""
    if not methods.load(name).needs_basis:
        return {}
    return {"basis": build_basis([source]), "embed_basis": True}


def needs_file(name: str, source: Adapter, path: Path) -> dict[str, Any]:
    """As `needs`, with the basis in a file at `path`, which is written if it is not there."""
    if not methods.load(name).needs_basis:
        return {}
    if not path.exists():
        write_basis(build_basis([source]), path)
    return {"basis": path, "embed_basis": False}


def limits_of(name: str, source: Adapter, error: float) -> dict[str, Any]:
    """An error to ask for; of a method whose fits keep little a number of parameters, the more the smaller it is."""
    if not methods.load_fittable(name).fits_little:
        return {"max_error": error}
    return {"budget": str(ceil((1 - error) * stored_numbers(name, source)))}


def stored_numbers(name: str, source: Adapter) -> int:
    """Numbers that hold the whole of an update, those of its factors, or of its core in a basis; of a method whose fits
    keep little, some that it can make use of."""
    if methods.load_fittable(name).fits_little:
        return sum(2 * module.shape[0] for module in source.modules.values())
    if methods.load(name).needs_basis:
        return sum(module.rank**2 for module in source.modules.values())
    return source.parameters


def compress(name: str, source: Adapter, *args: Any, **options: Any) -> Compressed:
    """`adaptzip.compress` with this method, on the CPU."""
    asked: dict[str, Any] = {"to": name, "device": "cpu", **needs(name, source), **options}
    return compression.compress(source, *args, **asked)


def job_of(name: str, source: Adapter, sensitivities: Mapping[str, Sensitivity] | None = None, **options: Any) -> Job:
    """A job; an error of 0.2 is asked for, as `limits_of` has it, where `options` do not say otherwise."""
    asked: dict[str, Any] = {
        "to": name,
        "device": "cpu",
        **needs(name, source),
        **(options or limits_of(name, source, 0.2)),
    }
    request = Request(**{**asked, "budget": Budget.of(asked.get("budget"))})
    loaded = load_source(source, request)
    if sensitivities is not None:
        loaded = replace(loaded, sensitivities=sensitivities)
    return prepare_job(loaded, request)


def fit(name: str, source: Adapter, **options: Any) -> FittedAdapter:
    """The best candidate, fitted."""
    job = job_of(name, source, **options)
    return fit_candidate(job, candidates(job)[0])


@dataclass(frozen=True, eq=False)
class OneModule:
    """A module that was coded and decoded.

    Attributes:
        tensors: as decoded, with the shared ones and the basis.
        own: the module's own among them.
    """

    coder: Coder[AnyMethod]
    site: Site
    rank: int
    shared: CodedBlock
    coded: CodedModule
    own: Mapping[str, Tensor]
    tensors: Mapping[str, Tensor]

    def factors(self, tensors: Mapping[str, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """A (rank, in) and B (out, rank), of these tensors or the decoded ones."""
        made: tuple[Tensor, Tensor] = self.coder.method.reconstruct(
            tensors or self.tensors, self.site, self.coder.config
        )
        return made

    def delta(self) -> Tensor:
        """The dense update, float64."""
        A, B = self.factors()
        return B.double() @ A.double()


def code_one(fitted: FittedAdapter, module: str, step: float, rank: int | None = None) -> OneModule:
    """Code and decode one module of an adapter."""
    coder = fitted.coder
    rank = fitted.ranks(step)[module] if rank is None else rank
    shared = code_shared(coder, fitted.prepared, step)
    coded = code_modules(coder, shared, {module: fitted.kept[module]}, {module: rank}, step)[module]
    own = decode_module(coder, coded.chunk, step, module)
    shared_tensors = decode_shared(coder, shared.chunk, step)
    tensors = {**shared_tensors, **coder.basis_tensors(module), **own}
    return OneModule(coder, coder.sites[module], rank, shared, coded, own, tensors)


def all_zero(compressed: Compressed) -> bool:
    """Whether no module is kept."""
    return not any(map(len, compressed.chunks))
