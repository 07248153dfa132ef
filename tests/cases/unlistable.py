"""A folder that cannot be listed, whoever runs the tests."""

from __future__ import annotations

import errno
import os
from typing import Any

import pytest


def unlistable(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Let no folder of a name be listed, for want of rights."""
    real = os.scandir

    def scandir(path: Any) -> Any:
        if str(path).endswith(f"/{name}"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
