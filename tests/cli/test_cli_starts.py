"""Known starts on the command line: what is told of them, and the search of all seeds."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from adaptzip.adz.container.reader import open_adz
from adaptzip.bases.starts.scanning import scan_with_torch
from tests.cases.started import folder
from tests.cli.cli_cases import listing, refused, run

pytestmark = pytest.mark.starts
SEED = 3_141_592_653
PART = 128


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder(tmp_path_factory.mktemp("found") / "adapter", 42)


@pytest.fixture(scope="module")
def unknown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder(tmp_path_factory.mktemp("unknown") / "adapter", SEED)


@pytest.fixture
def few_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    """The search narrowed to some thousand seeds, tried by torch."""
    place = "adaptzip.bases.starts.searching."
    low = SEED - SEED % PART - 2 * PART
    monkeypatch.setattr(
        "adaptzip.fitting.seed_search.SeedSearch.__init__.__defaults__", (low, low + 4 * PART, *[None] * 3)
    )
    monkeypatch.setattr(place + "PART", PART)
    monkeypatch.setattr(place + "scanner", lambda _: partial(scan_with_torch, device=torch.device("cpu")))


def test_compress_says_what_the_start_saves(found: Path, tmp_path: Path) -> None:
    plain = run("compress", found, "-o", tmp_path / "b.adz", "--start", "none", "--json").json
    values = run("compress", found, "-o", tmp_path / "a.adz", "--json").json
    assert values["start"]["seed"] == 42
    assert values["start"]["source"] == "start"
    assert values["start"]["framed_modules"] == values["modules"] == 6
    assert plain["start"] is None
    assert plain["bytes"] - values["bytes"] == pytest.approx(values["start"]["saved_bytes"], rel=0.15)
    dry = run("compress", found, "-n", "-o", tmp_path / "c.adz", "--json").json
    assert dry["start"]["seed"] == 42
    assert dry["start"]["saved_bytes"] == pytest.approx(values["start"]["saved_bytes"], rel=0.15)
    told = run("compress", found, "-n", "-o", tmp_path / "c.adz").out
    assert "start: seed 42 (uniform numbers), in 6 of 6 modules, correlation 0.97" in told


@pytest.mark.parametrize("options", [["--budget", "50%"], ["--max-error", "0.5", "-n"]])
def test_a_start_is_refused_where_the_method_has_no_use_for_it(options: list[str], found: Path, tmp_path: Path) -> None:
    done = run("compress", found, "--to", "vblora", "--start", "42", *options, "-o", tmp_path / "a.adz")
    refused(done, 2, "method 'vblora' has no use for a start", "drop --start")
    assert not list(tmp_path.iterdir())


def test_a_start_that_needs_another_says_what_to_give(found: Path, tmp_path: Path) -> None:
    run("compress", found, "--start", found, "-o", tmp_path / "needs.adz")
    done = run("compress", found, "--start", tmp_path / "needs.adz", "-o", tmp_path / "a.adz")
    refused(done, 3, "coded in another adapter's A", "export the file")


def test_a_lossless_file_says_it_too(found: Path, tmp_path: Path) -> None:
    values = run("compress", found, "--lossless", "-o", tmp_path / "a.adz", "--json").json
    plain = run("compress", found, "--lossless", "--start", "none", "-o", tmp_path / "b.adz", "--json").json
    assert values["start"]["saved_bytes"] == plain["module_bytes"] - values["module_bytes"] > 0
    assert plain["start"] is None


def test_inspect_and_verify_tell_the_start(found: Path, tmp_path: Path) -> None:
    run("compress", found, "-o", tmp_path / "a.adz")
    told = "seed 42 (uniform numbers), in 6 of 6 modules, correlation 0.97"
    assert told in run("inspect", tmp_path / "a.adz").out
    assert told in run("inspect", found).out
    for path in (tmp_path / "a.adz", found):
        values = run("inspect", path, "--json").json["start"]
        assert (values["generator"], values["seed"], values["framed_modules"]) == ("uniform", 42, 6)
        assert values["correlation"] == pytest.approx(0.97, abs=0.01)
    assert "start" not in run("inspect", found, "--no-costs").out
    assert "ok  start: made again from seed 42 for 6 modules" in run("verify", tmp_path / "a.adz").out


def test_verify_and_inspect_tell_a_reference_and_say_if_it_is_missing(
    found: Path, unknown: Path, tmp_path: Path
) -> None:
    kin = folder(tmp_path / "kin", SEED, by=0.2)
    out = tmp_path / "a.adz"
    assert run("compress", unknown, "--start", kin, "-o", out).code == 0
    inspected = run("inspect", out).out
    reference = open_adz(out).basis
    assert reference is not None
    assert (
        f"start       another adapter's A (--basis PATH), hash {reference.hash[:8]}..., in 6 of 6 modules" in inspected
    )
    assert f"ok  start: given, of hash {reference.hash[:8]}..., for 6 modules" in run("verify", out, "--basis", kin).out
    refused(run("verify", out), 3, "coded in another adapter's A", reference.hash[:8], "add --basis")
    refused(run("verify", out, "--basis", found), 3, "has hash", reference.hash[:8])


def test_bench_has_both_bounds(found: Path, tmp_path: Path) -> None:
    values = run("bench", found, "--to", "svd", "--budget", "4kB", "--json").json
    point = values["points"][0]
    assert point["known_bound"] < point["bytes"] < point["bound"]
    assert all(
        known["bytes"] < plain["bytes"] for known, plain in zip(values["known_bound"], values["bound"], strict=True)
    )
    told = run("bench", found, "--to", "svd", "--budget", "4kB").out.splitlines()[0]
    assert told.endswith("bound  x bound  start known  x bound")


@pytest.mark.usefixtures("few_seeds")
def test_all_seeds_are_searched_only_where_asked(unknown: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.adz"
    plain = run("compress", unknown, "-o", out, "--json").json
    assert plain["start"] is None
    result = run("compress", unknown, "-o", out, "-f", "--search-starts")
    assert result.code == 0
    offset = open_adz(out).basis.start.offsets[0]  # type: ignore[union-attr]
    assert f"found seed {SEED} at " in result.err
    assert listing(tmp_path) == ["a.adz"]
    given = result.err.split("--start ")[1].split(" finds")[0]
    assert given.startswith(f"{SEED}:")
    assert int(given.split(":")[1]) <= offset
    again = run("compress", unknown, "-o", tmp_path / "b.adz", "--start", given)
    assert again.code == 0
    assert (tmp_path / "b.adz").read_bytes() == out.read_bytes()
    assert out.stat().st_size < 0.9 * plain["bytes"]


@pytest.mark.usefixtures("few_seeds")
def test_ctrl_c_leaves_a_search_that_goes_on(unknown: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []

    def scanner(_: object) -> Any:
        def scan(seeds: Any, rows: Any, expected: Any) -> Any:
            if len(seeds) == PART:
                if len(tried) == 2:
                    tried.clear()
                    raise KeyboardInterrupt
                tried.append(int(seeds[0]))
            return scan_with_torch(seeds, rows, expected, torch.device("cpu"))

        return scan

    monkeypatch.setattr("adaptzip.bases.starts.searching.scanner", scanner)
    words = ("compress", unknown, "-o", tmp_path / "a.adz", "--search-starts")
    stopped = run(*words)
    refused(stopped, 130, "interrupted; the seeds that were tried are noted in", "a.adz.search", "goes on after them")
    assert listing(tmp_path) == ["a.adz.search"]
    result = run(*words)
    assert result.code == 0
    assert f"found seed {SEED}" in result.err
    assert len(tried) == 1
    assert listing(tmp_path) == ["a.adz"]


@pytest.mark.usefixtures("few_seeds")
def test_no_seed_is_told(found: Path, tmp_path: Path) -> None:
    strange = folder(tmp_path / "strange", SEED + 5 * PART)
    result = run("compress", strange, "-o", tmp_path / "a.adz", "--search-starts")
    assert result.code == 0
    assert "no seed gives the adapter's first numbers at 2 places of the stream" in result.err
    found_at_once = run("compress", found, "-o", tmp_path / "b.adz", "--search-starts")
    assert "start: seed 42" in found_at_once.err
    assert "found seed" not in found_at_once.err


def test_what_cannot_be_searched_is_refused(unknown: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "a.adz"
    refused(
        run("compress", unknown, "-o", out, "--search-starts", "--start", "42"), 2, "drop search_starts, or the start"
    )
    monkeypatch.setattr("adaptzip.bases.starts.scanning.find_spec", lambda _: None)
    refused(
        run("compress", unknown, "-o", out, "--search-starts", "--device", "cpu"),
        3, "trying every seed on a CPU needs the package numba", "hint: pip install numba",
    )  # fmt: skip
    assert listing(tmp_path) == []
