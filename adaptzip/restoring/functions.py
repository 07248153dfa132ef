"""Files that hold functions behind a model's layers instead of updates of its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from adaptzip.adz.container.reader import open_adz
from adaptzip.checkpoints import Checkpoint
from adaptzip.checkpoints._functions import FunctionDialect, LayerFunctions, function_dialect
from adaptzip.checkpoints._parts import base_name
from adaptzip.checkpoints._registry import conventions
from adaptzip.core.adapter import Adapter
from adaptzip.core.basis import Basis
from adaptzip.core.compressed import Compressed
from adaptzip.core.function_method import Function, FunctionMethod
from adaptzip.core.meta import Meta
from adaptzip.errors import CheckpointError, FormatError, RefusedError, UsageError, naming
from adaptzip.restoring.extras import extras_of
from adaptzip.restoring.opening import archive_file, open_checkpoint
from adaptzip.restoring.reading import read
from adaptzip.restoring.reconstruction import coder_of, holds_functions, reconstruct_native


@dataclass(frozen=True, eq=False)
class Functions:
    """What a file of functions holds.

    Attributes:
        modules: what each layer's outputs (..., d) become.
        extras: as an adapter's.
        meta: origin.
        before: what each layer's inputs (..., d) become before it sees them.
        kept: whether they are a checkpoint's own; else they were distilled, and stand in for an adapter's updates.
    """

    modules: Mapping[str, Function]
    extras: Mapping[str, Tensor]
    meta: Meta
    before: Mapping[str, Function] = field(default_factory=dict)
    kept: bool = False


def functions(
    source: Compressed | str | Path, *, base: str | Path | None = None, basis: str | Path | Basis | None = None
) -> Functions:
    """The functions of a file whose method is not linear.

    Raises:
        FormatError, RefusedError: as `reconstruct`.
        UsageError: if it holds an adapter.
    """
    if not isinstance(source, Compressed):
        compressed = open_adz(source)
        with naming(source, FormatError, RefusedError):
            return functions(compressed, base=base, basis=basis)
    compressed = source
    if compressed.lossless and holds_functions(compressed):
        return _kept(compressed)
    coder = coder_of(compressed, base, basis)
    method = coder.method
    if not isinstance(method, FunctionMethod) or compressed.lossless:
        raise UsageError(f"a file of method {method.name!r} holds an adapter and no functions")
    decoded, adapter = reconstruct_native(compressed, base=base, basis=basis)
    made = {name: method.apply(d.tensors, coder.sites[name], coder.config) for name, d in decoded.items() if d.tensors}
    return Functions(made, adapter.extras, adapter.meta)


def _kept(compressed: Compressed) -> Functions:
    """The functions of a checkpoint that a lossless file keeps as it was."""
    dialect = conventions(compressed.meta.dialect)
    if not isinstance(dialect, FunctionDialect):
        raise RefusedError(
            f"the file keeps functions of the dialect {compressed.meta.dialect!r}, which is not installed",
            hint="install a newer adaptzip, or the package that brings the dialect",
        )
    try:
        return _placed(dialect.functions(extras_of(compressed)[0], compressed.meta.config, "the file"), compressed.meta)
    except CheckpointError as error:
        raise FormatError(str(error), hint=error.hint) from error


def _placed(found: LayerFunctions, meta: Meta) -> Functions:
    return Functions(found.behind, found.extras, meta, found.before, kept=True)


def function_checkpoint(
    path: str | Path, config: str | Path | None = None
) -> tuple[Checkpoint, FunctionDialect] | None:
    """A checkpoint of functions, opened, and its dialect; None for any other checkpoint.

    Raises:
        CheckpointError: if it is missing or unreadable.
    """
    source = open_checkpoint(path, config=config)
    dialect = function_dialect(source)
    return None if dialect is None else (source, dialect)


def read_either(
    path: str | Path,
    *,
    alpha: float | None = None,
    config: str | Path | None = None,
    base: str | Path | None = None,
    basis: str | Path | Basis | None = None,
    dialect: str | None = None,
) -> Adapter | Functions:
    """What a checkpoint or a `.adz` file puts on a model; arguments as for `sources.read`.

    Raises:
        CheckpointError, FormatError, RefusedError, UsageError: as `sources.read`.
    """
    archive = archive_file(path)
    if archive is not None and alpha is None and dialect is None:
        compressed = open_adz(archive)
        with naming(archive, FormatError, RefusedError):
            if holds_functions(compressed):
                return functions(compressed, base=base, basis=basis)
    try:
        return read(path, alpha=alpha, config=config, base=base, basis=basis, dialect=dialect)
    except RefusedError:
        found = None if archive is not None or alpha is not None else function_checkpoint(path, config)
        if found is None:
            raise
        source, own = found
        meta = Meta(own.name, source.config or {}, base_name(source.config or {}))
        return _placed(own.functions(source.tensors, source.config, source.weights), meta)
