"""A folder takes another's place in one step; without such a step nothing is lost either."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from pathlib import Path

import pytest

from adaptzip.errors import OutputError
from adaptzip.files import exchange as module
from adaptzip.files.exchange import exchange, replace_folder, sync_folder, sync_tree


def folder(path: Path, content: str) -> Path:
    path.mkdir()
    (path / "mine").write_text(content)
    return path


def no_exchange(monkeypatch: pytest.MonkeyPatch, code: int = errno.EINVAL) -> None:
    """As on a file system without it."""

    def call(one: bytes, other: bytes) -> int:
        ctypes.set_errno(code)
        return -1

    monkeypatch.setattr(module, "_call", lambda: call)


@pytest.mark.skipif(sys.platform not in ("linux", "darwin"), reason="others have no exchange")
def test_two_folders_change_places(tmp_path: Path) -> None:
    one, other = folder(tmp_path / "one", "1"), folder(tmp_path / "other", "2")
    if not exchange(one, other):
        pytest.skip("the file system of temporary files has no exchange")
    assert ((one / "mine").read_text(), (other / "mine").read_text()) == ("2", "1")
    with pytest.raises(FileNotFoundError):
        exchange(one, tmp_path / "missing")


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOSYS, errno.EPERM])
def test_two_steps_where_there_is_no_exchange(code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_exchange(monkeypatch, code)
    new, target, old = folder(tmp_path / "new", "new"), folder(tmp_path / "target", "old"), tmp_path / "old"
    replace_folder(new, target, old)
    assert (target / "mine").read_text() == "new"
    assert (old / "mine").read_text() == "old"
    assert not new.exists()


def test_no_call_at_all_is_no_exchange(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_call", lambda: None)
    assert not exchange(folder(tmp_path / "a", ""), folder(tmp_path / "b", ""))


@pytest.mark.parametrize("one_step", [True, False])
@pytest.mark.parametrize("existing", [True, False])
@pytest.mark.parametrize("failing", [1, 2])
def test_the_target_is_as_it_was_where_the_disk_fails(
    failing: int, existing: bool, one_step: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not one_step:
        no_exchange(monkeypatch)
    new, target, old = folder(tmp_path / "new", "new"), tmp_path / "target", tmp_path / "old"
    if existing:
        folder(target, "old")
    synced: list[Path] = []

    def sync(path: Path) -> None:
        synced.append(path)
        if len(synced) == failing:
            raise OSError(errno.EIO, "the disk fails")

    monkeypatch.setattr(module, "sync_folder", sync)
    with pytest.raises(OSError, match="the disk fails"):
        replace_folder(new, target, old)
    assert (new / "mine").read_text() == "new"
    assert not old.exists()
    assert (target / "mine").read_text() == "old" if existing else not target.exists()


def test_the_second_of_two_steps_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_exchange(monkeypatch)
    new, target = folder(tmp_path / "new", "new"), folder(tmp_path / "target", "old")
    rename, calls = Path.rename, []

    def failing(self: Path, to: Path) -> Path:
        calls.append(to)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(KeyboardInterrupt):
        replace_folder(new, target, tmp_path / "old")
    assert (target / "mine").read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["new", "target"]


def test_every_file_and_folder_is_synced_the_innermost_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    (inner / "deep").write_text("x")
    (tmp_path / "top").write_text("x")
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_ino))
    sync_tree(tmp_path)
    where = [synced.index(path.stat().st_ino) for path in (inner / "deep", inner, inner.parent, tmp_path)]
    assert where == sorted(where)
    assert (tmp_path / "top").stat().st_ino in synced


def test_a_folder_that_cannot_be_synced_is_no_error_but_a_failing_disk_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(code: int) -> None:
        def fsync(descriptor: int) -> None:
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(os, "fsync", fsync)

    fails(errno.EINVAL)
    sync_folder(tmp_path)
    fails(errno.EIO)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)) as caught:
        sync_folder(tmp_path)
    assert not isinstance(caught.value, OutputError)
