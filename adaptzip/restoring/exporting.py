"""Writing an adapter, compressed or not, in a dialect that other programs load."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch

from adaptzip.checkpoints import (
    Dialect,
    NativeWriter,
    WriteOptions,
    Writer,
    vet,
    vet_numbers,
    writer,
)
from adaptzip.checkpoints._base_name import check_name, warn_of_written_name
from adaptzip.core.adapter import Adapter
from adaptzip.core.basis import Basis
from adaptzip.core.calling import public
from adaptzip.core.compressed import Compressed
from adaptzip.core.limits import Limits
from adaptzip.core.showing import Shown
from adaptzip.core.words import count, size
from adaptzip.errors import UsageError
from adaptzip.files.atomic import check_output, check_output_folder
from adaptzip.files.inputs import check_apart
from adaptzip.files.names import SINGLE, names_a_file
from adaptzip.restoring.content import WITH_CARD, factor_content, native_content, own_writer, with_base_name
from adaptzip.restoring.model_card import source_card
from adaptzip.restoring.native import native, written_again
from adaptzip.restoring.opening import base_config
from adaptzip.restoring.placing import put_loading, to_file, to_folder
from adaptzip.restoring.publishable import add_archive, archive_of, check_card, check_repo
from adaptzip.restoring.reading import adapter_from

PORTABLE = "peft-portable"
"""What `as_` may call PEFT's dialect in its portable profile."""
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, repr=False)
class ExportReport(Shown):
    """What was written.

    Attributes:
        path: the folder, or the file.
        bytes: size of all its files together.
        files: their names, sorted.
        modules: number of adapted modules.
        loading_bytes: memory that the program which loads the files needs for what it unpacks them to; None where
            that is no more than the files themselves.
        left_out: what the dialect, or the portable profile, could not hold, in words; () where it holds all.
        dialect: what they are written in.
        ranks: the least and the greatest rank of the modules that were written.
        caution: what is to be known of the programs that load it; "" for nothing.
    """

    path: Path
    bytes: int
    files: tuple[str, ...]
    modules: int
    loading_bytes: int | None = None
    left_out: tuple[str, ...] = ()
    dialect: str = "peft"
    ranks: tuple[int, int] = (0, 0)
    caution: str = ""

    def _told(self) -> Iterator[str]:
        yield str(self.path)
        yield self.dialect
        yield size(self.bytes)
        yield count(self.modules, "module")
        yield f"{len(self.left_out)} kinds left out" if self.left_out else ""


@public
def export(
    source: str | Path | Adapter | Compressed,
    output: str | Path,
    *,
    as_: str | None = None,
    portable: bool = False,
    dtype: Literal["float32", "float16", "bfloat16", "q8_0"] | None = None,
    force: bool = False,
    drop_extras: bool = False,
    alpha: float | None = None,
    config: str | Path | None = None,
    dialect: str | None = None,
    base: str | Path | None = None,
    basis: str | Path | Basis | None = None,
    base_name: str | None = None,
    card: str | None = None,
    limits: Limits | None = None,
) -> ExportReport:
    """Write an adapter into the folder `output`.

    Args:
        source: a `.adz` file, any readable adapter, or either one in memory. A dialect that holds a method's own
            tensors, such as peft-vblora, wants a file of that method.
        output: the folder to make, or a file `.safetensors` or `.gguf` where the dialect has one file.
        as_: the dialect to write, or "peft-portable" for PEFT's with `portable`; None is the one that the adapter came
            in; where that is not written, kohya's for image models, else PEFT's.
        portable: write only what every inference engine reads (see docs): one rank, alpha equal to it.
        dtype: dtype of the factors, of which "q8_0" is for GGUF alone; None keeps the adapter's own, which a `.adz`
            remembers: the narrowest that held all factors of its source, at most float32. The portable profile and
            dialects of a method's own tensors are float32 then.
        force: replace an existing output of the same kind.
        drop_extras: leave out what the dialect or the portable profile cannot hold, such as extras, biases and DoRA
            magnitudes, instead of refusing; the report lists it.
        alpha, config, dialect: how to read a checkpoint, as for `read`.
        base: folder of the base model, for a `.adz` file whose basis is that of the base weights, and for GGUF, which
            names and turns what it holds by the base's config.json.
        basis: the basis artefact or its path, for a `.adz` file that names one.
        base_name: what the configuration calls the base model; None keeps the adapter's own name for it.
        card: a repository, "owner/name", that the folder is to be uploaded to: puts the `.adz` beside PEFT's files, and
            the README that `publish` writes for it: sizes, the error, what training measured, and how to load either.
            For a `.adz` and PEFT's folder alone.
        limits: what a `.adz` file may make of itself; None for the usual ones (`adaptzip.Limits`).

    Raises:
        CheckpointError, FormatError: if the source cannot be read.
        UsageError: for an unknown dialect or dtype, or if `output` is, holds or lies in what is read.
        RefusedError: if the dialect is read alone, or cannot hold the adapter, or its basis is missing or another.
        CheckFailedError: if what was written does not read back as the adapter, or is nothing, or more than the
            dialect's own files; nothing is left of it then.
        OutputError: if the output exists without `force` or cannot be written.

    Warns with an AdaptzipWarning where the configuration names a path on this machine as the base model.

    Example:
        >>> small = adaptzip.compress("my-adapter", "small.adz", budget="20%")
        >>> report = adaptzip.export("small.adz", "restored", base_name="somebody/some-base")
        >>> report.files
        ('adapter_config.json', 'adapter_model.safetensors')
        >>> adaptzip.read("restored").modules.keys() == set(small.modules)
        True
    """
    if as_ == PORTABLE:
        as_, portable = "peft", True
    if card is not None:
        check_repo(card)
        as_ = as_ or WITH_CARD
        check_card(as_, output, {"portable": portable, "dtype": dtype is not None, "drop_extras": drop_extras})
    archive = None if card is None else archive_of(source, Path(output))
    named = None if as_ is None and not portable else writer("peft" if as_ is None else as_)
    _check_dtype(dtype, named)
    if base_name is not None:
        check_name(base_name)
    check_apart(output, source=source, config=config, base=base, basis=basis)
    check_suffix(output)
    (check_output if names_a_file(output) else check_output_folder)(output, force)
    coding = None if dtype is None or dtype in DTYPES else dtype
    options = WriteOptions(portable, DTYPES.get(dtype or ""), coding, base_config(base), as_ is not None)
    if isinstance(named, NativeWriter):
        target: Writer | NativeWriter = named
        again = written_again(source, named, alpha=alpha, config=config, dialect=dialect, base=base)
        own = again or native(source, named.name, named.takes, base=base, basis=basis)
        content = native_content(own, named, base_name)
    else:
        if isinstance(source, Adapter):
            vet(source, "the adapter")
            vet_numbers(source)
        found = adapter_from(source, alpha=alpha, config=config, base=base, basis=basis, dialect=dialect)
        adapter = with_base_name(found, base_name)
        target = named or own_writer(adapter.meta.dialect)
        content = factor_content(adapter, target, options, drop_extras)
    if names_a_file(output):
        files = to_file(content, Path(output), force, target, options)
    else:
        readme = source_card(source) if target.name == WITH_CARD else None
        beside: Callable[[Path], object] | None = None if readme is None else partial(put_loading, card=readme)
        if archive is not None and card is not None:
            told, name = archive
            base_named = content.adapter.meta.base_model
            beside = partial(add_archive, archive=told, name=name, card=None, place=card, base=base_named)
        files = to_folder(content, Path(output), force, target, options, beside)
    warn_of_written_name(content.adapter.meta.base_model, files)
    return ExportReport(
        Path(output),
        sum(p.stat().st_size for p in files),
        tuple(p.name for p in files),
        content.modules,
        content.loading_bytes,
        content.left_out,
        target.name,
        content.ranks,
        target.caution,
    )


def check_suffix(output: str | Path) -> None:
    """Refuse a file that no dialect is written as, before a folder of that name is made.

    Raises:
        UsageError: naming its suffix.
    """
    suffix = Path(output).suffix.lower()
    other = suffix in (".adz", ".bin", ".ckpt", ".pt", ".pth") or (suffix in SINGLE and Path(output).suffix != suffix)
    if other and not Path(output).is_dir():
        raise UsageError(
            f"{output}: no dialect is written as a file that ends with {Path(output).suffix}",
            hint="name a folder, or a file that ends with .safetensors; a .adz is made by `adaptzip compress`",
        )


def _check_dtype(dtype: str | None, target: Dialect | None) -> None:
    """Raises: UsageError: if the dialect does not write factors so; one that the adapter tells has no coding."""
    known = (*DTYPES, *(target.codings if isinstance(target, Writer) else ()))
    if dtype is not None and dtype not in known:
        where = "" if target is None else f" as {target.name}"
        raise UsageError(f"there is no dtype {dtype!r} to export in{where}", hint=f"known: {', '.join(known)}")
