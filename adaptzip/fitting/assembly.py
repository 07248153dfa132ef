"""Putting together what was coded: a `Compressed`, and how large its file will be."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import reduce
from typing import Any

import torch

from adaptzip._version import __version__
from adaptzip.adz.coding.grouping import group
from adaptzip.adz.coding.modules import CodedModule
from adaptzip.adz.coding.packing import pack_basis, pack_factors
from adaptzip.adz.container import writer
from adaptzip.bases.frames import first_values, start_numbers
from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.core.basis import Basis
from adaptzip.core.compressed import Compressed, Provenance, Site
from adaptzip.core.family import MethodConfig
from adaptzip.files.dtypes import NAMES
from adaptzip.fitting.fits import CodedAdapter, FittedAdapter
from adaptzip.fitting.requests import Job, Original

LONGEST_ERROR = 0.000123456
"""A relative error that takes as much room as any."""
_EMPTY = CodedModule(b"", 0.0, 0)


def assemble(job: Job, fitted: FittedAdapter, step: float, coded: CodedAdapter, error: float) -> Compressed:
    """A compressed adapter of coded modules.

    Args:
        error: relative error |dW - dW'| / |dW|.
    """
    basis = fitted.coder.basis
    embedded = basis is not None and basis.reference.source == "embedded"
    sizes: Sequence[int] = [site.frame for site in fitted.sites.values()]
    payload = b""
    if basis is not None and embedded:
        sizes, payload = pack_basis(basis, fitted.sites)
    return Compressed(
        method=fitted.method.name,
        method_version=fitted.method.version,
        config=stored_options(fitted.config),
        sites={name: replace(site, frame=0, number=0) for name, site in fitted.sites.items()},
        max_rank=fitted.max_rank,
        chunks=[coded.modules.get(name, _EMPTY).chunk for name in fitted.sites],
        grouped=group(fitted.coder, coded.modules),
        step=step,
        provenance=_provenance(job.source, job.request.seed, error, coded.numbers + fitted.basis_numbers),
        extras=job.source.extras,
        meta=job.adapter.meta.described,
        dtype=factor_dtype(job.adapter),
        shared=coded.shared.chunk,
        gains=[fitted.gains.get(name, 0) for name in fitted.sites] if fitted.gains else (),
        # Where nothing is coded, no bank is needed.
        basis=None if basis is None or (basis.bank is not None and not coded.modules) else basis.reference,
        basis_sizes=sizes if any(sizes) else (),
        basis_payload=payload,
    )


def file_size(job: Job, fitted: FittedAdapter, step: float, coded: CodedAdapter, error: float) -> int:
    """Bytes of the whole file."""
    return writer.size(assemble(job, fitted, step, coded, error))


def fixed_size(compressed: Compressed) -> int:
    """Bytes of the file without any module: header, tables, extras and an embedded basis."""
    return writer.size(replace(compressed, chunks=[b""] * len(compressed.sites), grouped=b"", shared=b""))


def exact(source: Original, method: str, version: int, seed: int) -> tuple[Compressed, int | None]:
    """A lossless file: every factor as it is, or every tensor of functions, which are extras.

    Of modules whose A began with known numbers, the steps that it moved are stored where that is smaller.

    Returns:
        The file, and the bytes of blocks that this saves; None where it saves none.
    """
    modules = dict(sorted(source.adapter.modules.items()))
    functions = () if modules else source.adapter.extras.values()
    parameters = source.adapter.parameters + sum(tensor.numel() for tensor in functions)
    sites = {name: Site(*m.shape, m.layout, m.kernel) for name, m in modules.items()}
    chunks = {name: pack_factors(module) for name, module in modules.items()}
    moved = _moved(source.frames, modules, sites, chunks)
    frames = source.frames.of(moved) if source.frames is not None and moved else None
    sizes = [modules[name].rank if name in moved else 0 for name in modules]
    saved = sum(len(chunks[name]) - len(less) for name, less in moved.items()) if moved else None
    compressed = Compressed(
        method=method,
        method_version=version,
        config={"lossless": True},
        sites=sites,
        max_rank=max((m.rank for m in modules.values()), default=0),
        chunks=list((chunks | moved).values()),
        step=0.0,
        provenance=_provenance(source, seed, 0.0, parameters),
        extras=source.extras,
        meta=replace(source.adapter.meta, dtype=None),
        basis=None if frames is None else frames.reference,
        basis_sizes=sizes if moved else (),
    )
    return compressed, saved


def _moved(
    frames: Basis | None, modules: Mapping[str, LoraFactors], sites: Mapping[str, Site], chunks: Mapping[str, bytes]
) -> dict[str, bytes]:
    """Blocks that are smaller with the steps from a start in place of A."""
    start = None if frames is None else frames.reference.start
    if frames is None or start is None:
        return {}
    sizes = {name: module.size for name, module in sorted(frames.modules.items())}
    found = {}
    for name, numbers in start_numbers(start, sites, sizes):
        module = modules[name]
        less = pack_factors(module, first_values(start.generator, numbers).to(module.A.dtype))
        if len(less) < len(chunks[name]):
            found[name] = less
    return found


def factor_dtype(adapter: Adapter) -> str:
    """Safetensors' name of the narrowest dtype that holds all factors, or did before they were decoded; at most F32."""
    if adapter.meta.dtype is not None:
        return NAMES[adapter.meta.dtype]
    dtypes = {tensor.dtype for module in adapter.modules.values() for tensor in (module.A, module.B)}
    widest = reduce(torch.promote_types, dtypes)
    return "F32" if widest == torch.float64 else NAMES[widest]


def stored_options(config: MethodConfig) -> dict[str, Any]:
    """A method's configuration without what has its default."""
    fields = dataclasses.fields(config)
    values = {field.name: getattr(config, field.name) for field in fields}
    return {field.name: values[field.name] for field in fields if values[field.name] != field.default}


def _provenance(source: Original, seed: int, error: float, parameters: int) -> Provenance:
    return Provenance(
        made_by=f"adaptzip {__version__}",
        source_bytes=source.bytes,
        source_hash=source.hash,
        relative_error=float(f"{error:.6g}"),
        parameters=parameters,
        seed=seed,
    )
