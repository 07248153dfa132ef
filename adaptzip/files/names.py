"""Names of files as other files give them."""

from __future__ import annotations

_LONGEST = 255
"""Bytes of a file's name."""


def is_file_name(name: object) -> bool:
    """Whether it is the name of a file in its own folder on every system."""
    if not isinstance(name, str) or name in ("", ".", ".."):
        return False
    return len(name.encode(errors="replace")) <= _LONGEST and not set(name) & {"/", "\\", "\0"}
