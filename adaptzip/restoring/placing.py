"""Putting what is exported into its folder or file, once its own reader has found in it what was meant."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from shutil import copyfileobj
from tempfile import TemporaryDirectory

from adaptzip.checkpoints import Checkpoint, Dialect, Reader, WriteOptions
from adaptzip.checkpoints._config import CONFIG_NAME
from adaptzip.checkpoints._readback import confirm
from adaptzip.core.adapter import Adapter, named_in
from adaptzip.errors import CheckFailedError, CheckpointError, RefusedError, UsageError, naming, without_warnings
from adaptzip.files.atomic import atomic_directory, atomic_file
from adaptzip.restoring.content import Content
from adaptzip.restoring.model_card import NAME as README
from adaptzip.restoring.model_card import is_ours, with_loading
from adaptzip.restoring.opening import open_checkpoint, understood
from adaptzip.restoring.upload_card import MARK


def to_folder(
    content: Content,
    output: Path,
    force: bool,
    target: Dialect,
    options: WriteOptions,
    beside: Callable[[Path], object] | None = None,
) -> list[Path]:
    """Write a folder.

    Args:
        beside: puts more into it, such as a README.
    """
    publishable = is_ours(output / README, MARK)

    def owned(name: str) -> bool:
        if name == README:
            return publishable or is_ours(output / README)
        return target.files.owns(name) or (publishable and name.endswith(".adz"))

    with atomic_directory(output, force, owned=owned) as folder:
        _write(content, folder, output, target, options)
        if beside is not None:
            beside(folder)
    return sorted(path for path in output.iterdir() if path.is_file())


def put_loading(folder: Path, card: str) -> None:
    """Put the source's README into a folder of PEFT's, with how to load it."""
    told = json.loads((folder / CONFIG_NAME).read_bytes())
    (folder / README).write_text(with_loading(card, told), encoding="utf-8")


def to_file(content: Content, output: Path, force: bool, target: Dialect, options: WriteOptions) -> list[Path]:
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


def _write(content: Content, folder: Path, output: str | Path, target: Dialect, options: WriteOptions) -> None:
    """Write into an empty folder, and hold what was written against what was meant."""
    content.write(folder, options)
    _check_files(folder, output, target)
    if isinstance(target, Reader):
        _read_back(folder, output, target, content.adapter, options)


def _check_files(folder: Path, output: str | Path, target: Dialect) -> None:
    """Raises: CheckFailedError: if there is no file, or one that a later run with `force` would not replace."""
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())
    stray = [name for name in files if not target.files.owns(name)]
    if stray or not files:
        what = f"wrote {stray[0]}, which is none of the files that it names as its own" if stray else "wrote no file"
        raise CheckFailedError(
            f"{output}: the dialect {target.name!r} {what}; nothing was left behind",
            hint="mend the package that brings it, or write `as_='peft'`",
        )


def _read_back(folder: Path, output: str | Path, target: Reader, adapter: Adapter, options: WriteOptions) -> None:
    """Raises: CheckFailedError: if the dialect's own reader does not find the adapter in `folder`."""
    try:
        with without_warnings():
            source = replace(open_checkpoint(folder), modules=named_in(adapter))
    except CheckpointError as error:
        raise _refused(error, folder, output) from error
    check_meaning(source, output, target, adapter, options)


def check_meaning(
    source: Checkpoint, output: str | Path, target: Dialect, adapter: Adapter, options: WriteOptions
) -> None:
    """Hold what a dialect's own reader makes of what was written, or is about to be, against what was meant.

    Args:
        source: what was written, opened.
        output: what messages call it.

    Raises:
        CheckFailedError: if the reader does not find the adapter in it.
    """
    try:
        with without_warnings():  # Of what is the adapter's own the reader has warned before.
            found = understood(source)
    except (CheckpointError, RefusedError) as error:
        raise _refused(error, source.path, output) from error
    if found.meta.dialect != target.name:
        raise CheckFailedError(f"{output}: would be taken for {found.meta.dialect}, so that nothing was written")
    with naming(output, CheckFailedError):
        confirm(adapter, found, options)


def _refused(error: Exception, folder: Path, output: str | Path) -> CheckFailedError:
    told = str(error).replace(str(folder), str(output))
    return CheckFailedError(
        f"{told}; so it would be refused once written, and nothing was", hint="please report it, with the adapter"
    )
