"""From a compressed adapter back to factors."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Literal, cast, get_args, get_origin, get_type_hints

import torch
from torch import Tensor

from adaptzip.adz.coding.grouping import decode_group
from adaptzip.adz.coding.modules import AnyCoder, Coder, decode_module, decode_shared
from adaptzip.adz.coding.packing import check_finite, unpack_basis, unpack_factors, unpack_tensors
from adaptzip.adz.container.reader import open_adz
from adaptzip.bases.resolve import basis_for_reconstruct
from adaptzip.checkpoints import resolved, vet
from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.core.basis import Basis
from adaptzip.core.compressed import PARTS, Compressed, ExtraEntry, Site
from adaptzip.core.family import AnyFamily, MethodConfig
from adaptzip.core.function_method import FunctionMethod
from adaptzip.core.gains import divisor
from adaptzip.core.layouts import Layout
from adaptzip.core.workers import parallel_map
from adaptzip.errors import CheckpointError, FormatError, RefusedError, UsageError, naming
from adaptzip.files.dtypes import DTYPES
from adaptzip.methods import load, names


@dataclass(frozen=True, eq=False)
class Decoded:
    """One module, decoded.

    Attributes:
        tensors: what the method stores of it, what all modules share and its basis, by role; {} for a zero update.
        A, B: the factors made of them, gain undone; the matrices of a function where the method is not linear.
        gain: what A was multiplied by to undo the gain.
    """

    tensors: Mapping[str, Tensor]
    A: Tensor
    B: Tensor
    gain: float = 1.0


def reconstruct(
    source: Compressed | str | Path,
    *,
    modules: Collection[str] | None = None,
    device: str | torch.device = "cpu",
    base: str | Path | None = None,
    basis: str | Path | Basis | None = None,
) -> Adapter:
    """The adapter that a compressed one stands for; exact, and the same on every machine.

    A file of functions, which no weights can hold, stands for none: see `adaptzip.restoring.functions`.

    Args:
        source: a `Compressed` or the path of a `.adz` file.
        modules: decode these modules only; extras are left out then.
        device: where the tensors are put after they were decoded.
        base: folder of the base model, where the basis is that of its weights.
        basis: the basis artefact or its path, where the file names one.

    Raises:
        FormatError: if the file is damaged, a factor in it is not finite, or its configuration is malformed.
        UsageError: if a module is asked for that the file does not have.
        RefusedError: if the method, its version or one of its options is unknown, the basis is missing or another,
            the file holds functions, or its configuration asks for more than W + s*B@A.

    Example:
        >>> adapter = adaptzip.read("my-adapter")
        >>> again = adaptzip.reconstruct(adaptzip.compress(adapter, max_error=0.1))
        >>> name = "bert.encoder.layer.0.attention.self.query"
        >>> before, after = adapter.modules[name].delta(), again.modules[name].delta()
        >>> bool((after - before).norm() < 0.3 * before.norm())
        True
    """
    if isinstance(source, Compressed):
        return _reconstruct(source, modules, device, base, basis)
    compressed = open_adz(source)
    with naming(source, FormatError, RefusedError):
        return _reconstruct(compressed, modules, device, base, basis)


def _reconstruct(
    compressed: Compressed,
    modules: Collection[str] | None,
    device: str | torch.device,
    base: str | Path | None,
    basis: str | Path | Basis | None,
) -> Adapter:
    unknown = sorted(set(modules or ()) - compressed.sites.keys())
    if unknown:
        raise UsageError(f"module {unknown[0]!r} is not in the file", hint="`adaptzip inspect` lists its modules")
    wanted = [name for name in compressed.sites if modules is None or name in modules]
    refuse_functions(compressed)
    if compressed.lossless:
        chunks = dict(zip(compressed.sites, compressed.chunks, strict=True))
        plain = {name: unpack_factors(chunks[name], compressed.sites[name], name) for name in wanted}
    else:
        plain = {name: _factors(compressed.sites[name], d) for name, d in decode(compressed, wanted, base, basis)}
    moved = {name: dataclasses.replace(m, A=m.A.to(device), B=m.B.to(device)) for name, m in plain.items()}
    return _assembled(compressed, moved, complete=modules is None)


def reconstruct_native(
    compressed: Compressed, *, base: str | Path | None = None, basis: str | Path | Basis | None = None
) -> tuple[dict[str, Decoded], Adapter]:
    """Every module of a file that is not lossless in the method's own tensors, and the adapter that they make.

    A file of functions makes none: its `modules` hold the functions' matrices then.

    Raises:
        FormatError, RefusedError: as `reconstruct`.
    """
    decoded = dict(decode(compressed, compressed.modules, base, basis))
    plain = {name: _factors(compressed.sites[name], found) for name, found in decoded.items()}
    return decoded, _assembled(compressed, plain, complete=True)


def holds_functions(compressed: Compressed) -> bool:
    """Whether a file changes no weights, but puts functions behind layers.

    Raises:
        RefusedError: if its method is unknown.
    """
    # A lossless file of updates needs no method; one of functions has no modules, but their tensors among its extras.
    return not (compressed.lossless and compressed.sites) and isinstance(_method(compressed), FunctionMethod)


def refuse_functions(compressed: Compressed) -> None:
    """Raises: RefusedError: if a file holds functions, which are no adapter."""
    if holds_functions(compressed):
        raise RefusedError(
            f"method {compressed.method!r} is not linear: its functions behind layers are no update of weights, so "
            "that they can't be merged, exported as one or compared with one",
            hint="`adaptzip eval` runs them; distill with another --to for an update",
        )


def _assembled(compressed: Compressed, modules: Mapping[str, LoraFactors], *, complete: bool) -> Adapter:
    """The adapter of decoded modules, with its extras where it is complete."""
    extras, magnitudes, biases = extras_of(compressed) if complete else ({}, {}, {})
    whole = {
        name: dataclasses.replace(module, magnitude=magnitudes.get(name), bias=biases.get(name))
        for name, module in modules.items()
    }
    meta = dataclasses.replace(compressed.meta, dtype=None if compressed.lossless else DTYPES[compressed.dtype])
    if compressed.lossless and meta.header is not None:
        parts = {key: extras.pop(key) for key in [key for key in extras if key.startswith(PARTS)]}
        meta = dataclasses.replace(meta, parts={key.removeprefix(PARTS): t for key, t in parts.items()})
    adapter = Adapter(whole, extras, meta)
    return _vetted(adapter) if complete else adapter


def _vetted(adapter: Adapter) -> Adapter:
    """Vetted and resolved like a folder; what is malformed there breaks a file."""
    try:
        vet(adapter, "the configuration in it")
        return resolved(adapter)
    except CheckpointError as error:
        raise FormatError(str(error), hint=error.hint) from error


def _factors(site: Site, decoded: Decoded) -> LoraFactors:
    return LoraFactors(decoded.A, decoded.B, 1.0, cast("Layout", site.layout), site.kernel)


def decode(
    compressed: Compressed,
    names: Sequence[str],
    base: str | Path | None = None,
    basis: str | Path | Basis | None = None,
) -> Iterator[tuple[str, Decoded]]:
    """Modules of a file that is not lossless, in the method's own tensors and as factors.

    Raises:
        FormatError, RefusedError: as `reconstruct`.
    """
    coder = coder_of(compressed, base, basis)
    stored = any(map(len, (compressed.shared, compressed.grouped, *compressed.chunks)))
    shared = decode_shared(coder, compressed.shared, compressed.step) if stored else {}
    own_tensors = _own_tensors(coder, compressed)
    gains = dict(zip(compressed.sites, compressed.gains, strict=True)) if compressed.gains else {}

    def module(name: str) -> Decoded:
        site = compressed.sites[name]
        own = own_tensors(name)
        if not own:
            return Decoded({}, torch.zeros(0, site.width), torch.zeros(site.out, 0))
        tensors = {**shared, **coder.basis_tensors(name), **own}
        A, B = coder.method.reconstruct(tensors, site, coder.config)
        gain = divisor(gains[name]) if name in gains else 1.0
        if name in gains:
            A = A * gain
        for letter, factor in (("A", A), ("B", B)):
            check_finite(factor, f"{letter} of module {name!r}")
        return Decoded(tensors, A.contiguous(), B.contiguous(), gain)

    yield from zip(names, parallel_map(module, names), strict=True)


def _own_tensors(coder: AnyCoder, compressed: Compressed) -> Callable[[str], dict[str, Tensor]]:
    """What gives the tensors of a module, by its name; {} for a zero update. A group is decoded at once."""
    if compressed.grouped:
        group = decode_group(coder, compressed.grouped, compressed.step)
        return lambda name: group[name][1] if name in group else {}
    chunks = dict(zip(compressed.sites, compressed.chunks, strict=True))
    return lambda name: decode_module(coder, chunks[name], compressed.step, name)


def coder_of(
    compressed: Compressed, base: str | Path | None = None, basis: str | Path | Basis | None = None
) -> AnyCoder:
    """What the modules of a file are decoded with.

    Raises:
        FormatError, RefusedError: as `reconstruct`.
    """
    method = _method(compressed)
    try:
        config: MethodConfig = method.config_type(**_options(method, compressed.config))
    except (TypeError, UsageError) as error:
        raise FormatError(f"metadata: 'config' does not fit method {method.name!r}: {error}") from error
    found = None
    if compressed.gains and isinstance(method, FunctionMethod):
        raise FormatError(f"there are gains, which method {method.name!r} has no use for")
    if method.needs_basis != (compressed.basis is not None):
        raise FormatError(f"metadata: 'basis' is missing, or method {method.name!r} has no use for it")
    if compressed.basis is not None:
        found = basis_for_reconstruct(
            compressed.basis, compressed.sites, base=base, basis=basis, embedded=_embedded(compressed)
        )
    return Coder(method, config, compressed.sites, compressed.max_rank, found)


def _options(method: AnyFamily, config: Mapping[str, Any]) -> dict[str, Any]:
    """A file's options, each of the type that the method declares; whole numbers stand for float ones too.

    Raises:
        TypeError: if one is of another type.
        UsageError: if a number is beyond all sense.
    """
    types = get_type_hints(method.config_type)
    return {key: _typed(key, value, types[key]) for key, value in config.items() if key in types}


def _typed(key: str, value: Any, declared: Any) -> Any:
    kinds = _kinds(declared)
    if type(value) is int and abs(value) >= 2**63:
        raise UsageError(f"{key} is beyond 2^63")
    if type(value) is int and int not in kinds and float in kinds:
        return float(value)
    if type(value) not in kinds:
        raise TypeError(f"{key} is of the wrong type")
    return value


def _kinds(declared: Any) -> set[type]:
    """The types that a declared one allows: a union's, and those of a literal's values."""
    inner = get_args(declared)
    if get_origin(declared) is Literal:
        return set(map(type, inner))
    return set().union(*map(_kinds, inner)) if inner else {declared}


def _embedded(compressed: Compressed) -> Basis | None:
    if compressed.basis is None or not compressed.basis_sizes:
        return None
    modules = unpack_basis(compressed.basis_sizes, compressed.basis_payload, compressed.sites)
    return Basis(modules, compressed.basis)


def _method(compressed: Compressed) -> AnyFamily:
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


def _shapes(entry: ExtraEntry, site: Site) -> tuple[tuple[int, ...], ...]:
    """The shapes that a module's magnitude or bias may have; a magnitude may be one for each input as well."""
    by_input = [(1, site.width // prod(site.kernel))] if entry.role == "magnitude" else []
    return ((site.out,), *by_input)


def extras_of(compressed: Compressed) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """Extras by key, DoRA magnitudes by module, LoRA biases by module."""
    tables: dict[str, dict[str, Tensor]] = {"extra": {}, "magnitude": {}, "bias": {}}
    for entry, tensor in zip(compressed.extras.entries, unpack_tensors(compressed.extras), strict=True):
        if entry.role not in tables:
            raise FormatError(f"extra {entry.name!r} has unknown role {entry.role!r}")
        site = compressed.sites.get(entry.name)
        if entry.role != "extra" and (site is None or entry.shape not in _shapes(entry, site)):
            raise FormatError(f"the {entry.role} of {entry.name!r} does not fit a module of the file")
        if entry.role != "extra":
            if not (tensor.is_floating_point() and tensor.dtype.itemsize > 1):
                raise FormatError(f"the {entry.role} of {entry.name!r} is {entry.dtype}, expected F32 or the like")
            check_finite(tensor, f"the {entry.role} of {entry.name!r}")
        tables[entry.role][entry.name] = tensor
    return tables["extra"], tables["magnitude"], tables["bias"]
