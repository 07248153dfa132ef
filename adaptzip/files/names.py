"""Names of files as other files and users give them."""

from __future__ import annotations

from pathlib import Path

_LONGEST = 255
"""Bytes of a file's name."""
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
