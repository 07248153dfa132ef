"""A whole fleet into a store: what is shared pays, nothing is lost, and the same comes of it however it is done."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

import adaptzip
from adaptzip.core.comparing import diff
from adaptzip.errors import CheckFailedError, CheckpointError, UsageError
from adaptzip.files.trees import tree_at
from adaptzip.files.trees.folder import Folder
from adaptzip.fleet.checking import report_fleet, verify_fleet
from adaptzip.fleet.engines import fleet_engine
from adaptzip.fleet.jobs import build_fleet_bank, build_fleet_basis, compress_fleet
from adaptzip.fleet.store.index import read_rows
from adaptzip.fleet.store.tidying import gc
from tests.cases.fleets import digests, make_fleet

SHARED: dict[str, Any] = {"size": 12, "share": 0.99, "max_error": 0.2}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return make_fleet(tmp_path_factory.mktemp("fleet") / "fleet", 24)


@pytest.fixture(scope="module")
def filled(folders: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a basis, and every adapter."""
    store = tmp_path_factory.mktemp("filled") / "store"
    build_fleet_basis(folders, store, **SHARED)
    compress_fleet(folders, store, max_error=0.2)
    return store


def test_what_is_shared_pays(filled: Path, folders: list[Path], tmp_path: Path) -> None:
    alone = compress_fleet(folders, tmp_path / "alone", max_error=0.2, share="never").values
    shared = report_fleet(filled)
    assert shared["adapters"] == len(folders)
    assert shared["bytes"] < alone["bytes"] == alone["alone_bytes"]
    assert shared["methods"][0]["method"] == "lora-sb"
    whole = sum(file.stat().st_size for file in (*filled.glob("*.adz"), *filled.glob("shared/*")))
    assert shared["bytes"] == whole


def test_every_adapter_comes_back(filled: Path, folders: list[Path]) -> None:
    rows = read_rows(tree_at(filled))
    for folder in folders:
        row, file = rows[folder.name], filled / f"{folder.name}.adz"
        back = adaptzip.reconstruct(file, basis=filled / "shared" / f"{row.shared}.basis" if row.shared else None)
        error = diff(adaptzip.read(folder), back).relative_error
        assert error is not None
        assert error == pytest.approx(row.error, rel=1e-3)
        assert error <= 0.2
        assert row.bytes == file.stat().st_size
        assert row.base == "some/base"


def test_a_basis_that_does_not_pay_is_not_used(folders: list[Path], tmp_path: Path) -> None:
    few = folders[:5]
    build_fleet_basis(few, tmp_path / "store", **SHARED)
    assert gc(tree_at(tmp_path / "store")).artefacts == {}
    found = compress_fleet(few, tmp_path / "store", max_error=0.2).values
    assert [one["used"] for one in found["artefacts"]] == [False]
    assert list(gc(tree_at(tmp_path / "store")).artefacts) == [found["artefacts"][0]["file"]]
    assert found["methods"].keys() == {"svd"}
    assert found["bytes"] == found["alone_bytes"]


def test_a_budget_pays_for_what_is_shared(folders: list[Path], tmp_path: Path) -> None:
    build_fleet_basis(folders, tmp_path / "store", **SHARED)
    found = compress_fleet(folders, tmp_path / "store", budget="500B").values
    alone = compress_fleet(folders, tmp_path / "alone", budget="500B", share="never").values
    assert found["shared_bytes"] > 0
    assert found["bytes"] <= 500 * len(folders)
    assert found["error"] < alone["error"]


def test_workers_make_the_same(filled: Path, folders: list[Path], tmp_path: Path) -> None:
    store = tmp_path / "store"
    engine = fleet_engine(jobs=2)
    build_fleet_basis(folders, store, **SHARED, engine=engine)
    compress_fleet(folders, store, max_error=0.2, engine=engine)
    assert digests(store) == digests(filled)


def test_a_bank_is_used_where_it_is_wanted(folders: list[Path], tmp_path: Path) -> None:
    few = folders[:6]
    found = build_fleet_bank(few, tmp_path, length=4, vectors=96, top_k=2, rank=3, hold_out=0.2)
    (bank,) = found.values["banks"]
    assert (bank["members"], bank["held_out"], bank["vectors"], bank["length"]) == (5, 1, 96, 4)
    assert bank["bytes"] == (tmp_path / bank["file"]).stat().st_size
    forced = compress_fleet(few, tmp_path, max_error=0.8, share="always").values
    assert forced["methods"].keys() == {"vblora"}
    assert forced["shared_bytes"] == bank["bytes"]
    assert verify_fleet(tmp_path, few).failed == {}
    adaptzip.export(tmp_path / "a001.adz", tmp_path / "peft", as_="peft-vblora", basis=tmp_path)
    assert json.loads((tmp_path / "peft" / "adapter_config.json").read_text())["peft_type"] == "VBLORA"


def small_job(folders: list[Path], store: str | Path) -> None:
    build_fleet_basis(folders[:4], store, **SHARED)
    compress_fleet(folders[:4], store, max_error=0.2, share="always")


@pytest.fixture(scope="module")
def undisturbed(folders: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("undisturbed") / "store"
    small_job(folders, store)
    return store


def test_a_bucket_holds_the_same(undisturbed: Path, folders: list[Path]) -> None:
    where = "memory://fleets/store"
    small_job(folders, where)
    tree = tree_at(where)
    kept = digests(undisturbed)
    assert set(tree.names()) == set(kept)
    assert all(tree.read(name) == (undisturbed / name).read_bytes() for name in kept)


class Stop(BaseException):
    """What ends a run from without."""


@pytest.mark.parametrize("after", [2, 4, 6, 8, 12, 16, 20, 23])
def test_a_run_that_is_stopped_goes_on(
    after: int, undisturbed: Path, folders: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever file was written last, and whether it was a note or what the note is about."""
    written = 0
    write = Folder.write

    def stopping(self: Folder, name: str, content: bytes) -> None:
        nonlocal written
        written += 1
        if written == after:
            raise Stop
        write(self, name, content)

    with monkeypatch.context() as patch:
        patch.setattr(Folder, "write", stopping)
        with pytest.raises(Stop):
            small_job(folders, tmp_path / "store")
    small_job(folders, tmp_path / "store")
    assert digests(tmp_path / "store") == digests(undisturbed)


def test_what_is_done_is_not_done_again(filled: Path, folders: list[Path]) -> None:
    before = {file: file.stat().st_mtime_ns for file in filled.rglob("*") if file.is_file()}
    compress_fleet(folders, filled, max_error=0.2)
    assert {file: file.stat().st_mtime_ns for file in filled.rglob("*") if file.is_file()} == before


def test_adapters_of_the_store_are_not_replaced(filled: Path, folders: list[Path], tmp_path: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(filled, store)
    (store / "a003.adz").write_bytes(adaptzip.compress(folders[3], max_error=0.5).to_bytes())
    before = digests(store)
    with pytest.raises(UsageError, match=r"has an adapter 'a003' that no run over a fleet put there"):
        compress_fleet(folders, store, max_error=0.4)
    assert digests(store, "work") == {name: told for name, told in before.items() if not name.startswith("work/")}
    # What was refused has taken away nothing of what is known of the others, whichever run is typed next.
    for again in (0.2, 0.4):
        with pytest.raises(UsageError, match=r"'a003' that no run over a fleet put there, or that has changed since$"):
            compress_fleet(folders, store, max_error=again)
    found = compress_fleet(folders, store, max_error=0.4, force=True)
    assert found.values["error"] > 0.3
    assert verify_fleet(store, folders).values["compared"] == len(folders)


def test_an_adapter_that_was_taken_away_is_made_again(filled: Path, folders: list[Path], tmp_path: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(filled, store)
    (store / "a007.adz").unlink()
    others = {file: file.stat().st_mtime_ns for file in store.glob("a02*.adz")}
    assert verify_fleet(store).failed["a007"]["message"] == "its row has no file"
    compress_fleet(folders, store, max_error=0.2)
    assert digests(store, "work") == digests(filled, "work")
    assert {file: file.stat().st_mtime_ns for file in others} == others


def test_a_basis_that_was_taken_away_is_made_again(filled: Path, folders: list[Path], tmp_path: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(filled, store)
    (basis,) = (store / "shared").iterdir()
    # Directions that the basis was chosen from are gone when it is written.
    assert not [file for file in store.rglob("work/basis-*/directions/*") if file.suffix != ".json"]
    basis.unlink()
    build_fleet_basis(folders, store, **SHARED)
    assert digests(store, "work") == digests(filled, "work")


def test_a_report_tells_what_is_still_there(filled: Path, folders: list[Path], tmp_path: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(filled, store)
    compress_fleet(folders[:5], store, max_error=0.5, share="never")
    report = report_fleet(store)
    assert {run["run"].split("-")[0]: run.get("current") for run in report["runs"] if "groups" in run} == {
        "basis": None
    }
    assert sorted(run["current"] for run in report["runs"] if "methods" in run) == [5, len(folders) - 5]
    assert report["unused_bytes"] == 0
    compress_fleet(folders, store, max_error=0.5, share="never")
    report = report_fleet(store)
    assert report["unused_bytes"] == report["shared_bytes"] > 0
    shutil.rmtree(store / "shared")
    report = report_fleet(store)
    assert (report["shared_bytes"], [run["groups"] for run in report["runs"] if "groups" in run]) == (0, [[]])


def test_originals_of_other_names_are_told_of_at_once(filled: Path, folders: list[Path]) -> None:
    other = filled.parent / "other"
    shutil.copytree(folders[0], other / "elsewhere" / "a000")
    with pytest.raises(UsageError, match="none of the 1 originals, such as 'elsewhere/a000', has its name in"):
        verify_fleet(filled, [other])


def test_a_fleet_that_changed_is_done_anew(folders: list[Path], tmp_path: Path) -> None:
    """What earlier runs put into the store is replaced, and nothing else."""
    few = make_fleet(tmp_path / "fleet", 3)
    weights = few[1] / "adapter_model.safetensors"
    sound = weights.read_bytes()
    weights.write_bytes(sound[:-1])
    store = tmp_path / "store"
    assert list(compress_fleet([tmp_path / "fleet"], store, max_error=0.3).failed) == ["a001"]
    weights.write_bytes(sound)
    make_fleet(tmp_path / "fleet" / "more", 1)
    assert compress_fleet([tmp_path / "fleet"], store, max_error=0.3).failed == {}
    assert sorted(read_rows(tree_at(store))) == ["a000", "a001", "a002", "more/a000"]
    assert compress_fleet(str(few[0]), store, max_error=0.6).values["error"] > 0.4


def test_a_run_replaces_nothing_that_came_there_meanwhile(
    folders: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "store"
    foreign = adaptzip.compress(folders[1], max_error=0.7).to_bytes()
    write = Folder.write

    def others_write_too(self: Folder, name: str, content: bytes) -> None:
        write(self, name, content)
        if "/choose/" in name:
            write(self, "a001.adz", foreign)

    with monkeypatch.context() as patch:
        patch.setattr(Folder, "write", others_write_too)
        with pytest.raises(CheckFailedError, match=r"a001.adz: was put there by somebody else while this ran"):
            compress_fleet(folders[:3], store, max_error=0.3)
    assert (store / "a001.adz").read_bytes() == foreign
    assert compress_fleet(folders[:3], store, max_error=0.3, force=True).failed == {}
    assert verify_fleet(store, folders[:3]).failed == {}


def test_a_run_that_others_followed_is_done_again(folders: list[Path], tmp_path: Path) -> None:
    for error in (0.2, 0.6, 0.2):
        compress_fleet(folders[:3], tmp_path, max_error=error)
        rows = read_rows(tree_at(tmp_path))
        assert all(error - 0.15 < row.error <= error for row in rows.values())
        assert verify_fleet(tmp_path, folders[:3]).failed == {}


def test_ranks_do_not_begin_anew(folders: list[Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="ranks cannot begin anew"):
        compress_fleet(folders[:3], tmp_path, engine=fleet_engine(rank=0, world_size=2), force=True)


def test_other_processes_see_no_memory_of_this_one(folders: list[Path]) -> None:
    with pytest.raises(UsageError, match="is the memory of this process"):
        compress_fleet(folders[:3], "memory://elsewhere", engine=fleet_engine(jobs=2))


def test_a_huge_adapter_stops_no_other(tmp_path: Path) -> None:
    folders = make_fleet(tmp_path / "fleet", 6)
    weights = folders[2] / "adapter_model.safetensors"
    save_file({name: 1e30 * tensor for name, tensor in load_file(weights).items()}, weights)
    found = build_fleet_basis(folders, tmp_path / "store", **SHARED)
    assert list(found.failed) == ["a002"]


@pytest.mark.parametrize("place", ["nowhere", "fleet"])
def test_what_is_no_store_is_not_sound(place: str, tmp_path: Path) -> None:
    make_fleet(tmp_path / "fleet", 1)
    with pytest.raises(CheckpointError, match="holds no adapters|no such folder"):
        verify_fleet(tmp_path / place)
    with pytest.raises(CheckpointError, match="holds no adapters|no such folder"):
        report_fleet(tmp_path / place)
    assert sorted(path.name for path in tmp_path.rglob("*")) == [
        "a000",
        "adapter_config.json",
        "adapter_model.safetensors",
        "fleet",
    ]


def test_an_error_of_one_stops_no_other(tmp_path: Path) -> None:
    folders = make_fleet(tmp_path / "fleet", 6)
    (folders[1] / "adapter_model.safetensors").write_bytes(b"nothing")
    found = compress_fleet(folders, tmp_path / "store", max_error=0.3)
    assert list(found.failed) == ["a001"]
    assert found.failed["a001"]["kind"] == "CheckpointError"
    assert sorted(read_rows(tree_at(tmp_path / "store"))) == ["a000", "a002", "a003", "a004", "a005"]


def test_verifying_finds_what_is_wrong(filled: Path, folders: list[Path], tmp_path: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(filled, store)
    assert verify_fleet(store, folders).failed == {}
    shutil.copy(store / "a001.adz", store / "a002.adz")
    (store / "a003.adz").write_bytes((store / "a003.adz").read_bytes()[:-1])
    found = verify_fleet(store, folders[:1])
    assert sorted(found.failed) == ["a002", "a003"]
    assert found.values["sound"] == len(folders) - 1 - ("a002" in found.failed)
    next(store.glob("shared/*.basis")).unlink()
    assert len(verify_fleet(store).failed) > 2


def test_a_verification_is_done_anew(filled: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(filled, store)
    assert verify_fleet(store).failed == {}
    file = store / "a001.adz"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))
    assert list(verify_fleet(store).failed) == ["a001"]


def test_the_report_adds_up(filled: Path) -> None:
    found = report_fleet(filled)
    assert json.loads(json.dumps(found)) == found
    assert sum(one["adapters"] for one in found["groups"]) == found["adapters"]
    assert sum(one["bytes"] for one in found["methods"]) == found["adapter_bytes"]
    assert [sorted(run.keys() & {"groups", "methods"}) for run in found["runs"]] == [["groups"], ["methods"]]


def test_parameters_say_nothing_of_what_is_shared(folders: list[Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="budget of 1,000 stored parameters says nothing") as caught:
        compress_fleet(folders, tmp_path, budget="1k")
    assert "share='never'" in str(caught.value.hint)
