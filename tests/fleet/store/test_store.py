"""Adding to a store, listing it, getting out of it, and tidying it."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Any

import pytest

import adaptzip
from adaptzip.bases.artefact import read_basis, write_basis
from adaptzip.bases.updates import build_basis
from adaptzip.errors import (
    AdaptzipWarning,
    CheckFailedError,
    CheckpointError,
    FormatError,
    OutputError,
    RefusedError,
    UsageError,
)
from adaptzip.files.trees import Tree, tree_at
from adaptzip.files.trees.folder import DRAFTS
from adaptzip.fleet.adding import default_name
from adaptzip.fleet.store import tidying
from adaptzip.fleet.store.access import basis_of, fetch, save
from adaptzip.fleet.store.index import read_rows, segments
from adaptzip.fleet.store.listing import rows_of
from adaptzip.fleet.store.tidying import gc
from adaptzip.testing.adapters import same_factors
from tests.cases.hub_server import cached
from tests.cases.stores import Team, add, plain
from tests.cases.unlistable import unlistable


@pytest.fixture(params=["folder", "bucket"])
def tree(request: pytest.FixtureRequest, tmp_path: Path) -> Tree:
    return tree_at(tmp_path / "store" if request.param == "folder" else f"memory://{secrets.token_hex(4)}/store")


def test_what_is_added_is_fetched(tree: Tree, alone: Path, team: Team) -> None:
    row = add(tree, alone)
    assert (row.name, row.shared, row.bytes) == ("alone", None, alone.stat().st_size)
    members = [add(tree, file, f"team/{file.stem}", group="team", basis=team.basis) for file in team.files]
    assert [(one.shared, one.group) for one in members] == [(team.hash, "team")] * 2
    assert tree.names("shared") == [f"shared/{team.hash}.basis"]
    assert list(rows_of(tree).rows.values()) == [row, *members]
    for name, file in {"alone": alone, "team/member1": team.files[1]}.items():
        found = fetch(tree, name)
        assert found.content == file.read_bytes()
        again = adaptzip.reconstruct(found.compressed, basis=basis_of(tree, found))
        assert same_factors(again, adaptzip.read(file, basis=team.basis))


def test_a_source_is_compressed_with_its_settings(tree: Tree) -> None:
    row = add(tree, plain(), "small", max_error=0.3)
    assert 0.2 < row.error <= 0.3
    with pytest.raises(UsageError, match="has no name to be stored under"):
        add(tree, plain())
    with pytest.raises(UsageError, match="'' is no name|'.adz' is no name"):
        add(tree, plain(), "")


def test_what_an_adapter_is_called_where_nobody_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder.v2").mkdir()
    (tmp_path / "file.v2.adz").write_bytes(b"")
    snapshot = cached(tmp_path, "somebody/thing", {"adapter_config.json": b""})
    names: dict[str, str | Path] = {"folder.v2": tmp_path / "folder.v2", "file.v2": tmp_path / "file.v2.adz"}
    names["thing"], names["other"] = snapshot, "hf://somebody/other@main"
    for name, source in names.items():
        assert default_name(source) == name
    monkeypatch.chdir(tmp_path / "folder.v2")
    assert default_name(".") == "folder.v2"


def test_what_stands_on_another_adapter_is_told_of(tree: Tree, tmp_path: Path) -> None:
    adaptzip.export(plain(), tmp_path / "kin", as_="peft")
    made = adaptzip.compress(plain(), start=tmp_path / "kin")
    assert made.basis is not None
    assert made.basis.source == "reference"
    with pytest.warns(AdaptzipWarning, match="a: stands on another adapter's A"):
        add(tree, made, "a")
    assert fetch(tree, "a").artefact is None


def test_an_artefact_that_is_there_is_not_asked_for_again(tree: Tree, team: Team) -> None:
    add(tree, team.files[0], basis=read_basis(team.basis))
    add(tree, team.files[1])
    assert len(tree.names("shared")) == 1
    assert basis_of(tree, fetch(tree, "member1")) is not None


def test_what_would_not_decode_is_refused_before_anything_is_written(tree: Tree, team: Team, tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match=f"refers to shared/{team.hash}.basis"):
        add(tree, team.files[0])
    write_basis(build_basis([plain(9)]), tmp_path / "other.basis")
    with pytest.raises(RefusedError, match="has hash"):
        add(tree, team.files[0], basis=tmp_path / "other.basis")
    damaged = tmp_path / "damaged.adz"
    damaged.write_bytes(team.files[0].read_bytes()[:-1] + b"?")
    with pytest.raises(FormatError, match="damaged.adz: "):
        add(tree, damaged, basis=team.basis)
    with pytest.raises(UsageError, match="a .adz is stored as it is"):
        add(tree, team.files[0], basis=team.basis, budget="50%")
    assert tree.names() == []


def test_names_that_are_taken_are_refused(tree: Tree, alone: Path) -> None:
    add(tree, alone, "Straße/é")
    with pytest.raises(OutputError, match="has an adapter 'Straße/é'"):
        add(tree, alone, "Straße/é")
    for name in ("STRASSE/é", "straße/É", "Straße/e\u0301"):
        with pytest.raises(OutputError, match="by case or accents' spelling alone"):
            add(tree, alone, name, force=True)
    row = add(tree, plain(4), "Straße/é", force=True)
    assert read_rows(tree) == {"Straße/é": row}
    for name in ("shared/a", "Index/a", "../a", ".a", "a/.b", "x" * 252):
        with pytest.raises(UsageError):
            add(tree, alone, name)


def test_fetching_names_what_is_missing_or_damaged(tree: Tree, team: Team) -> None:
    add(tree, team.files[0], basis=team.basis)
    with pytest.raises(CheckpointError, match=r"none.adz: no such file"):
        fetch(tree, "none")
    artefact = f"shared/{team.hash}.basis"
    whole = tree.read(artefact)
    tree.write(artefact, whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(FormatError, match="is damaged: its hash does not match"):
        basis_of(tree, fetch(tree, "member0"))
    tree.remove(artefact)
    with pytest.raises(RefusedError, match=f"member0.adz: needs {artefact}, which the store lacks"):
        fetch(tree, "member0")
    tree.write("member0.adz", b"?")
    with pytest.raises(FormatError, match=r"member0.adz: "):
        fetch(tree, "member0")


def test_saved_beside_each_other_a_folder_is_basis_enough(tree: Tree, team: Team, tmp_path: Path) -> None:
    for file in team.files:
        add(tree, file, basis=team.basis)
    out = tmp_path / "out"
    out.mkdir()
    found = fetch(tree, "member0")
    assert [path.name for path in save(tree, found, out / "m.adz")] == ["m.adz", f"{team.hash}.basis"]
    assert [path.name for path in save(tree, fetch(tree, "member1"), out / "n.adz")] == ["n.adz"]
    assert same_factors(adaptzip.read(out / "m.adz", basis=out), adaptzip.read(team.files[0], basis=team.basis))
    with pytest.raises(OutputError):
        save(tree, found, out / "m.adz")
    (out / f"{team.hash}.basis").write_bytes(b"?")
    with pytest.raises(FormatError):
        save(tree, found, out / "other.adz")
    assert not (out / "other.adz").exists()


def test_a_store_is_basis_enough(team: Team, tmp_path: Path) -> None:
    tree = tree_at(tmp_path / "store")
    add(tree, team.files[0], basis=team.basis)
    expected = adaptzip.read(team.files[0], basis=team.basis)
    for place in (tmp_path / "store", tmp_path / "store" / "shared"):
        assert same_factors(adaptzip.read(team.files[0], basis=place), expected)
    with pytest.raises(RefusedError, match=f"{tmp_path}: has no artefact of hash {team.hash}"):
        adaptzip.read(team.files[0], basis=tmp_path)


def test_a_plain_folder_is_a_store(tmp_path: Path, alone: Path, team: Team) -> None:
    (tmp_path / "sub").mkdir()
    for name, file in {"a": alone, "sub/b": team.files[0]}.items():
        (tmp_path / f"{name}.adz").write_bytes(file.read_bytes())
    (tmp_path / "broken.adz").write_bytes(b"?")
    (tmp_path / "a:b.adz").write_bytes(b"?")
    (tmp_path / "notes.txt").write_bytes(b"?")
    found = rows_of(tree_at(tmp_path))
    assert found.rows.keys() == {"a", "sub/b"}
    assert found.unlisted == ("a", "sub/b")
    assert found.damaged.keys() == {"broken", "a:b"}
    assert found.rows["sub/b"].shared == team.hash
    assert (found.bytes, found.missing, found.shared) == (sum(row.bytes for row in found.rows.values()), (), {})


def test_a_listing_reads_no_file_that_the_index_knows(tree: Tree, alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add(tree, alone, "a")
    add(tree, alone, "b")
    tree.write("b.adz", alone.read_bytes() + b"?")
    tree.remove("a.adz")
    found = rows_of(tree)
    assert (found.missing, list(found.damaged), dict(found.rows)) == (("a",), ["b"], {})
    tree.write("b.adz", alone.read_bytes())
    real = tree.read
    monkeypatch.setattr(tree, "read", lambda name: real(name) if name.startswith("index/") else pytest.fail(name))
    assert list(rows_of(tree).rows) == ["b"]


def test_tidying(tree: Tree, alone: Path, team: Team) -> None:
    for file in team.files:
        add(tree, file, basis=team.basis)
    add(tree, alone)
    tree.write("unlisted.adz", alone.read_bytes())
    tree.remove("alone.adz")
    artefact, other, noted = f"shared/{team.hash}.basis", f"shared/{'x' * 22}.basis", f"shared/{'y' * 22}.bank"
    tree.write(other, b"123")
    tree.write(noted, b"45")
    tree.write("shared/readme.txt", b"")
    tree.write("work/job.jsonl", b'{"basis": "' + b"y" * 22 + b'"}')
    before = {name: tree.read(name) for name in tree.names()}
    planned = gc(tree, dry_run=True)
    assert {name: tree.read(name) for name in tree.names()} == before
    done = gc(tree)
    assert done == planned
    assert (done.artefacts, done.bytes) == ({other: 3}, 3)
    assert (done.rows, done.added, done.segments, done.damaged) == (("alone",), ("unlisted",), 4, ())
    assert tree.names("shared") == sorted([artefact, noted, "shared/readme.txt"])
    assert len(segments(tree)) == 1
    assert read_rows(tree).keys() == {"member0", "member1", "unlisted"}
    assert all(basis_of(tree, fetch(tree, name)) is not None for name in ("member0", "member1"))
    again = gc(tree)
    assert (again.artefacts, again.rows, again.added, again.segments) == ({}, (), (), 0)


def test_what_a_wrong_row_does_not_name_stays(tree: Tree, alone: Path, team: Team) -> None:
    """The index is believed where an artefact is needed, and never where it is not."""
    add(tree, team.files[0], "a", basis=team.basis)
    (file,) = segments(tree)
    tree.write(file, tree.read(file).replace(team.hash.encode(), b"z" * 22))
    assert gc(tree).artefacts == {}
    size = tree.size("a.adz")
    assert size is not None
    tree.write("a.adz", b"?" * size)
    found = gc(tree)
    assert (found.artefacts, found.damaged) == ({}, ("a",))


def test_an_artefact_that_another_run_needs_meanwhile_is_put_back(
    tree: Tree, team: Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    artefact = f"shared/{team.hash}.basis"
    tree.write(artefact, team.basis.read_bytes())
    real = tree.remove

    def remove(name: str) -> None:
        monkeypatch.undo()
        tree.write("late.adz", team.files[0].read_bytes())
        real(name)

    monkeypatch.setattr(tree, "remove", remove)
    gc(tree)
    assert basis_of(tree, fetch(tree, "late")) is not None


def test_an_artefact_that_goes_while_its_adapter_is_added_is_put_back(
    tree: Tree, team: Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = tree.write

    def write(name: str, content: bytes) -> None:
        if name.endswith(".adz"):
            monkeypatch.undo()
            assert gc(tree).artefacts
        real(name, content)

    monkeypatch.setattr(tree, "write", write)
    add(tree, team.files[0], basis=team.basis)
    assert basis_of(tree, fetch(tree, "member0")) is not None


def test_drafts_of_killed_runs_go_and_those_of_others_stay(tmp_path: Path, alone: Path) -> None:
    tree = tree_at(tmp_path)
    add(tree, alone)
    for name, age in {"old": 7200, "new": 60}.items():
        path = tmp_path / DRAFTS / name
        path.write_bytes(b"")
        os.utime(path, (path.stat().st_mtime - age,) * 2)
    assert gc(tree).drafts == (f"{DRAFTS}/old",)
    assert [path.name for path in (tmp_path / DRAFTS).iterdir()] == ["new"]


def test_no_adapter_is_ever_removed(tree: Tree, alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add(tree, alone)
    tree.write("shared/x.adz", b"")
    tree.write("damaged.adz", b"")
    removed: list[str] = []
    real = tree.remove

    def remove(name: str) -> None:
        removed.append(name)
        real(name)

    monkeypatch.setattr(tree, "remove", remove)
    monkeypatch.setattr(tidying, "_noted", lambda *_: set())
    add(tree, alone, "b")
    gc(tree)
    assert removed
    assert all(name.startswith("index/") for name in removed)


def test_what_is_removed_is_gone_and_what_it_shared_goes_with_tidying(tree: Tree, alone: Path, team: Team) -> None:
    add(tree, alone, "a")
    row = add(tree, team.files[0], "team/b", basis=team.basis)
    with pytest.raises(CheckpointError, match="has no adapter 'c'"):
        adaptzip.remove_from_store(tree.location, ["a", "c"])
    assert sorted(rows_of(tree).rows) == ["a", "team/b"]
    assert adaptzip.remove_from_store(tree.location, ["team/b", "team/b"]) == row.bytes
    found = rows_of(tree)
    assert (list(found.rows), found.missing, len(found.shared)) == (["a"], (), 1)
    assert list(gc(tree).artefacts) == [f"shared/{team.hash}.basis"]
    # One whose file somebody has removed already, and one that no index knows.
    tree.remove("a.adz")
    assert adaptzip.remove_from_store(tree.location, ["a"]) == 0
    tree.write("bare.adz", alone.read_bytes())
    assert adaptzip.remove_from_store(tree.location, ["bare"]) == alone.stat().st_size
    assert not rows_of(tree).rows
    with pytest.raises(UsageError):
        adaptzip.remove_from_store(tree.location, ["../outside"])


def test_a_folder_that_cannot_be_listed_is_not_empty(
    tmp_path: Path, team: Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = tree_at(tmp_path / "store")
    add(tree, team.files[0], "team/one", basis=team.basis)
    unlistable(monkeypatch, "team")
    for look in (rows_of, gc):
        with pytest.raises(CheckpointError, match="Permission denied"):
            look(tree)
    monkeypatch.undo()
    assert gc(tree).artefacts == {}


def test_a_run_that_is_killed_while_it_tidies_loses_nothing(
    tree: Tree, team: Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree.write(f"shared/{team.hash}.basis", team.basis.read_bytes())
    real = tidying._needed

    def killed(*given: Any) -> Any:
        """Between the removal and the second look another run has added an adapter."""
        if tree.size(f"shared/{team.hash}.basis") is None:
            tree.write("late.adz", team.files[0].read_bytes())
            raise KeyboardInterrupt
        return real(*given)

    monkeypatch.setattr(tidying, "_needed", killed)
    with pytest.raises(KeyboardInterrupt):
        gc(tree)
    monkeypatch.undo()
    with pytest.raises(RefusedError, match="which the store lacks") as refused:
        fetch(tree, "late")
    assert "`adaptzip store gc` puts it back" in str(refused.value.hint)
    assert gc(tree).put_back == (f"shared/{team.hash}.basis",)
    assert basis_of(tree, fetch(tree, "late")) is not None


def test_what_is_removed_while_it_is_added_is_not_added(
    tree: Tree, team: Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(tree, team.files[0], "first", basis=team.basis)
    real = tree.write

    def write(name: str, content: bytes) -> None:
        real(name, content)
        if name == "second.adz":
            tree.remove(f"shared/{team.hash}.basis")

    monkeypatch.setattr(type(tree), "write", lambda _, name, content: write(name, content))
    with pytest.raises(CheckFailedError, match="was removed by somebody else while 'second' was added"):
        add(tree, team.files[1], "second")
    assert tree.size("second.adz") is None


@pytest.mark.parametrize("content", [b"junk", b"[]", b'{"artefacts": [{}]}', b'{"artefacts": 3}', b"\xff"])
def test_damaged_notes_of_jobs_are_passed_over(tree: Tree, team: Team, content: bytes) -> None:
    tree.write(f"shared/{team.hash}.basis", team.basis.read_bytes())
    tree.write("work/x/summary/000000.json", content)
    assert list(gc(tree).artefacts) == [f"shared/{team.hash}.basis"]
    assert isinstance(adaptzip.report_fleet(tree.location) if rows_of(tree).rows else {}, dict)


def test_numbers_that_no_row_and_no_segment_has(tree: Tree, alone: Path) -> None:
    add(tree, alone, "a")
    (segment,) = segments(tree)
    content = tree.read(segment).decode()
    for before, after in (
        ('"error": ', '"error": 1' + "0" * 400 + "."),
        ('"generation": ', '"generation": 1' + "0" * 30),
    ):
        tree.write("index/000000000009-x.jsonl", content.replace(before, after, 1).encode())
        with pytest.raises(FormatError, match="is no row|line 2"):
            read_rows(tree)
    tree.write("index/000000000009-x.jsonl", content.encode())
    tree.write("index/999999999999-x.jsonl", content.encode())
    with pytest.raises(FormatError, match="the last that there can be"):
        gc(tree)
    assert list(read_rows(tree)) == ["a"]


def test_what_is_no_file_is_not_waited_for(tmp_path: Path, alone: Path, team: Team) -> None:
    tree = tree_at(tmp_path / "store")
    add(tree, alone, "a")
    add(tree, team.files[0], "b", basis=team.basis)
    os.mkfifo(tmp_path / "store" / "index" / "000000000009-d.jsonl")
    os.mkfifo(tmp_path / "store" / "pipe.adz")
    assert list(rows_of(tree).rows) == ["a", "b"]
    with pytest.raises(CheckpointError, match="no such file"):
        fetch(tree, "pipe")
    (tmp_path / "out").mkdir()
    os.mkfifo(tmp_path / "out" / f"{team.hash}.basis")
    with pytest.raises(OutputError, match="is no file"):
        save(tree, fetch(tree, "b"), tmp_path / "out" / "b.adz")
