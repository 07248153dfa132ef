"""Where a command writes, and what it must never write over."""

from __future__ import annotations

from pathlib import Path

from adaptzip.errors import OutputError, UsageError


def default_output(source: Path) -> Path:
    """The `.adz` beside the source, under its name: `lora.adz` for lora.safetensors or for the folder lora/.

    Raises:
        UsageError: if the source has no name to take.
    """
    if source.is_dir():
        folder = source.resolve()
        if not folder.name:
            raise UsageError(f"{source}: has no name to call the output by", hint="name it with -o OUT.adz")
        # The folder's own spelling is kept where it has one, so that messages show what the user typed.
        return (
            source.with_name(f"{source.name}.adz") if source.name else folder.with_name(f"{folder.name}.adz")
        )
    return source.with_suffix(".adz")


def check_output(output: Path, source: Path, *, force: bool) -> None:
    """Refuse an output before the work for it begins.

    Raises:
        UsageError: if the output is the source, or the folder that the source lies in.
        OutputError: if it exists and may not be replaced, or its folder does not exist.
    """
    real = output.resolve()
    if real in (source.resolve(), *source.resolve().parents):
        raise UsageError(f"{output}: the output would replace its source {source}", hint="choose another -o")
    if not real.parent.is_dir():
        raise OutputError(
            f"{output}: the folder {output.parent} does not exist",
            hint=f"make it first: mkdir -p {output.parent}",
        )
    if output.exists() and not force and not _is_empty_folder(output):
        raise OutputError(
            f"{output}: exists already", hint="choose another output with -o, or pass -f to replace it"
        )


def _is_empty_folder(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())
