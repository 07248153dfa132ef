"""A compressed adapter in its method's own tensors, for dialects that write them as they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

from adaptzip.adz.container.reader import open_adz
from adaptzip.checkpoints import Native, NativeModule, NativeWriter, Reader, read_by
from adaptzip.core.adapter import Adapter
from adaptzip.core.basis import Basis
from adaptzip.core.compressed import Compressed, Site
from adaptzip.core.layouts import Layout
from adaptzip.errors import FormatError, RefusedError, naming
from adaptzip.restoring.decoding import Decoded
from adaptzip.restoring.extras import extras_of
from adaptzip.restoring.families import config_of, family_of
from adaptzip.restoring.opening import archive_file, open_checkpoint
from adaptzip.restoring.reading import refuse_reading
from adaptzip.restoring.reconstruction import coder_sites, reconstruct_native


def native(
    source: str | Path | Adapter | Compressed,
    dialect: str,
    takes: Sequence[str],
    *,
    base: str | Path | None = None,
    basis: str | Path | Basis | None = None,
) -> Native:
    """Decode a compressed adapter for a dialect that holds the tensors of the methods in `takes`.

    Args:
        source: a `.adz` file, or a compressed adapter in memory.
        dialect: the dialect's name, for messages.
        takes: the methods whose tensors it holds.
        base: folder of the base model, where the basis is that of its weights.
        basis: the basis artefact or its path, where the file names one.

    Raises:
        CheckpointError: if there is no adapter at `source`.
        FormatError: if the file is damaged.
        RefusedError: if the source is no file of these methods, or its basis is missing or another.
    """
    compressed, name = _compressed(source)
    found = _what(compressed)
    if compressed is not None and compressed.method in takes and compressed.lossless and not compressed.sites:
        kept = Adapter({}, extras_of(compressed)[0], compressed.meta)
        return Native(compressed.method, compressed.config, {}, kept)
    if compressed is None or compressed.lossless or compressed.method not in takes:
        raise RefusedError(
            f"{name}: is {found}, and {dialect} holds the tensors of {' or '.join(takes)} alone",
            hint=f"make such a file of the original adapter first: `adaptzip compress SRC --to {takes[0]}`",
        )
    with naming(name, FormatError, RefusedError):
        decoded, adapter = reconstruct_native(compressed, base=base, basis=basis)
    method = family_of(compressed)
    config, sites = config_of(compressed, method), coder_sites(compressed, method)
    modules = {}
    for key, site in sites.items():
        tensors = decoded[key].tensors and method.native(decoded[key].tensors, site, config)
        modules[key] = _module(replace(decoded[key], tensors=tensors), site)
    return Native(compressed.method, compressed.config, modules, adapter)


def written_again(
    source: str | Path | Adapter | Compressed,
    target: NativeWriter,
    *,
    alpha: float | None = None,
    config: str | Path | None = None,
    dialect: str | None = None,
    base: str | Path | None = None,
) -> Native | None:
    """The tensors of a checkpoint of the target's own dialect, which it writes in another form; None of all else.

    Args:
        alpha, config, dialect, base: how to read a checkpoint, as for `reading.read`.

    Raises:
        CheckpointError, RefusedError: as `Reader.read`.
        UsageError: if `alpha` or `dialect` is given although the source says it itself.
    """
    if not isinstance(source, str | Path):
        return None
    archive = archive_file(source)
    if archive is not None:
        refuse_reading(archive, alpha, dialect)
    if archive is not None or not isinstance(target, Reader) or dialect not in (None, target.name):
        return None
    opened = open_checkpoint(source, alpha=alpha, config=config, base=base)
    found = target.native(opened)
    if found is None and dialect is None:
        return None
    # Where the user says that it is the target's own, what is wrong with that is said.
    adapter = read_by(target, opened)
    return None if found is None else replace(found, adapter=adapter)


def _compressed(source: str | Path | Adapter | Compressed) -> tuple[Compressed | None, str]:
    """The compressed adapter, or None where the source is none, and what to call it in messages."""
    if isinstance(source, Adapter):
        return None, "the adapter"
    if not isinstance(source, str | Path):
        return source, "the adapter"
    archive = archive_file(source)
    return None if archive is None else open_adz(archive), str(source)


def _what(compressed: Compressed | None) -> str:
    if compressed is None:
        return "no .adz file"
    return f"a {'lossless ' if compressed.lossless else ''}file of method {compressed.method!r}"


def _module(decoded: Decoded, site: Site) -> NativeModule:
    return NativeModule(
        decoded.tensors,
        decoded.A,
        decoded.B,
        site.out,
        site.width,
        cast("Layout", site.layout),
        site.kernel,
        decoded.gain,
    )
