"""Finished parts are seen by runs of the same key, whatever else stands in the note."""

from __future__ import annotations

from pathlib import Path

import pytest

from adaptzip.files.journal import DONE, Journal


def test_parts_are_noted_under_their_key(tmp_path: Path) -> None:
    journal = Journal.beside(tmp_path / "new", "mine")
    assert journal.path == tmp_path / DONE
    assert journal.parts() == {}
    journal.note("a", sample="1", broken=())
    Journal(journal.path, "theirs").note("b", sample="2")
    journal.note("c")
    assert {name: part.get("sample") for name, part in journal.parts().items()} == {"a": "1", "c": None}
    assert list(Journal(journal.path, "theirs").parts()) == ["b"]


@pytest.mark.parametrize(
    "cut", [b'{"key": "mine", "part": "b"', b"\xff", b"[" * 100_000, b'{"key": "mine", "part": 3}', b"3"]
)
def test_a_line_that_is_none_costs_no_other(cut: bytes, tmp_path: Path) -> None:
    journal = Journal(tmp_path / DONE, "mine")
    journal.note("a")
    with journal.path.open("ab") as handle:
        handle.write(cut)
    journal.note("c")
    assert list(journal.parts()) == ["a", "c"]


def test_a_link_is_no_note(tmp_path: Path) -> None:
    Journal(tmp_path / "real", "mine").note("a")
    (tmp_path / DONE).symlink_to(tmp_path / "real")
    assert Journal(tmp_path / DONE, "mine").parts() == {}
