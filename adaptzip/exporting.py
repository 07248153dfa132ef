"""Writing an adapter, compressed or not, in a dialect that other programs load."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from adaptzip.adapter import Adapter
from adaptzip.atomic import atomic_directory
from adaptzip.checkpoints import WriteOptions, dialect
from adaptzip.errors import UsageError

if TYPE_CHECKING:
    from adaptzip.compressed import Compressed

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class ExportReport:
    """What was written.

    Attributes:
        path: the folder.
        bytes: size of all its files together.
        files: their names, sorted.
        modules: number of adapted modules.
    """

    path: Path
    bytes: int
    files: tuple[str, ...]
    modules: int


def export(
    source: str | Path | Adapter | Compressed,
    output: str | Path,
    *,
    as_: str = "peft",
    portable: bool = False,
    dtype: Literal["float32", "float16", "bfloat16"] | None = None,
    force: bool = False,
    drop_extras: bool = False,
) -> ExportReport:
    """Write an adapter into the folder `output`.

    Args:
        source: a `.adz` file, any readable adapter, or either one in memory.
        output: the folder to make.
        as_: the dialect to write.
        portable: write only what every inference engine reads (see docs): one rank, alpha equal to it.
        dtype: dtype of the factors; None keeps the adapter's own.
        force: replace an existing output of the same kind.
        drop_extras: with `portable`, leave out extras, biases and DoRA magnitudes instead of refusing.

    Raises:
        UsageError: for an unknown dialect or dtype.
        RefusedError: if the dialect cannot hold the adapter.
        OutputError: if the output exists without `force` or cannot be written.
    """
    writer = dialect(as_)
    if dtype is not None and dtype not in _DTYPES:
        raise UsageError(f"there is no dtype {dtype!r} to export in", hint=f"known: {', '.join(_DTYPES)}")
    options = WriteOptions(portable, None if dtype is None else _DTYPES[dtype], drop_extras)
    adapter = _adapter(source)
    with atomic_directory(output, force, owned=writer.owns) as folder:
        writer.write(adapter, folder, options)
    files = sorted(p for p in Path(output).iterdir() if p.is_file())
    return ExportReport(
        Path(output), sum(p.stat().st_size for p in files), tuple(p.name for p in files), len(adapter.modules)
    )


def _adapter(source: str | Path | Adapter | Compressed) -> Adapter:
    if isinstance(source, Adapter):
        return source
    if isinstance(source, str | Path):
        from adaptzip.sources import read

        return read(source)
    from adaptzip.reconstruction import reconstruct

    return reconstruct(source)
