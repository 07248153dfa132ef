"""Files that hold functions behind a model's layers instead of updates of its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from adaptzip.adz.container.reader import open_adz
from adaptzip.core.adapter import Adapter
from adaptzip.core.basis import Basis
from adaptzip.core.compressed import Compressed
from adaptzip.core.function_method import Function, FunctionMethod
from adaptzip.core.meta import Meta
from adaptzip.errors import FormatError, RefusedError, UsageError, naming
from adaptzip.restoring.reading import archive_file, read
from adaptzip.restoring.reconstruction import coder_of, holds_functions, reconstruct_native


@dataclass(frozen=True, eq=False)
class Functions:
    """What a file of functions holds: what each layer's outputs (..., d) become, and the extras."""

    modules: Mapping[str, Function]
    extras: Mapping[str, Tensor]
    meta: Meta


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
    coder = coder_of(compressed, base, basis)
    method = coder.method
    if not isinstance(method, FunctionMethod) or compressed.lossless:
        raise UsageError(f"a file of method {method.name!r} holds an adapter and no functions")
    decoded, adapter = reconstruct_native(compressed, base=base, basis=basis)
    made = {name: method.apply(d.tensors, coder.sites[name], coder.config) for name, d in decoded.items() if d.tensors}
    return Functions(made, adapter.extras, adapter.meta)


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
    return read(path, alpha=alpha, config=config, base=base, basis=basis, dialect=dialect)
