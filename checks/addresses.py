"""Absolute links into the repository: one base, `project.urls.Source` of pyproject.toml, and paths behind it."""

from __future__ import annotations

import re
import tomllib
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
BRANCH = "main"
_HOST = "https://github.com/"
_RAW = "https://raw.githubusercontent.com/"


@cache
def base() -> str:
    """Where the repository is, without a slash at the end."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found: str = project["urls"]["Source"]
    return found


def address(path: str) -> str:
    """The absolute link to a path of the repository: its page, or the file itself for an image."""
    if Path(path.partition("#")[0]).suffix in (".svg", ".png"):
        return f"{base().replace(_HOST, _RAW)}/{BRANCH}/{path}"
    return f"{base()}/blob/{BRANCH}/{path}"


def path_of(link: str) -> str | None:
    """The path in the repository, with its fragment, that an absolute link leads to; None where it leads elsewhere."""
    start = "|".join(re.escape(address(path)[: -len(path)]) for path in ("a.md", "a.svg"))
    match = re.fullmatch(rf"(?:{start})(.+)", link)
    return match[1] if match and address(match[1]) == link else None


def is_relative(link: str) -> bool:
    """Whether a link leads nowhere on a page that is shown outside the repository."""
    return not re.match(r"[a-z]+:|#", link)
