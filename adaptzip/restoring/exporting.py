"""Writing an adapter, compressed or not, in a dialect that other programs load."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from shutil import copyfileobj
from tempfile import TemporaryDirectory
from typing import Literal, cast

import torch

from adaptzip.checkpoints import (
    Dialect,
    Native,
    NativeWriter,
    Reader,
    WriteOptions,
    Writer,
    conventions,
    held,
    vet,
    vet_numbers,
    writer,
)
from adaptzip.checkpoints._base_name import check_name, renamed, warn_of_written_name
from adaptzip.checkpoints._config import CONFIG_NAME
from adaptzip.checkpoints._functions import FunctionDialect
from adaptzip.checkpoints._readback import confirm
from adaptzip.core.adapter import Adapter, named_in
from adaptzip.core.basis import Basis
from adaptzip.core.compressed import Compressed
from adaptzip.errors import CheckFailedError, CheckpointError, RefusedError, UsageError, naming, without_warnings
from adaptzip.files.atomic import atomic_directory, atomic_file, check_output, check_output_folder
from adaptzip.files.inputs import check_apart
from adaptzip.files.names import SINGLE, names_a_file
from adaptzip.restoring.model_card import NAME as README
from adaptzip.restoring.model_card import is_ours, source_card, with_loading
from adaptzip.restoring.native import native, written_again
from adaptzip.restoring.reading import adapter_from, base_config, open_checkpoint, understood

_WITH_CARD = "peft"
"""The dialect whose folders are published with a README beside."""
PORTABLE = "peft-portable"
"""What `as_` may call PEFT's dialect in its portable profile."""
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class ExportReport:
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
        ranks: the least and the greatest rank of the adapter's modules.
    """

    path: Path
    bytes: int
    files: tuple[str, ...]
    modules: int
    loading_bytes: int | None = None
    left_out: tuple[str, ...] = ()
    dialect: str = "peft"
    ranks: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class _Content:
    """What is about to be written: how, the adapter that it stands for, and what the report says of it."""

    write: Callable[[Path, WriteOptions], None]
    adapter: Adapter
    modules: int
    ranks: tuple[int, int]
    loading_bytes: int | None = None
    left_out: tuple[str, ...] = ()


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
    named = None if as_ is None and not portable else writer(as_ or "peft")
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
        content = _native(again or native(source, named.name, named.takes, base=base, basis=basis), named, base_name)
    else:
        if isinstance(source, Adapter):
            vet(source, "the adapter")
            vet_numbers(source)
        found = adapter_from(source, alpha=alpha, config=config, base=base, basis=basis, dialect=dialect)
        adapter = _named(found, base_name)
        target = named or _own(adapter.meta.dialect)
        content = _factors(adapter, target, options, drop_extras)
    if names_a_file(output):
        files = _to_file(content, Path(output), force, target, options)
    else:
        card = source_card(source) if target.name == _WITH_CARD else None
        files = _to_folder(content, Path(output), force, target, options, card)
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


def _write(content: _Content, folder: Path, output: str | Path, target: Dialect, options: WriteOptions) -> None:
    """Write into an empty folder, and hold what was written against what was meant."""
    content.write(folder, options)
    _check_files(folder, output, target)
    if isinstance(target, Reader):
        _read_back(folder, output, target, content.adapter, options)


def _to_folder(
    content: _Content, output: Path, force: bool, target: Dialect, options: WriteOptions, card: str | None
) -> list[Path]:
    """Write a folder, with the source's README where there is one."""

    def owned(name: str) -> bool:
        return target.files.owns(name) or (name == README and is_ours(output / README))

    with atomic_directory(output, force, owned=owned) as folder:
        _write(content, folder, output, target, options)
        if card is not None:
            told = json.loads((folder / CONFIG_NAME).read_bytes())
            (folder / README).write_text(with_loading(card, told), encoding="utf-8")
    return sorted(path for path in output.iterdir() if path.is_file())


def _to_file(content: _Content, output: Path, force: bool, target: Dialect, options: WriteOptions) -> list[Path]:
    """Write the one file that a dialect has under another name.

    Raises:
        UsageError: if it has several, or one of another kind.
    """
    with TemporaryDirectory() as name:
        folder = Path(name) / "export"
        folder.mkdir()
        _write(content, folder, output, target, options)
        files = list(folder.iterdir())
        if len(files) != 1 or files[0].suffix != output.suffix:
            raise UsageError(
                f"{output}: {target.name} is written as {', '.join(sorted(p.name for p in files))}",
                hint="name a folder"
                if len(files) > 1
                else f"name a file that ends with {files[0].suffix}, or a folder",
            )
        with files[0].open("rb") as source, atomic_file(output, force) as handle:
            copyfileobj(source, handle)
    return [output]


def _check_dtype(dtype: str | None, target: Dialect | None) -> None:
    """Raises: UsageError: if the dialect does not write factors so; one that the adapter tells has no coding."""
    known = (*DTYPES, *(target.codings if isinstance(target, Writer) else ()))
    if dtype is not None and dtype not in known:
        where = "" if target is None else f" as {target.name}"
        raise UsageError(f"there is no dtype {dtype!r} to export in{where}", hint=f"known: {', '.join(known)}")


def _factors(adapter: Adapter, target: Writer, options: WriteOptions, drop: bool) -> _Content:
    """Raises: RefusedError: if the dialect cannot hold something, unless `drop` gives it up."""
    if conventions(adapter.meta.dialect).pipelines and not (target.pipelines or target.name == _WITH_CARD):
        raise RefusedError(
            f"the adapter is of an image model, and {target.title} is for language models",
            hint="write it with --as kohya, --as diffusers or --as comfyui",
        )
    spelled = target.spelled(adapter)
    lost = target.lost(spelled, options)
    left = held(spelled, lost, "the portable profile" if options.portable else target.title, drop)
    ranks, told = _ranks(adapter), tuple(map(str, lost))
    return _Content(partial(target.write, left), left, len(left.modules), ranks, left_out=told)


def _ranks(adapter: Adapter) -> tuple[int, int]:
    found = [factors.rank for factors in adapter.modules.values()]
    return min(found, default=0), max(found, default=0)


def _own(name: str) -> Writer:
    """The dialect that an adapter came in where that writes factors, else kohya's of an image model, else PEFT's."""
    found = conventions(name)
    return found if isinstance(found, Writer) else cast("Writer", writer("kohya" if found.pipelines else "peft"))


def _native(found: Native, target: NativeWriter, base_name: str | None) -> _Content:
    found = replace(found, adapter=_named(found.adapter, base_name))
    modules = len(found.modules)
    if isinstance(target, FunctionDialect) and not found.modules:
        modules = _count(target, found.adapter)
    write, ranks = partial(target.write_native, found), _ranks(found.adapter)
    return _Content(write, found.adapter, modules, ranks, target.loading_bytes(found))


def _count(target: FunctionDialect, kept: Adapter) -> int:
    """How many layers the functions are of whose tensors are `kept` as they were."""
    functions = target.functions(kept.extras, kept.meta.config, "the adapter")
    return len(functions.behind) + len(functions.before)


def _named(adapter: Adapter, base_name: str | None) -> Adapter:
    return adapter if base_name is None else replace(adapter, meta=renamed(adapter.meta, base_name))


def _check_files(folder: Path, output: str | Path, target: Dialect) -> None:
    """Raises: CheckFailedError: if there is no file, or one that a later run with `force` would not replace."""
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())
    stray = [name for name in files if not target.files.owns(name)]
    if stray or not files:
        what = f"wrote {stray[0]}, which is none of the files that it names as its own" if stray else "wrote no file"
        raise CheckFailedError(
            f"{output}: the dialect {target.name!r} {what}; nothing was left behind",
            hint="mend the package that brings it, or write --as peft",
        )


def _read_back(folder: Path, output: str | Path, target: Reader, adapter: Adapter, options: WriteOptions) -> None:
    """Raises: CheckFailedError: if the dialect's own reader does not find the adapter in `folder`."""
    try:
        with without_warnings():  # Of what is the adapter's own the reader has warned before.
            found = understood(replace(open_checkpoint(folder), modules=named_in(adapter)))
    except (CheckpointError, RefusedError) as error:
        told = str(error).replace(str(folder), str(output))
        raise CheckFailedError(
            f"{told}; so it would be refused once written, and nothing was", hint="please report it, with the adapter"
        ) from error
    if found.meta.dialect != target.name:
        raise CheckFailedError(f"{output}: would be taken for {found.meta.dialect}, so that nothing was written")
    with naming(output, CheckFailedError):
        confirm(adapter, found, options)
