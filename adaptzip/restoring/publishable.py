"""A PEFT folder that can be published: the `.adz` beside PEFT's own files, and a README that tells of both."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adaptzip.adz.container.frame import is_adz
from adaptzip.adz.container.reader import open_adz
from adaptzip.checkpoints._base_name import is_local
from adaptzip.checkpoints._config import CONFIG_NAME
from adaptzip.core.adapter import Adapter
from adaptzip.core.compressed import Compressed
from adaptzip.errors import UsageError
from adaptzip.files.names import names_a_file
from adaptzip.files.regular import read_regular
from adaptzip.restoring.content import WITH_CARD
from adaptzip.restoring.model_card import NAME as README
from adaptzip.restoring.model_card import check_front
from adaptzip.restoring.upload_card import upload_card

_REPOSITORY = re.compile(r"[A-Za-z0-9_]([\w.-]*\w)?/[A-Za-z0-9_]([\w.-]*\w)?", re.ASCII)
_LONGEST = 96
"""Characters of a repository's name on the Hub."""


def add_archive(folder: Path, archive: bytes, name: str, *, card: str | None, place: str, base: str | None) -> str:
    """Put a `.adz` into a folder of PEFT's files that hold the same update, and write the README.

    Args:
        name: of the file.
        card: the README to extend, or None.
        place: the repository, or what the folder is called.
        base: what the base model is called, in the adapter.

    Returns:
        The README.
    """
    (folder / name).write_bytes(archive)
    files = {file.name: file.stat().st_size for file in sorted(folder.iterdir())}
    config: Mapping[str, Any] = json.loads((folder / CONFIG_NAME).read_bytes())
    named = None if base is None or is_local(base) else base
    text = upload_card(card, open_adz(archive), archive=name, files=files, config=config, place=place, base=named)
    check_front(text)
    (folder / README).write_text(text, encoding="utf-8")
    return text


def archive_of(source: str | Path | Adapter | Compressed, folder: Path) -> tuple[bytes, str]:
    """The `.adz` that a folder is made of, and what it is called there.

    Raises:
        UsageError: if it is made of something else.
    """
    if isinstance(source, Compressed):
        return source.to_bytes(), f"{folder.name}.adz"
    if isinstance(source, Adapter) or not is_adz(Path(source)):
        told = "an adapter in memory" if isinstance(source, Adapter) else str(source)
        raise UsageError(
            f"{told}: is no .adz file, which the model card tells of",
            hint="compress it first, or use `adaptzip publish`, which does",
        )
    return read_regular(Path(source)), Path(source).name


def check_repo(repo: str) -> None:
    """Refuse what the Hub takes for no name of a repository.

    Raises:
        UsageError: naming it.
    """
    odd = "--" in repo or ".." in repo or repo.endswith(".git") or len(repo) > _LONGEST
    if odd or _REPOSITORY.fullmatch(repo) is None:
        raise UsageError(
            f"{repo!r} is no repository", hint="write owner/name, of letters, digits, '-', '_' and '.' between them"
        )


def check_card(as_: str, output: str | Path, changes: Mapping[str, bool]) -> None:
    """Refuse a card beside files that PEFT does not load, or that do not hold just what the `.adz` does.

    Args:
        changes: what would change them, by its name, and whether it was asked for.

    Raises:
        UsageError: naming it.
    """
    if as_ != WITH_CARD or names_a_file(output):
        raise UsageError(
            f"{output}: a model card goes into a folder that PEFT loads",
            hint="leave out `as_=`, and name a folder",
        )
    asked = [name for name, given in changes.items() if given]
    if asked:
        raise UsageError(
            f"{output}: the card says that PEFT's files have the update of the .adz, which `{asked[0]}=` may change",
            hint=f"leave out `card=`, or `{asked[0]}=`",
        )
