"""The index: what counts of several segments, that nothing is lost, and that damage is named."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

import adaptzip
from adaptzip.errors import AdaptzipError, FormatError, RefusedError, UsageError
from adaptzip.files.digest import digest
from adaptzip.files.trees import Tree, tree_at
from adaptzip.fleet.store.index import Row, compact, read_rows, row_of, segments, write_rows
from adaptzip.testing.adapters import adapter

ROW = Row("a", "somebody/base", None, "x" * 22, "svd", 10, 0.25, 12)


@pytest.fixture(params=["folder", "bucket"])
def tree(request: pytest.FixtureRequest, tmp_path: Path) -> Tree:
    return tree_at(tmp_path if request.param == "folder" else f"memory://{secrets.token_hex(4)}/store")


def content_of_tree(tree: Tree) -> Mapping[str, bytes]:
    return {name: tree.read(name) for name in tree.names()}


def test_rows_are_read_back_sorted(tree: Tree) -> None:
    assert read_rows(tree) == {}
    rows = [replace(ROW, name="team/b", base=None, group="grün", shared="y" * 22), ROW]
    file = write_rows(tree, rows)
    assert file is not None
    assert list(read_rows(tree).items()) == [("a", ROW), ("team/b", rows[0])]
    assert write_rows(tree, []) is None
    assert segments(tree) == [file]


def test_later_segments_win_and_nothing_is_rewritten(tree: Tree) -> None:
    write_rows(tree, [ROW, replace(ROW, name="b")])
    before = content_of_tree(tree)
    write_rows(tree, [replace(ROW, bytes=11), replace(ROW, name="c")])
    write_rows(tree, [], removed=["b"])
    assert before.items() <= content_of_tree(tree).items()
    assert {name: row.bytes for name, row in read_rows(tree).items()} == {"a": 11, "c": 10}
    write_rows(tree, [replace(ROW, name="b", bytes=12)])
    assert read_rows(tree)["b"].bytes == 12


def test_the_same_adds_make_the_same_bytes(tmp_path: Path) -> None:
    found = []
    for number in range(2):
        tree = tree_at(tmp_path / str(number))
        write_rows(tree, [ROW, replace(ROW, name="b")])
        write_rows(tree, [replace(ROW, bytes=11)], "worker-3")
        compact(tree)
        found.append(content_of_tree(tree))
    assert found[0] == found[1]


def test_two_writers_at_once_lose_nothing(tree: Tree, tmp_path: Path) -> None:
    """Both saw an empty index: their segments have one number, and stand beside each other."""
    other = tree_at(tmp_path / "other")
    write_rows(tree, [ROW, replace(ROW, name="mine")])
    file = write_rows(other, [replace(ROW, bytes=11), replace(ROW, name="theirs")])
    assert file is not None
    tree.write(file, other.read(file))
    found = read_rows(tree)
    assert found.keys() == {"a", "mine", "theirs"}
    last = segments(tree)[-1]
    assert found["a"].bytes == (11 if last == file else 10)
    compact(tree)
    assert read_rows(tree) == found


def test_a_named_segment_takes_the_place_of_its_earlier_self(tree: Tree) -> None:
    first = write_rows(tree, [ROW, replace(ROW, name="b")], "worker-3")
    assert write_rows(tree, [replace(ROW, name="b"), ROW], "worker-3") == first
    second = write_rows(tree, [ROW], "worker-3")
    assert segments(tree) == [second] != [first]
    assert read_rows(tree) == {"a": ROW}


def test_compacting_changes_nothing_that_is_read(tree: Tree) -> None:
    for number in range(5):
        write_rows(tree, [replace(ROW, bytes=number), replace(ROW, name=f"b{number}")])
    write_rows(tree, [], removed=["b2"])
    before = read_rows(tree)
    assert compact(tree) == 6
    assert len(segments(tree)) == 1
    assert read_rows(tree) == before
    assert compact(tree) == 1


class Killed(Exception):
    pass


def test_a_killed_compaction_loses_nothing(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        write_rows(tree, [replace(ROW, bytes=number), replace(ROW, name=f"b{number}")], removed=["a2"])
    write_rows(tree, [], removed=["b1"])
    before = read_rows(tree)
    for allowed in range(4):
        removed = iter(range(allowed))

        def remove(name: str, tree: Tree = tree, removed: object = removed, real: object = type(tree).remove) -> None:
            if next(removed, None) is None:  # type: ignore[call-overload]
                raise Killed
            real(tree, name)  # type: ignore[operator]

        with monkeypatch.context() as patched:
            patched.setattr(tree, "remove", remove)
            with pytest.raises(Killed):
                compact(tree)
        assert read_rows(tree) == before
        write_rows(tree, [replace(ROW, name="a2")], removed=["b1"])
        write_rows(tree, [], removed=["a2"])


def test_a_row_written_while_segments_are_joined_stays(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    write_rows(tree, [ROW])
    write_rows(tree, [replace(ROW, name="b")])
    real = tree.write

    def write(name: str, content: bytes) -> None:
        monkeypatch.undo()
        write_rows(tree, [replace(ROW, bytes=99)], removed=["b"])
        real(name, content)

    monkeypatch.setattr(tree, "write", write)
    compact(tree)
    assert {name: row.bytes for name, row in read_rows(tree).items()} == {"a": 99}


def test_a_reader_looks_again_where_segments_were_joined(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    write_rows(tree, [ROW])
    write_rows(tree, [replace(ROW, name="b")])
    real = tree.read

    def read(name: str) -> bytes:
        monkeypatch.undo()
        compact(tree)
        return real(name)

    monkeypatch.setattr(tree, "read", read)
    assert read_rows(tree).keys() == {"a", "b"}


def test_a_row_tells_what_a_file_says() -> None:
    made = adaptzip.compress(adapter({"m.0": (12, 10, 3)}), max_error=0.1)
    content = made.to_bytes()
    row = row_of("team/a", adaptzip.open(content), content, "team")
    assert row == Row(
        *("team/a", None, None, digest([content]), made.method, len(content), made.provenance.relative_error),
        *(made.provenance.parameters, None, "team"),
    )
    with pytest.raises(UsageError):
        row_of("../a", made, content)


def test_names_that_stand_twice_or_are_none_are_refused(tree: Tree) -> None:
    with pytest.raises(UsageError, match="twice"):
        write_rows(tree, [ROW], removed=["a"])
    with pytest.raises(UsageError, match="no name"):
        write_rows(tree, [replace(ROW, name="../a")])
    with pytest.raises(FormatError, match="no segment"):
        write_rows(tree, [ROW], "a/b")
    assert tree.names() == []


HEAD = b'{"adaptzip-index": 1}\n'
DAMAGED = {
    "empty": b"",
    "no head": b'{"name": "a", "generation": 1, "removed": true}\n',
    "cut off": HEAD + b'{"name": "a", "gener',
    "not a row": HEAD + b"[]\n",
    "a field too many": HEAD + b'{"name": "a", "generation": 1, "removed": true, "x": 1}\n',
    "negative": HEAD + b'{"name": "a", "generation": -1, "removed": true}\n',
    "leads out": HEAD + b'{"name": "../a", "generation": 1, "removed": true}\n',
    "twice": HEAD + b'{"name": "a", "name": "b", "generation": 1, "removed": true}\n',
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_damage_is_named_by_segment(tree: Tree, content: bytes) -> None:
    tree.write("index/000000000001-x.jsonl", content)
    with pytest.raises(FormatError, match=r"index/000000000001-x.jsonl: line \d"):
        read_rows(tree)


@pytest.mark.parametrize(("field", "value"), [("bytes", True), ("error", "1"), ("base", 3), ("parameters", -1)])
def test_values_of_other_kinds_are_refused(tree: Tree, field: str, value: object) -> None:
    write_rows(tree, [replace(ROW, **{field: value})])  # type: ignore[arg-type]
    with pytest.raises(FormatError, match="line 2 is no row"):
        read_rows(tree)


def test_a_newer_index_and_a_foreign_file_are_refused(tree: Tree) -> None:
    tree.write("index/000000000001-x.jsonl", b'{"adaptzip-index": 2}\n')
    with pytest.raises(RefusedError, match="index format 2 is not 1"):
        read_rows(tree)
    tree.write("index/notes.txt", b"")
    with pytest.raises(AdaptzipError, match=r"index/notes.txt is no segment"):
        read_rows(tree)
