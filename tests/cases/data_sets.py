"""Rows in files as the Hub has them, and a Hub of one's own with data sets."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.cases.hub_server import Files, serving

Rows = Sequence[Mapping[str, Any]]


def parquet(rows: Rows) -> bytes:
    import pyarrow
    from pyarrow.parquet import write_table

    made = io.BytesIO()
    write_table(pyarrow.Table.from_pylist([dict(row) for row in rows]), made)
    return made.getvalue()


def lines(rows: Rows) -> bytes:
    return "".join(f"{json.dumps(row)}\n" for row in rows).encode()


@contextmanager
def serving_sets(sets: Mapping[str, Files], folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Let datasets ask a server on this machine, with caches in a folder; gives what it was asked for."""
    from datasets import disable_progress_bars
    from huggingface_hub import constants

    for name in ("HF_DATASETS_CACHE", "DOWNLOADED_DATASETS_PATH"):
        monkeypatch.setattr(f"datasets.config.{name}", str(folder / name))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder / "hub"))
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", False)
    disable_progress_bars()
    with serving(sets, monkeypatch) as asked:
        monkeypatch.setattr("datasets.config.HF_ENDPOINT", constants.ENDPOINT)
        yield asked
