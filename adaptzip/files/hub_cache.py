"""The Hub's cache as it lies on disk: snapshots of links to blobs, and a file that names the main one."""

from __future__ import annotations

import re
from pathlib import Path


def main_snapshot(root: Path) -> Path | None:
    """The snapshot that a repository's root in the cache calls its main one, whether it is there or not."""
    main = root / "refs" / "main"
    if not main.is_file():
        return None
    name = main.read_text(encoding="utf-8", errors="replace").strip()
    return root / "snapshots" / name if re.fullmatch(r"\w+", name) else None


def named_by_cache(folder: Path) -> tuple[str, str] | None:
    """The repository and the commit that `folder` is the snapshot of, None where it lies in no cache."""
    snapshot = folder.resolve()
    kind, *name = snapshot.parent.parent.name.split("--")
    if snapshot.parent.name != "snapshots" or kind != "models" or not name:
        return None
    return "/".join(name), snapshot.name


def leads_out(path: Path, folder: Path) -> bool:
    """Whether `path` leads out of `folder`, and not to a blob of the cache that `folder` lies in."""
    root, target = folder.resolve(), path.resolve()
    return not target.is_relative_to(root) and target.parent != _blobs(root)


def _blobs(root: Path) -> Path | None:
    """Where a cache keeps the content of the snapshot that `root` is or lies in.

    It is not resolved: were the folder of blobs itself a link, it could lead anywhere.
    """
    snapshots = next((parent for parent in root.parents if parent.name == "snapshots"), None)
    return None if snapshots is None else snapshots.parent / "blobs"
