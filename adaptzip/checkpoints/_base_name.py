"""What an adapter calls its base model: a name that everybody has, or a path that says something of one's machine."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from adaptzip.core.meta import Meta
from adaptzip.errors import UsageError, warn
from adaptzip.files.regular import open_regular

KEY = "base_model_name_or_path"
"""Where PEFT's adapter_config.json has the name."""
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_LONGEST = 1000
_BEGINNING = 1 << 20
"""Bytes of a file in which a name is looked for."""
_VALUE = re.compile(rf'("{KEY}"\s*:\s*)("(?:[^"\\]|\\.)*"|null)')


def is_local(name: str) -> bool:
    """Whether a base model's name is a path: a Hub's names have one slash at most, and no folder of that name is here.

    True for absolute paths, those that start with . or ~, Windows's, file: URLs, and folders that exist.
    """
    if name.lower().startswith("file:"):
        return True
    if _URL.match(name) or not name:
        return False
    if name.startswith((".", "~", "/")) or "\\" in name or re.match(r"[A-Za-z]:", name):
        return True
    return name.strip("/").count("/") > 1 or name.endswith("/") or _is_folder(name)


def warn_of_local_name(name: str | None) -> None:
    """Say, once for each name and place, that a path on this machine is written into a file."""
    if name is not None and is_local(name):
        warn(
            f"the base model's name is the path {name!r}, which whoever gets the file can read; "
            "`base_name=NAME` writes another"
        )


def warn_of_written_name(name: str | None, files: Iterable[Path]) -> None:
    """The same of files that are written, where one of them has the name in it."""
    if name is not None and is_local(name) and any(_has(file, name) for file in files):
        warn_of_local_name(name)


def _has(file: Path, name: str) -> bool:
    """Whether a file begins with text that has a name in it, as it is or in JSON, however often that is escaped."""
    with open_regular(file) as handle:
        text = handle.read(_BEGINNING).replace(b"\\", b"")
    return any(form.replace("\\", "").encode() in text for form in (name, json.dumps(name)[1:-1]))


def check_name(name: str) -> None:
    """Refuse what no base model is called.

    Raises:
        UsageError: if it is empty, longer than 1000 characters, or holds what is no printable text.
    """
    if not name.strip() or len(name) > _LONGEST or not name.isprintable():
        raise UsageError(f"the base name {name[:80]!r} is no name", hint="write one as the Hub has it: owner/model")


def renamed(meta: Meta, name: str) -> Meta:
    """An adapter's origin with another name for its base model; the configuration's text changes in nothing else."""
    config = renamed_config(meta.config, name)
    text = None if meta.config_text is None else _renamed_text(meta.config_text, config, name)
    return replace(meta, base_model=name, config=config, config_text=text)


def renamed_config(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A configuration with another name for its base model; an empty one, which describes nothing, stays empty."""
    return MappingProxyType({**config, KEY: name}) if config else config


def _renamed_text(text: str, config: Mapping[str, Any], name: str) -> str:
    found = _VALUE.sub(lambda match: match[1] + json.dumps(name), text, count=1)
    return found if json.loads(found) == dict(config) else json.dumps(dict(config), indent=2)


def _is_folder(name: str) -> bool:
    try:
        return Path(name).is_dir()
    except (OSError, ValueError):
        return False
