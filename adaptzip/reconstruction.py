"""From a compressed adapter back to factors."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from adaptzip.adapter import Adapter, Layout, LoraFactors, Meta
from adaptzip.coding.modules import decode_module
from adaptzip.compressed import Buffer, Compressed, Site
from adaptzip.container.reader import open_adz
from adaptzip.errors import FormatError, RefusedError, UsageError
from adaptzip.methods import load, names
from adaptzip.methods._base import Method
from adaptzip.packing import unpack_factors, unpack_tensors
from adaptzip.workers import parallel_map


def reconstruct(
    source: Compressed | str | Path,
    *,
    modules: Collection[str] | None = None,
    device: str | torch.device = "cpu",
) -> Adapter:
    """The adapter that a compressed one stands for; exact, and the same on every machine.

    Args:
        source: a `Compressed` or the path of a `.adz` file.
        modules: decode these modules only; extras are left out then.
        device: where the tensors are put after they were decoded.

    Raises:
        FormatError: if the file is damaged.
        UsageError: if a module is asked for that the file does not have.
        RefusedError: if the method, its version or one of its options is unknown.
    """
    if isinstance(source, Compressed):
        return _reconstruct(source, modules, device)
    compressed = open_adz(source)
    try:
        return _reconstruct(compressed, modules, device)
    except (FormatError, RefusedError) as error:
        raise type(error)(f"{source}: {error}", hint=error.hint) from error


def _reconstruct(compressed: Compressed, modules: Collection[str] | None, device: str | torch.device) -> Adapter:
    unknown = sorted(set(modules or ()) - compressed.sites.keys())
    if unknown:
        raise UsageError(f"module {unknown[0]!r} is not in the file", hint="`adaptzip inspect` lists its modules")
    method = _method(compressed)
    extras, magnitudes, biases = _extras(compressed) if modules is None else ({}, {}, {})

    def factors(item: tuple[str, Buffer]) -> LoraFactors:
        name, chunk = item
        plain = _decode(compressed, method, name, compressed.sites[name], chunk)
        return dataclasses.replace(
            plain,
            A=plain.A.to(device),
            B=plain.B.to(device),
            magnitude=magnitudes.get(name),
            bias=biases.get(name),
        )

    chunks = {
        name: chunk
        for name, chunk in zip(compressed.sites, compressed.chunks, strict=True)
        if modules is None or name in modules
    }
    decoded = dict(zip(chunks, parallel_map(factors, chunks.items()), strict=True))
    meta = Meta(
        dialect=compressed.dialect,
        config=compressed.meta_config,
        base_model=compressed.base_model,
        header=compressed.source_header,
        config_text=compressed.source_config_text,
    )
    return Adapter(decoded, extras, meta)


def _method(compressed: Compressed) -> Method:
    if compressed.method not in names():
        raise RefusedError(
            f"the file was made by method {compressed.method!r}, which is not installed",
            hint="install a newer adaptzip, or the package that brings the method",
        )
    method = load(compressed.method)
    if compressed.method_version > method.version:
        raise RefusedError(
            f"method {compressed.method!r} version {compressed.method_version} is newer than {method.version}",
            hint="install a newer adaptzip",
        )
    known = {"lossless", *(field.name for field in dataclasses.fields(method.config_type))}
    unknown = sorted(compressed.config.keys() - known)
    if unknown:
        message = f"method {compressed.method!r} has no option {unknown[0]!r}"
        raise RefusedError(message, hint="install a newer adaptzip")
    return method


def _extras(compressed: Compressed) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """Extras by key, DoRA magnitudes by module, LoRA biases by module."""
    tables: dict[str, dict[str, Tensor]] = {"extra": {}, "magnitude": {}, "bias": {}}
    for entry, tensor in zip(compressed.extras.entries, unpack_tensors(compressed.extras), strict=True):
        if entry.role not in tables:
            raise FormatError(f"extra {entry.name!r} has unknown role {entry.role!r}")
        site = compressed.sites.get(entry.name)
        if entry.role != "extra" and (site is None or entry.shape != (site.out,)):
            raise FormatError(f"the {entry.role} of {entry.name!r} does not fit a module of the file")
        tables[entry.role][entry.name] = tensor
    return tables["extra"], tables["magnitude"], tables["bias"]


def _decode(compressed: Compressed, method: Method, name: str, site: Site, chunk: Buffer) -> LoraFactors:
    if compressed.lossless:
        return unpack_factors(chunk, site, name)
    layout = cast("Layout", site.layout)
    if len(chunk) == 0:
        return LoraFactors(torch.zeros(0, site.width), torch.zeros(site.out, 0), 1.0, layout, site.kernel)
    tensors = decode_module(method, chunk, site, compressed.max_rank, compressed.step, name)
    A, B = method.reconstruct(tensors, site)
    return LoraFactors(A, B.contiguous(), 1.0, layout, site.kernel)
