"""Links in a base model's folder: what leads out of it, or nowhere, is not taken for the model's content."""

from __future__ import annotations

from pathlib import Path

from adaptzip.errors import BaseModelError, RefusedError


def check_link(path: Path, folder: Path) -> None:
    """Raise unless `path` leads to something inside `folder`, or to a blob of the Hub cache that `folder` lies in.

    Raises:
        BaseModelError: if it leads nowhere.
        RefusedError: if it leads out of the folder.
    """
    if path.is_symlink() and not path.exists():
        raise BaseModelError(
            f"{path}: is a link to {path.readlink()}, which is not there",
            hint="the download was not finished, or its target was removed: download the base model again",
        )
    root, target = folder.resolve(), path.resolve()
    if not target.is_relative_to(root) and target.parent != _blobs(root):
        raise RefusedError(
            f"{path}: is a link that leads out of the base model's folder, to {target}",
            hint="put the file itself in the link's place if it belongs to the model",
        )


def _blobs(root: Path) -> Path | None:
    """Where a Hub cache keeps the content of the snapshot that `root` is or lies in.

    It is not resolved: were the folder of blobs itself a link, it could lead anywhere.
    """
    snapshots = next((parent for parent in root.parents if parent.name == "snapshots"), None)
    return None if snapshots is None else snapshots.parent / "blobs"
