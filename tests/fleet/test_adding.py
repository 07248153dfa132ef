"""One adapter more for a store: coded with what others share where that pays, and found again where the file lies."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import adaptzip
from adaptzip.core.comparing import diff
from adaptzip.errors import AdaptzipWarning, FormatError, OutputError, RefusedError, UsageError
from adaptzip.files.trees import tree_at
from adaptzip.fleet.jobs import build_fleet_bank, build_fleet_basis, compress_fleet
from adaptzip.fleet.store.index import read_rows
from tests.cases.fleets import digests, make_fleet


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return make_fleet(tmp_path_factory.mktemp("fleet") / "fleet", 26)


@pytest.fixture(scope="module")
def filled(folders: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of all but two adapters, which stand on a basis."""
    store = tmp_path_factory.mktemp("filled") / "store"
    build_fleet_basis(folders[:-2], store, size=12, share=0.99)
    compress_fleet(folders[:-2], store, max_error=0.2)
    return store


@pytest.fixture
def store(filled: Path, tmp_path: Path) -> Path:
    shutil.copytree(filled, tmp_path / "store")
    return tmp_path / "store"


@pytest.fixture
def shared(store: Path) -> str:
    """The hash of the basis."""
    (file,) = (store / "shared").iterdir()
    return file.stem


def test_what_others_use_is_used_where_it_pays(store: Path, shared: str, folders: list[Path]) -> None:
    before = digests(store, "index", "work")
    row = adaptzip.add_to_store(folders[-1], store, max_error=0.2)
    alone = adaptzip.compress(folders[-1], max_error=0.2, start="none")
    assert row.shared == shared
    assert row.group == f"basis {shared[:8]}"
    assert row.bytes == (store / "a025.adz").stat().st_size < alone.bytes
    assert digests(store, "index", "work") == {**before, "a025.adz": digests(store)["a025.adz"]}
    error = diff(adaptzip.read(folders[-1]), adaptzip.read(store / "a025.adz")).relative_error
    assert error == pytest.approx(row.error, rel=1e-3)
    assert row.error <= 0.2
    assert read_rows(tree_at(store))["a025"] == row
    assert adaptzip.verify_fleet(store, folders).values["sound"] == 25


def test_within_a_budget_it_is_used_where_it_is_nearer(store: Path, shared: str, folders: list[Path]) -> None:
    row = adaptzip.add_to_store(folders[-1], store, budget="500B")
    assert row.bytes <= 500
    assert row.shared == shared
    assert row.error < 0.5 * adaptzip.compress(folders[-1], budget="500B").provenance.relative_error


def test_without_a_limit_the_error_is_as_alone(store: Path, shared: str, folders: list[Path]) -> None:
    row = adaptzip.add_to_store(folders[-1], store)
    assert (row.shared, row.error <= 0.1) == (shared, True)


def test_what_nobody_uses_is_used_if_asked_for_alone(folders: list[Path], tmp_path: Path) -> None:
    store = tmp_path / "fresh"
    build_fleet_basis(folders[:-2], store, size=12, share=0.99)
    assert adaptzip.add_to_store(folders[-1], store, max_error=0.2).shared is None
    row = adaptzip.add_to_store(folders[-1], store, max_error=0.2, share="always", force=True)
    assert row.shared is not None
    # Now that somebody refers to it, it is there anyway.
    assert adaptzip.add_to_store(folders[-2], store, max_error=0.2).shared == row.shared
    assert adaptzip.tidy_store(store).artefacts == {}


@pytest.mark.parametrize("given", [{"share": "never"}, {"to": "vblora"}, {"lossless": True}])
def test_who_says_how_to_compress_shares_nothing(store: Path, folders: list[Path], given: dict[str, Any]) -> None:
    assert adaptzip.add_to_store(folders[-1], store, **given).shared is None


def test_what_suits_no_basis_is_alone(store: Path, tmp_path: Path) -> None:
    (other,) = make_fleet(tmp_path / "others", 1, seed=5)
    row = adaptzip.add_to_store(other, store, "stranger", max_error=0.01)
    assert row.bytes <= adaptzip.compress(other, max_error=0.01, start="none").bytes


def test_options_that_contradict_each_other(store: Path, folders: list[Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"`share='always'` was given, and `to=`"):
        adaptzip.add_to_store(folders[-1], store, share="always", to="vblora")
    adaptzip.compress(folders[-1], tmp_path / "a.adz")
    for given in ({"share": "always"}, {"max_error": 0.1}, {"seed": 3}, {"start": "none"}):
        with pytest.raises(UsageError, match=f"`{next(iter(given))}=` was given, but a .adz is stored as it is"):
            adaptzip.add_to_store(tmp_path / "a.adz", store, **given)
    with pytest.raises(OutputError, match="has an adapter 'a000'"):
        adaptzip.add_to_store(folders[0], store)


def test_what_lies_in_a_store_is_read_without_naming_it(store: Path, folders: list[Path], tmp_path: Path) -> None:
    rows = read_rows(tree_at(store))
    name = next(name for name, row in rows.items() if row.shared)
    wanted = adaptzip.read(store / f"{name}.adz", basis=store)
    # Within the store, in a folder of it, as a link to it, and taken out of it.
    (store / "team").mkdir()
    shutil.copy(store / f"{name}.adz", store / "team" / "b.adz")
    (tmp_path / "out").mkdir()
    files = adaptzip.get_from_store(store, name, tmp_path / "out" / "c.adz")
    assert [file.parent for file in files] == [tmp_path / "out"] * 2
    (tmp_path / "link").symlink_to(store, target_is_directory=True)
    for file in (store / f"{name}.adz", store / "team" / "b.adz", files[0], tmp_path / "link" / f"{name}.adz"):
        found = adaptzip.read(file)
        assert all(torch.equal(module.delta(), wanted.modules[key].delta()) for key, module in found.modules.items())
    assert adaptzip.verify(files[0], against=folders[int(name[1:])]) is not None
    adaptzip.export(store / f"{name}.adz", tmp_path / "peft")
    assert (tmp_path / "peft" / "adapter_model.safetensors").is_file()
    # A file from a store brings along what it refers to.
    row = adaptzip.add_to_store(store / f"{name}.adz", tmp_path / "second", "again")
    assert row.shared == rows[name].shared
    assert adaptzip.read(tmp_path / "second" / "again.adz").modules.keys() == wanted.modules.keys()


def test_what_lies_beside_a_file_has_to_be_what_it_says(store: Path, shared: str, tmp_path: Path) -> None:
    name = next(name for name, row in read_rows(tree_at(store)).items() if row.shared)
    shutil.copy(store / f"{name}.adz", tmp_path / "far.adz")
    with pytest.raises(RefusedError, match="which was not given"):
        adaptzip.read(tmp_path / "far.adz")
    basis = store / "shared" / f"{shared}.basis"
    kept = basis.read_bytes()
    basis.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
    with pytest.raises((FormatError, RefusedError)):
        adaptzip.read(store / f"{name}.adz")


def test_a_bank_beside_a_file_is_found(folders: list[Path], tmp_path: Path) -> None:
    store = tmp_path / "store"
    build_fleet_bank(folders[:8], store, rank=8, length=8, vectors=256)
    row = adaptzip.add_to_store(folders[0], store, max_error=0.6, share="always")
    assert row.method == "vblora"
    adaptzip.export(store / "a000.adz", tmp_path / "peft", as_="peft-vblora")
    wanted, found = adaptzip.read(store / "a000.adz", basis=store), adaptzip.read(tmp_path / "peft")
    for name, module in wanted.modules.items():
        torch.testing.assert_close(found.modules[name].delta(), module.delta(), rtol=1e-4, atol=1e-5)


def test_a_basis_that_is_not_what_its_name_says_is_not_used(store: Path, shared: str, folders: list[Path]) -> None:
    (store / "shared" / f"{shared}.basis").rename(store / "shared" / ("A" * 22 + ".basis"))
    with pytest.warns(AdaptzipWarning, match="not that of its name; it is left out of account"):
        assert adaptzip.add_to_store(folders[-1], store, max_error=0.2, share="always").shared is None
    assert adaptzip.read(store / "a025.adz").modules
    with pytest.raises(RefusedError, match="not that of its name"):
        compress_fleet(folders[:-1], store, max_error=0.25, share="always")


def test_a_link_to_a_file_of_a_store_finds_what_that_refers_to(store: Path, tmp_path: Path) -> None:
    name = next(name for name, row in read_rows(tree_at(store)).items() if row.shared)
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "l.adz").symlink_to(store / f"{name}.adz")
    assert adaptzip.read(tmp_path / "links" / "l.adz").modules


def test_publishing_finds_it_too(store: Path) -> None:
    name = next(name for name, row in read_rows(tree_at(store)).items() if row.shared)
    report = adaptzip.publish(store / f"{name}.adz", "me/x", dry_run=True)
    assert {"x.adz", "adapter_model.safetensors"} <= set(report.files)
