"""`adaptzip store ls`, `get`, `add` and `gc`."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest

import adaptzip
from adaptzip.bases.artefact import read_basis
from adaptzip.files.trees import tree_at
from tests.cli.cli_cases import CONFIG, make_adapter, make_tensors, refused, run, run_apart


@pytest.fixture(params=["folder", "bucket"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "store") if request.param == "folder" else f"memory://{secrets.token_hex(4)}/store"


@pytest.fixture
def headless(tmp_path: Path) -> Path:
    """The adapter without its head, which an engine's form has no place for."""
    tensors = {key: tensor for key, tensor in make_tensors().items() if "lora" in key}
    return make_adapter(tmp_path / "headless", tensors, {**CONFIG, "modules_to_save": None})


@pytest.fixture
def basis(headless: Path, tmp_path: Path) -> Path:
    assert run("basis", "build", headless, "-o", tmp_path / "team.basis", "-q").code == 0
    return tmp_path / "team.basis"


def test_from_adding_to_getting(store: str, archive: Path, headless: Path, basis: Path, tmp_path: Path) -> None:
    added = run("store", "add", store, archive, "--group", "heads")
    assert added.code == 0
    assert added.last.startswith(f"wrote {store}/my-adapter.adz  ")
    words = ("--name", "team/core", "--to", "lora-sb", "--basis", basis, "--max-error", "0.2", "--json")
    made = run("store", "add", store, headless, *words).json
    assert (made["name"], made["shared"], made["group"]) == ("team/core", read_basis(basis).reference.hash, None)
    listed = run("store", "ls", store)
    assert [line.split()[0] for line in listed.out.splitlines()[1:3]] == ["my-adapter", "team/core"]
    assert listed.out.splitlines()[-1].startswith("2 adapters, ")
    assert listed.err == ""
    values = run("store", "ls", store, "--json").json
    assert values["adapters"][1] == {key: made[key] for key in made if key != "schema"}
    assert values["shared_bytes"] == basis.stat().st_size
    assert values["bytes"] == sum(row["bytes"] for row in values["adapters"])
    heads = run("store", "ls", store, "--group", "heads", "--json").json
    assert ([row["name"] for row in heads["adapters"]], heads["shared_bytes"]) == (["my-adapter"], 0)

    out = tmp_path / "out.adz"
    got = run("store", "get", store, "team/core", "-o", out, "--json").json
    assert got["files"] == [str(out), str(tmp_path / f"{made['shared']}.basis")]
    assert got["bytes"] == out.stat().st_size + basis.stat().st_size
    assert run("export", out, "--basis", tmp_path, "-o", tmp_path / "restored", "-q").code == 0
    folder = tmp_path / "exported"
    written = run("store", "get", store, "team/core", "--as", "peft", "-o", folder, "--json").json
    assert [Path(file).name for file in written["files"]] == ["adapter_config.json", "adapter_model.safetensors"]
    assert run("diff", folder, tmp_path / "restored", "--max-error", "0").code == 0


def test_several_are_added_and_one_that_fails_stops_none(store: str, archive: Path, headless: Path) -> None:
    (headless.parent / "broken.adz").write_bytes(b"?")
    result = run("store", "add", store, archive, headless.parent / "broken.adz", headless)
    assert result.code == 2
    assert [line.split()[0] for line in result.out.splitlines()[1:]] == ["my-adapter", "headless"]
    assert "broken.adz: " in result.err
    assert result.last == "2 done, 1 failed"
    again = run("store", "add", store, archive)
    refused(again, 2, f"error: {store}: has an adapter 'my-adapter'", "hint: replace it with --force")
    assert run("store", "add", store, archive, "--force", "-q").code == 0
    refused(run("store", "add", store, archive, headless, "--name", "a"), 2, "--name names one adapter")
    refused(run("store", "add", store, archive, "--name", "../a"), 2, "'../a' is no name of a file in a store")
    refused(run("store", "add", store, archive, "--name", "b", "--budget", "1KiB"), 2, "--budget was given", "as it is")


def test_tidying(store: str, archive: Path) -> None:
    assert run("store", "add", store, archive, "-q").code == 0
    tree = tree_at(store)
    tree.write(f"shared/{'x' * 22}.basis", b"123")
    tree.write("other.adz", archive.read_bytes())
    planned = run("store", "gc", store, "--dry-run")
    assert f"shared/{'x' * 22}.basis" in planned.out
    assert "would be removed" in planned.out
    done = run("store", "gc", store, "--json").json
    assert (done["artefacts"], done["bytes"]) == ({f"shared/{'x' * 22}.basis": 3}, 3)
    assert (done["added"], done["rows"], done["segments"], done["dry_run"]) == (["other"], [], 2, False)
    assert run("store", "gc", store).out == "nothing to do\n"
    tree.remove("other.adz")
    tree.write("damaged.adz", b"?")
    listed = run("store", "ls", store)
    assert listed.code == 0
    assert "warning: damaged: " in listed.err
    assert "1 row without a file" in listed.err


def test_what_is_not_there_is_named(store: str, archive: Path, tmp_path: Path) -> None:
    for words in (["ls"], ["gc"], ["get", "a", "-o", tmp_path / "a.adz"]):
        command, *more = words
        refused(run("store", command, store, *more), 2, f"{store}: no such folder or bucket", "store add")
    assert run("store", "add", store, archive, "-q").code == 0
    missing = run("store", "get", store, "none", "-o", tmp_path / "a.adz")
    refused(missing, 2, f"{store}/none.adz: no such file", "`adaptzip store ls`")
    refused(run("store", "get", store, "my-adapter", "-o", archive), 2, str(archive), "--force")
    refused(run("store", "get", store, "my-adapter", "-o", tmp_path / "a", "--dtype", "float16"), 2, "without --as")
    refused(run("store", "ls", "nothing://bucket/store"), 2, "nothing://bucket/store", "bucket whose package")


def test_a_plain_folder_is_listed(archive: Path) -> None:
    (archive.parent / "more").mkdir()
    (archive.parent / "more" / "b.adz").write_bytes(archive.read_bytes())
    values = run("store", "ls", archive.parent, "--json").json
    assert [row["name"] for row in values["adapters"]] == ["more/b", "my-adapter"]
    assert values["adapters"][0]["method"] == adaptzip.open(archive).method
    assert values["unlisted"] == ["more/b", "my-adapter"]


def test_without_a_command_the_help_is_shown() -> None:
    result = run("store")
    assert result.code == 2
    assert "Keep many adapters in one folder or bucket." in result.err


def test_listing_loads_no_torch(archive: Path) -> None:
    before = "import atexit, sys; atexit.register(lambda: print('torch' in sys.modules, file=sys.stderr))"
    result = run_apart("store", "ls", archive.parent, before=before)
    assert result.code == 0
    assert result.err == "False\n"


def test_patterns_are_added_and_names_removed_once(store: str, archive: Path, tmp_path: Path) -> None:
    for name in ("x1.adz", "x2.adz"):
        (tmp_path / name).write_bytes(archive.read_bytes())
    assert run("store", "add", store, tmp_path / "x*.adz").code == 0
    assert [row["name"] for row in run("store", "ls", store, "--json").json["adapters"]] == ["x1", "x2"]
    removed = run("store", "rm", store, "x1", "x1")
    assert (removed.code, removed.out.split(",")[0]) == (0, "removed 1 adapter")
    assert run("store", "rm", store, "x1").code == 2
