"""Whether what is named is there at all, told without opening anything."""

from __future__ import annotations

from pathlib import Path

from adaptzip.errors import CheckpointError


def check_adapter(path: Path) -> None:
    """Refuse a place where no adapter can be.

    Raises:
        CheckpointError: if there is neither a file nor a folder.
    """
    refuse_dangling(path)
    if path.is_file() or path.is_dir():
        return
    if path.exists():
        raise CheckpointError(f"{path}: is neither a file nor a folder", hint="give an adapter's folder")
    raise CheckpointError(f"{path}: no such file or folder", hint="give an adapter's folder or its weight file")


def refuse_dangling(path: Path) -> None:
    """Refuse a link to a file that is not there.

    Raises:
        CheckpointError: naming its target.
    """
    if path.is_symlink() and not path.exists():
        raise CheckpointError(
            f"{path}: is a link to {path.readlink()}, which does not exist",
            hint="fetch the file that it stands for: a download may have been cut short",
        )
