"""`adaptzip fleet`: what its commands show, and their exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cases.fleets import make_fleet
from tests.cli.cli_cases import run, run_apart


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fleet") / "fleet"
    make_fleet(folder, 6)
    return folder


def test_a_fleet_from_end_to_end(fleet: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    built = run("fleet", "basis", fleet, "-o", store, "-k", "12", "--share", "0.99", "--hold-out", "0.2")
    assert built.code == 0, built.err
    assert "adapters    5 adapters, 1 left out" in built.out
    assert "each alone by svd, at these bytes" in built.out
    assert "the mean for all, and its part of that" in built.out
    assert "sharing does not pay at error 0.2 with 6 adapters, and would with" in built.out
    made = run("fleet", "compress", fleet, "-o", store, "--max-error", "0.2", "--share", "always")
    assert made.code == 0, made.err
    assert "lora-sb" in made.out
    assert run("fleet", "verify", store, fleet).out.split()[:6] == ["adapters", "6", "sound", "6", "compared", "with"]
    told = json.loads(run("fleet", "report", store, "--json").out)
    assert told["adapters"] == 6
    assert "basis " in run("fleet", "report", store).out


def test_what_failed_is_told_with_its_exit_code(fleet: Path, tmp_path: Path) -> None:
    make_fleet(tmp_path / "odd", 2)
    (tmp_path / "odd" / "a001" / "adapter_model.safetensors").write_bytes(b"nothing")
    found = run("fleet", "compress", fleet, tmp_path / "odd" / "a001", "-o", tmp_path / "store", "--json")
    assert found.code == 2
    assert run("fleet", "compress", tmp_path / "odd", "-o", tmp_path / "store").code == 2
    found = run("fleet", "compress", tmp_path / "odd", "-o", tmp_path / "other", "--json")
    assert list(json.loads(found.out)["failed"]) == ["a001"]


def test_where_none_can_be_done_there_are_errors_and_no_table(fleet: Path, tmp_path: Path) -> None:
    make_fleet(tmp_path / "bare", 2)
    for folder in (tmp_path / "bare").iterdir():
        (folder / "adapter_config.json").unlink()
    found = run("fleet", "compress", tmp_path / "bare", "-o", tmp_path / "store")
    assert (found.code, found.out) == (2, "")
    assert found.err.count("its scale is unknown") == 2
    # An option that only another command has is told with it.
    assert found.err.count("with --alpha: `adaptzip store add` takes that") == 2


def test_names_that_some_systems_take_for_one_are_refused(fleet: Path, tmp_path: Path) -> None:
    assert run("fleet", "compress", fleet / "a000", "-o", tmp_path / "store").code == 0
    (tmp_path / "A000").symlink_to(fleet / "a001")
    found = run("fleet", "compress", tmp_path / "A000", "-o", tmp_path / "store")
    assert found.code == 2
    assert "whose name differs from 'A000' by case or accents' spelling alone" in found.err


def test_who_stops_it_is_told_what_is_kept(fleet: Path, tmp_path: Path) -> None:
    stop = "import adaptzip.fleet.compressing as c\ndef fit(*_): raise KeyboardInterrupt\nc.fit = fit"
    found = run_apart("fleet", "compress", fleet, "-o", tmp_path / "store", before=stop)
    assert found.code == 130
    told = f"what was finished is kept in {tmp_path / 'store'}; the same command goes on with it"
    assert found.err == f"error: interrupted; {told}\n"


def test_ranks_stand_with_workers(fleet: Path) -> None:
    help_text = run("fleet", "compress", "--help").out
    size, workers = help_text.split("Workers:")
    assert "--rank" in workers
    assert "--rank" not in size


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("fleet",), 2, "Usage"),
        (("fleet", "verify", "nowhere"), 2, "no such folder or bucket"),
        (("fleet", "report", "nowhere"), 2, "no such folder or bucket"),
        (("fleet", "compress", "nowhere", "-o", "store"), 2, "nowhere: no such file or folder"),
        (("fleet", "compress", ".", "-o", ""), 2, "the store has no name"),
        (("fleet", "compress", ".", "-o", "store", "--rank", "1"), 2, "without a world size"),
        (("fleet", "compress", ".", "-o", "store", "--budget", "20"), 2, "the budget of 20 stored parameters"),
        (("fleet", "basis", ".", "-o", "store", "--groups", "some"), 2, "expected 'auto' or a number"),
    ],
)
def test_what_makes_no_sense_is_one_line(
    words: tuple[str, ...], code: int, told: str, fleet: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(fleet)
    found = run(*words)
    assert found.code == code
    assert told in found.err
    assert "Traceback" not in found.err
    assert not (fleet / "store").exists()


def test_a_bank_too_small_for_mixtures_is_refused(fleet: Path, tmp_path: Path) -> None:
    found = run("fleet", "bank", fleet, "-o", tmp_path / "store", "--vectors", "1")
    assert found.code == 2
    assert "a bank of 1 vectors was asked for mixtures of 2" in found.err
    assert not list((tmp_path / "store").glob("shared/*"))
