"""The Hub's cache on disk: its main snapshot, and links that lead to its blobs or elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from adaptzip.files.hub_cache import leads_out, main_snapshot


@pytest.mark.parametrize("content", [b"abc123", b"abc123\n"])
def test_the_main_snapshot(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "refs").mkdir()
    (tmp_path / "refs" / "main").write_bytes(content)
    assert main_snapshot(tmp_path) == tmp_path / "snapshots" / "abc123"


@pytest.mark.parametrize("content", [b"", b"../..", b"\xff\xfe", None])
def test_no_main_snapshot(tmp_path: Path, content: bytes | None) -> None:
    (tmp_path / "refs").mkdir()
    if content is not None:
        (tmp_path / "refs" / "main").write_bytes(content)
    assert main_snapshot(tmp_path) is None


def test_links_to_blobs_do_not_lead_out(tmp_path: Path) -> None:
    folder = tmp_path / "snapshots" / "abc" / "sub"
    folder.mkdir(parents=True)
    (tmp_path / "blobs").mkdir()
    for name, target in (("blob", tmp_path / "blobs" / "1"), ("out", tmp_path / "1"), ("own", folder / "1")):
        target.write_text("x")
        (folder / name).symlink_to(target)
    assert [leads_out(folder / name, folder) for name in ("blob", "out", "own", "1")] == [False, True, False, False]
