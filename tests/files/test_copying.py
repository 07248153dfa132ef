"""Moving bytes between open files, by the kernel or through memory."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from adaptzip.files.copying import copy_range, write_at

DATA = bytes(range(256)) * 40


@pytest.fixture
def handles(tmp_path: Path) -> Iterator[tuple[int, int]]:
    (tmp_path / "source").write_bytes(DATA)
    source, target = (os.open(tmp_path / name, os.O_RDWR | os.O_CREAT) for name in ("source", "target"))
    yield source, target
    os.close(source)
    os.close(target)


def content(handle: int) -> bytes:
    return os.pread(handle, 1 << 20, 0)


@pytest.mark.parametrize("refuses", [None, errno.EXDEV, errno.ENOSYS, 0])
def test_a_range_is_copied_to_its_place(
    refuses: int | None, handles: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`0` stands for a kernel that copies nothing, as it does between some file systems."""

    def never(*_: object) -> int:
        if refuses:
            raise OSError(refuses, "no")
        return 0

    if refuses is not None:
        monkeypatch.setattr(os, "copy_file_range", never, raising=False)
    copy_range(handles[0], 100, handles[1], 7, 5000)
    assert content(handles[1]) == bytes(7) + DATA[100:5100]


def test_what_ends_too_early_is_told(handles: tuple[int, int]) -> None:
    with pytest.raises(EOFError):
        copy_range(handles[0], len(DATA) - 5, handles[1], 0, 6)


def test_other_errors_of_the_system_pass(handles: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "copy_file_range", full, raising=False)
    with pytest.raises(OSError, match="full"):
        copy_range(handles[0], 0, handles[1], 0, 10)


def test_short_reads_and_writes_go_on(handles: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pread, os.pwrite
    monkeypatch.setattr(os, "copy_file_range", lambda *_: 0, raising=False)
    monkeypatch.setattr(os, "pread", lambda handle, size, place: read(handle, min(size, 5), place))
    monkeypatch.setattr(os, "pwrite", lambda handle, data, place: write(handle, data[:3], place))
    copy_range(handles[0], 50, handles[1], 2, 12)
    monkeypatch.undo()
    assert content(handles[1]) == bytes(2) + DATA[50:62]


def test_a_short_write_is_finished(handles: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda handle, data, place: write(handle, data[:3], place))
    write_at(handles[1], memoryview(DATA[50:60]), 2)
    assert content(handles[1]) == bytes(2) + DATA[50:60]
