"""From a compressed adapter back to factors."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from adaptzip.adz.coding.coders import AnyCoder, Coder, numbered
from adaptzip.adz.coding.packing import packed_rank, unpack_basis, unpack_factors
from adaptzip.adz.container.reader import open_adz
from adaptzip.bases.banks import bank_for_reconstruct
from adaptzip.bases.frames import reference_frames
from adaptzip.bases.named import artefact_beside
from adaptzip.bases.resolve import basis_for_reconstruct, frames_for_reconstruct
from adaptzip.bases.starts.files import read_start, start_note
from adaptzip.bases.starts.found import KeptStart
from adaptzip.checkpoints import resolved, vet
from adaptzip.checkpoints._base_name import is_local
from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.core.basis import Basis
from adaptzip.core.calling import public
from adaptzip.core.compressed import PARTS, Compressed, Site
from adaptzip.core.family import AnyFamily, MethodConfig
from adaptzip.core.function_method import FunctionMethod
from adaptzip.core.layouts import Layout
from adaptzip.core.limits import Limits, current
from adaptzip.core.linalg import choose_device
from adaptzip.core.workers import parallel_map
from adaptzip.errors import CheckpointError, FormatError, RefusedError, UsageError, naming
from adaptzip.files.dtypes import DTYPES
from adaptzip.files.names import ARTEFACTS
from adaptzip.restoring.decoding import Decoded, blocks, decode
from adaptzip.restoring.extras import extras_of
from adaptzip.restoring.families import config_of, family_of
from adaptzip.restoring.first_values import first_values_of
from adaptzip.restoring.opening import archive_file, open_checkpoint, understood


@public
def reconstruct(
    source: Compressed | str | Path,
    *,
    modules: Collection[str] | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    base: str | Path | None = None,
    basis: str | Path | Basis | None = None,
    limits: Limits | None = None,
) -> Adapter:
    """The adapter that a compressed one stands for; exact, and the same on every machine.

    A file of functions, which no weights can hold, stands for none: see `adaptzip.restoring.functions`.

    Args:
        source: a `Compressed` or the path of a `.adz` file.
        modules: decode these modules only; extras are left out then.
        device: where the tensors are put. A CUDA device decodes many modules itself, where that is faster.
        dtype: floating-point dtype of the factors; each module's are converted, with one rounding, as soon as it is
            decoded. None for float32, and for the source's own where the file is lossless.
        base: folder of the base model, where the basis is that of its weights.
        basis: the basis artefact, its path, or that of a store that has it, where the file names one; None looks for it
            beside the file, and in the store that the file lies in.
        limits: what a `.adz` file may make of itself; None for the usual ones (`adaptzip.Limits`).

    Raises:
        FormatError: if the file is damaged, a factor in it is not finite, or its configuration is malformed.
        UsageError: if a module is asked for that the file does not have, the dtype is none of floating point, or the
            device is none of this machine's.
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
        return _reconstruct(source, modules, _Place(choose_device(device), dtype), base, basis)
    compressed = open_adz(source)
    with naming(source, FormatError, RefusedError):
        return _reconstruct(compressed, modules, _Place(choose_device(device), dtype), base, basis)


_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


@dataclass(frozen=True)
class _Place:
    """Where factors are put, and in which dtype; None for their own."""

    device: str | torch.device
    dtype: torch.dtype | None

    def __post_init__(self) -> None:
        if self.dtype not in (None, *_FLOATS):
            raise UsageError(
                f"factors of {self.dtype!r} were asked for",
                hint="expected torch.float32, torch.float16, torch.bfloat16 or torch.float64",
            )

    def put(self, factors: LoraFactors) -> LoraFactors:
        A, B = (factor.to(self.device, self.dtype or factor.dtype) for factor in (factors.A, factors.B))
        return dataclasses.replace(factors, A=A, B=B)


def _reconstruct(
    compressed: Compressed,
    modules: Collection[str] | None,
    place: _Place,
    base: str | Path | None,
    basis: str | Path | Basis | None,
) -> Adapter:
    if isinstance(modules, str):
        raise UsageError(
            f"modules is the text {modules!r}, expected several names", hint=f"as in modules=[{modules!r}]"
        )
    unknown = sorted(set(modules or ()) - compressed.sites.keys())
    if unknown:
        raise UsageError(f"module {unknown[0]!r} is not in the file", hint="`adaptzip inspect` lists its modules")
    wanted = [name for name in compressed.sites if modules is None or name in modules]
    refuse_functions(compressed)
    if compressed.lossless:
        plain = {name: place.put(factors) for name, factors in _exact(compressed, wanted)}
    else:
        coder = coder_of(compressed, base, basis, only=wanted)

        def finish(name: str, found: Decoded, apart: Callable[[Tensor], Tensor]) -> LoraFactors:
            factors = place.put(_factors(coder.sites[name], found))
            return dataclasses.replace(factors, A=apart(factors.A), B=apart(factors.B))

        plain = dict(decode(compressed, wanted, coder, finish, torch.device(place.device), kept=False))
    return _assembled(compressed, plain, complete=modules is None)


def _exact(compressed: Compressed, names: Sequence[str]) -> Iterator[tuple[str, LoraFactors]]:
    """Modules of a lossless file."""
    block = blocks(compressed)
    sites = compressed.sites
    if not isinstance(compressed.chunks, tuple):  # What was made here was as large before.
        numbers = sum(packed_rank(block(name)) * (sites[name].out + sites[name].width) for name in names)
        current().room(sum(compressed.lengths)).check("numbers", numbers)
    first = first_values_of(compressed, names)

    def factors(name: str) -> LoraFactors:
        return unpack_factors(block(name), compressed.sites[name], name, first.get(name))

    return zip(names, parallel_map(factors, names), strict=True)


def reconstruct_native(
    compressed: Compressed, *, base: str | Path | None = None, basis: str | Path | Basis | None = None
) -> tuple[dict[str, Decoded], Adapter]:
    """Every module of a file that is not lossless in the method's own tensors, and the adapter that they make.

    A file of functions makes none: its `modules` hold the functions' matrices then.

    Raises:
        FormatError, RefusedError: as `reconstruct`.
    """
    coder = coder_of(compressed, base, basis)
    decoded = dict(decode(compressed, compressed.modules, coder, lambda _, found, __: found))
    plain = {name: _factors(compressed.sites[name], found) for name, found in decoded.items()}
    return decoded, _assembled(compressed, plain, complete=True)


def holds_functions(compressed: Compressed) -> bool:
    """Whether a file changes no weights, but puts functions behind layers.

    Raises:
        RefusedError: if its method is unknown.
    """
    # A lossless file of updates needs no method; one of functions has no modules, but their tensors among its extras.
    return not (compressed.lossless and compressed.sites) and isinstance(family_of(compressed), FunctionMethod)


def refuse_functions(compressed: Compressed) -> None:
    """Raises: RefusedError: if a file holds functions, which are no adapter."""
    if holds_functions(compressed):
        raise RefusedError(
            f"method {compressed.method!r} is not linear: its functions behind layers are no update of weights, so "
            "that they can't be merged, exported as one or compared with one",
            hint="`adaptzip eval` runs them; distill with another `to=` for an update",
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


def coder_of(
    compressed: Compressed,
    base: str | Path | None = None,
    basis: str | Path | Basis | None = None,
    *,
    only: Collection[str] | None = None,
) -> AnyCoder:
    """What the modules of a file are decoded with.

    Args:
        only: modules that are wanted, where making the basis or the frames of others can be saved.

    Raises:
        FormatError, RefusedError: as `reconstruct`.
    """
    method = family_of(compressed)
    config = config_of(compressed, method)
    if compressed.gains and isinstance(method, FunctionMethod):
        raise FormatError(f"there are gains, which method {method.name!r} has no use for")
    basis = _beside(compressed) if basis is None else basis
    found = _bank(compressed, method, config, basis) if method.takes_bank else None
    found = found or _basis(compressed, method, base, basis, only)
    return Coder(method, config, coder_sites(compressed, method), compressed.max_rank, found)


def _beside(compressed: Compressed) -> Path | None:
    """The basis or bank that a file refers to, where it lies beside the file or in the store around it."""
    if compressed.path is None or compressed.basis is None or compressed.basis.source not in ARTEFACTS:
        return None
    return artefact_beside(compressed.path, compressed.basis.hash)


def coder_sites(compressed: Compressed, method: AnyFamily) -> dict[str, Site]:
    """The modules of a file as its method is told of them: with their numbers, and frames where it takes them."""
    return numbered(compressed.sites, compressed.basis_sizes if method.takes_frame else ())


def _bank(
    compressed: Compressed, method: AnyFamily, config: MethodConfig, basis: str | Path | Basis | None
) -> Basis | None:
    """The bank that a file names; None where it holds its own."""
    if compressed.basis is None:
        return None
    return bank_for_reconstruct(compressed.basis, method.shared_layout(config)[0], basis)


def _basis(
    compressed: Compressed,
    method: AnyFamily,
    base: str | Path | None,
    basis: str | Path | Basis | None,
    only: Collection[str] | None,
) -> Basis | None:
    reference = compressed.basis
    if method.needs_basis and reference is None or reference is not None and not method.takes_basis:
        raise FormatError(f"metadata: 'basis' is missing, or method {method.name!r} has no use for it")
    if reference is None:
        return None
    if not method.takes_frame:
        embedded = _embedded(compressed)
        return basis_for_reconstruct(reference, compressed.sites, base=base, basis=basis, embedded=embedded, only=only)
    frames: str | Path | Basis | None = basis
    where = None
    if reference.source == "reference" and basis is not None and not isinstance(basis, Basis):
        frames, where = frames_at(basis), basis
    blocks, sides = compressed.payload_bytes, method.frame_sides(config_of(compressed, method))
    sizes = compressed.basis_sizes or [0] * len(compressed.sites)
    with naming(where, RefusedError) if where is not None else nullcontext():
        return frames_for_reconstruct(
            reference, compressed.sites, sizes, blocks, sides=sides, base=base, basis=frames, only=only
        )


def frames_at(path: str | Path) -> Basis:
    """The frames of the adapter at a path, which has to stand for itself, or of a start that is kept there whole.

    Raises:
        CheckpointError, FormatError: if it can't be read.
        RefusedError: if it needs a base or a basis of its own, or has no frames.
    """
    note = start_note(path)
    kept = None if note is None else read_start(note)
    if isinstance(kept, KeptStart):
        return reference_frames(kept.A)
    weights = archive_file(path)
    adapter = understood(open_checkpoint(path)) if weights is None else _standing_for_itself(weights)
    return reference_frames({name: m.A for name, m in adapter.modules.items()}, _described(adapter))


def _standing_for_itself(path: Path) -> Adapter:
    try:
        return reconstruct(path)
    except RefusedError as error:
        raise RefusedError(
            str(error), hint="a start has to stand for itself: export the file with what it needs, and name the folder"
        ) from error


def _described(adapter: Adapter) -> str:
    """What an adapter was made for; not where that lies on one's machine."""
    name = adapter.meta.base_model or ""
    return "" if is_local(name) else name


def _embedded(compressed: Compressed) -> Basis | None:
    if compressed.basis is None or compressed.basis.source != "embedded" or not compressed.basis_sizes:
        return None
    modules = unpack_basis(compressed.basis_sizes, compressed.basis_payload, compressed.sites)
    return Basis(modules, compressed.basis)
