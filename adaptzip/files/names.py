"""Names of files as other files and users give them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from adaptzip.errors import CheckpointError

_LONGEST = 255
"""Bytes of a file's name."""
_LONGEST_KEY = 2**13
"""Characters of a tensor's key."""
SINGLE = (".safetensors", ".gguf")
"""How the name of an output ends that is one weight file, and not a folder."""

SHARED = "shared"
"""The folder of a store in which lies what several adapters refer to, by the hash of its content."""
ARTEFACTS = {"file": ".basis", "bank": ".bank"}
"""How its name ends, by what adapters call the source of their basis."""


def names_a_file(output: str | Path) -> bool:
    """Whether an output in a dialect is named as one weight file, and is no folder that is there already."""
    return Path(output).suffix in SINGLE and not Path(output).is_dir()


def is_file_name(name: object) -> bool:
    """Whether it is the name of a file in its own folder on every system."""
    if not isinstance(name, str) or name in ("", ".", ".."):
        return False
    return len(name.encode(errors="replace")) <= _LONGEST and not set(name) & {"/", "\\", "\0"}


def check_keys(path: Path, keys: Iterable[str]) -> None:
    """Raises: CheckpointError: if a tensor's key is longer than any that a program gives one."""
    longest = max(keys, key=len, default="")
    if len(longest) > _LONGEST_KEY:
        raise CheckpointError(
            f"{path}: the key {longest[:40]}... has {len(longest):,} characters, more than {_LONGEST_KEY:,}",
            hint="save the adapter again with PEFT's save_pretrained",
        )
