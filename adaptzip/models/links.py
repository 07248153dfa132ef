"""Links in a base model's folder: what leads out of it, or nowhere, is not taken for the model's content."""

from __future__ import annotations

from pathlib import Path

from adaptzip.errors import BaseModelError, RefusedError
from adaptzip.files.hub_cache import leads_out


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
    if leads_out(path, folder):
        raise RefusedError(
            f"{path}: is a link that leads out of the base model's folder, to {path.resolve()}",
            hint="put the file itself in the link's place if it belongs to the model",
        )
