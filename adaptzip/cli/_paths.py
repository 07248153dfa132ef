"""Where a command writes, and what it must never write over."""

from __future__ import annotations

from pathlib import Path

from adaptzip.errors import OutputError, UsageError

_ANOTHER = "choose another output with -o"


def default_output(source: Path) -> Path:
    """The `.adz` beside the source, under its name: `lora.adz` for lora.safetensors or for the folder lora/.

    Raises:
        UsageError: if the source has no name to take.
    """
    if not source.is_dir():
        return source.with_suffix(".adz")
    # What the user typed is kept where it has a name, so that messages show it.
    folder = source if source.name not in ("", "..") else source.resolve()
    if not folder.name:
        raise UsageError(f"{source}: has no name to call the output by", hint="name it with -o OUT.adz")
    return folder.with_name(f"{folder.name}.adz")


def check_file(output: Path, source: Path, *, force: bool) -> None:
    """Refuse an output file before the work for it begins.

    Raises:
        UsageError: if it is the source, or a device or pipe.
        OutputError: if it is a folder, exists without `force`, or its folder does not exist.
    """
    _check_place(output, source)
    if output.is_dir():
        raise OutputError(f"{output}: expected a file name, found a folder", hint="name a file inside it")
    if output.exists() and not output.is_file():
        raise UsageError(f"{output}: expected a file name, found a device or pipe", hint=_ANOTHER)
    if output.exists() and not force:
        raise OutputError(f"{output}: exists already", hint=f"{_ANOTHER}, or pass -f to replace it")


def check_folder(output: Path, source: Path, *, force: bool) -> None:
    """Refuse an output folder before the work for it begins; an empty one is welcome.

    Raises:
        UsageError: if it is the source, or the source lies in it.
        OutputError: if it is no folder, is not empty without `force`, or its parent does not exist.
    """
    _check_place(output, source)
    if output.exists() and not output.is_dir():
        raise OutputError(f"{output}: expected a folder, found a file", hint=_ANOTHER)
    if output.exists() and any(output.iterdir()) and not force:
        raise OutputError(f"{output}: exists already and is not empty", hint=f"{_ANOTHER}, or pass -f to replace it")


def _check_place(output: Path, source: Path) -> None:
    real = output.resolve()
    if real in (source.resolve(), *source.resolve().parents):
        raise UsageError(f"{output}: the output would replace its source {source}", hint=_ANOTHER)
    if not real.parent.is_dir():
        raise OutputError(
            f"{output}: the folder {output.parent} does not exist",
            hint=f"make it first: mkdir -p {output.parent}",
        )
