"""Where adapters are unpacked for engines."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from pathlib import Path

from adaptzip.files.user_cache import cache_folder

_SERVED = "served"


def cache_at(named: str | None) -> Path:
    """The folder that is named, or one in the user's cache; where there is none, one that goes with this process."""
    if named:
        return Path(named).expanduser().absolute()
    cache = cache_folder()
    if cache is not None:
        return cache / _SERVED
    folder = tempfile.mkdtemp(prefix="adaptzip-served-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)
