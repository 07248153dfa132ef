"""Where a command writes, and what it must never write over."""

from __future__ import annotations

from pathlib import Path

from adaptzip.errors import UsageError
from adaptzip.files.atomic import check_output, check_output_folder
from adaptzip.files.hub_cache import named_by_cache
from adaptzip.files.inputs import check_apart
from adaptzip.files.names import names_a_file


def default_output(source: Path) -> Path:
    """The `.adz` beside the source, under its name: `lora.adz` for lora.safetensors or for the folder lora/.

    What was fetched from the Hub gets its name there, and lies in the working directory.

    Raises:
        UsageError: if the source has no name to take.
    """
    fetched = named_by_cache(source)
    if fetched is not None:
        return Path(f"{fetched[0].rpartition('/')[2]}.adz")
    if not source.is_dir():
        return source.with_suffix(".adz")
    # What the user typed is kept where it has a name, so that messages show it.
    folder = source if source.name not in ("", "..") else source.resolve()
    if not folder.name:
        raise UsageError(f"{source}: has no name to call the output by", hint="name it with -o OUT.adz")
    return folder.with_name(f"{folder.name}.adz")


def check_file(output: Path, *, force: bool, **inputs: object) -> None:
    """Refuse an output file before the work for it begins.

    Args:
        inputs: what the command reads, as for `check_apart`.

    Raises:
        UsageError: if the output and an input are not apart.
        OutputError: if it is no file, exists without `force`, or its folder does not exist.
    """
    check_apart(output, **inputs)
    check_output(output, force)


def check_folder(output: Path, *, force: bool, **inputs: object) -> None:
    """Refuse an output folder before the work for it begins; an empty one is welcome.

    Args:
        inputs: what the command reads, as for `check_apart`.

    Raises:
        UsageError: if the output and an input are not apart.
        OutputError: if it is no folder, is not empty without `force`, or its parent does not exist.
    """
    check_apart(output, **inputs)
    check_output_folder(output, force)


def check_export(output: Path, *, force: bool, **inputs: object) -> None:
    """Refuse an output of a dialect, one file or a folder, before the work for it begins; raises as both."""
    (check_file if names_a_file(output) else check_folder)(output, force=force, **inputs)
