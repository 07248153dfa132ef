"""Many files in one run: one table, errors that stop nothing else, and nothing done twice."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

import adaptzip
from adaptzip.cli import _many as many
from tests.cli.cli_cases import ROOT, command, listing, make_adapter, make_tensors, refused, run


@pytest.fixture
def several(tmp_path: Path) -> list[Path]:
    """Three adapters of different content."""
    found = []
    for number, name in enumerate("abc"):
        found.append(make_adapter(tmp_path / name, make_tensors(number)))
    return found


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


SIZE = ("--budget", "25%")


def test_several_are_compressed_into_a_folder(several: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = run("compress", *several, *SIZE, "--output-dir", out)
    assert result.code == 0, result.err
    assert [line.split()[0] for line in result.out.splitlines()] == ["file", *(str(out / f"{n}.adz") for n in "abc")]
    assert result.last == "3 done"
    for source in several:
        alone = adaptzip.compress(source, budget="25%")
        assert (out / f"{source.name}.adz").read_bytes() == alone.to_bytes()
    assert listing(out) == [many.NOTE, "a.adz", "b.adz", "c.adz"]


def test_processes_give_equal_bytes(several: list[Path], tmp_path: Path) -> None:
    for jobs in ("1", "2"):
        result = run("compress", *several, *SIZE, "--output-dir", tmp_path / jobs, "--jobs", jobs)
        assert result.code == 0, result.err
    for name in ("a.adz", "b.adz", "c.adz"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()


def test_an_error_of_one_stops_no_other(several: list[Path], tmp_path: Path) -> None:
    weights = several[1] / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    words = ("compress", *several, tmp_path / "nowhere", *SIZE, "--output-dir", tmp_path / "out")
    result = run(*words)
    assert result.code == 2
    assert f"error: {weights}" in result.err
    assert f"error: {tmp_path / 'nowhere'}: no such file or folder" in result.err
    assert result.last == "2 done, 2 failed"
    assert {path.name for path in (tmp_path / "out").glob("*.adz")} == {"a.adz", "c.adz"}
    told = lines(run(*words, "--json").out)
    assert [row["source"] for row in told] == [*map(str, several), str(tmp_path / "nowhere")]
    assert [row["error"] and row["error"]["kind"] for row in told] == [None, "CheckpointError", None, "CheckpointError"]
    assert [row["skipped"] for row in told] == [True, False, True, False]


def test_what_is_done_is_not_done_again(several: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    words = ("compress", *several, *SIZE, "--output-dir", out)
    assert run(*words).last == "3 done"
    with monkeypatch.context() as patched:
        patched.setattr("adaptzip.fitting.compression.make_from", lambda *_, **__: pytest.fail("done again"))
        result = run(*words)
        assert result.last == "0 done, 3 as before"
        assert result.out.count("as before") == 3
    # Another content and other options are done again; an output that no run made is the user's own.
    shutil.rmtree(several[0])
    make_adapter(several[0], make_tensors(7))
    (out / "b.adz").write_bytes(b"something else")
    result = run(*words)
    assert result.last == "1 done, 1 as before, 1 failed"
    assert f"{out / 'b.adz'}: exists already" in result.err
    assert (out / "b.adz").read_bytes() == b"something else"
    (out / "b.adz").unlink()
    assert run(*words).last == "1 done, 2 as before"
    assert (out / "a.adz").read_bytes() == adaptzip.compress(several[0], budget="25%").to_bytes()
    assert run(*words[:-4], "--budget", "20%", *words[-2:]).last == "3 done"
    assert run(*words).last == "3 done"
    assert run(*words, "--force").last == "3 done"


def test_patterns_are_replaced(several: list[Path], tmp_path: Path) -> None:
    result = run("compress", tmp_path / "[ab]", *SIZE, "--output-dir", tmp_path / "out")
    assert result.last == "2 done"
    told = lines(run("inspect", tmp_path / "out" / "*.adz", several[2], "--json").out)
    assert [row["kind"] for row in told] == ["adz", "adz", "checkpoint"]
    refused(run("inspect", tmp_path / "z*"), 2, "nothing fits this pattern")


def test_several_are_shown_in_a_table(several: list[Path], tmp_path: Path) -> None:
    run("compress", *several, *SIZE, "--output-dir", tmp_path / "out")
    archives = sorted((tmp_path / "out").glob("*.adz"))
    shown = run("inspect", *several, *archives).out.splitlines()
    assert [line.split()[1] for line in shown] == ["kind", *["peft"] * 3, *["svd"] * 3]
    checked = run("verify", *archives)
    assert checked.code == 0
    assert [line.split()[-1] for line in checked.out.splitlines()[1:]] == ["intact"] * 3
    archives[0].write_bytes(archives[0].read_bytes()[:-1])
    broken = run("verify", *archives, "--jobs", "2")
    assert broken.code == 2
    assert broken.last == "2 done, 1 failed"
    refused(run("verify", *archives, "--against", several[0]), 2, "--against is the source of one file")


def test_several_are_exported(several: list[Path], tmp_path: Path) -> None:
    run("compress", *several, *SIZE, "--output-dir", tmp_path / "small")
    words = ("export", *sorted((tmp_path / "small").glob("*.adz")), "--as", "peft", "--output-dir", tmp_path / "out")
    result = run(*words)
    assert result.code == 0, result.err
    for name in "abc":
        assert adaptzip.diff(tmp_path / "small" / f"{name}.adz", tmp_path / "out" / name).relative_error == 0
    assert run(*words).last == "0 done, 3 as before"
    assert run(*words, "--dtype", "float16").last == "3 done"


def test_outputs_may_not_meet(several: list[Path], tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    other = make_adapter(tmp_path / "more" / "a", make_tensors(9))
    refused(run("compress", several[0], other, "--output-dir", tmp_path / "out"), 2, "would both become")
    assert not (tmp_path / "out").exists()
    refused(run("compress", *several, "-o", tmp_path / "x.adz"), 2, "-o names one file")
    refused(run("export", *several), 2, "there are several sources")
    refused(run("export", several[0]), 2, "no output is named")
    refused(run("export", several[0], "-o", "x", "--output-dir", "y"), 2, "both name the output")
    refused(run("compress", *several, "--search-starts"), 2, "searched for one adapter")


def test_a_rehearsal_writes_nothing(several: list[Path], tmp_path: Path) -> None:
    before = listing(tmp_path)
    result = run("compress", *several, *SIZE, "-n")
    assert result.code == 0, result.err
    assert listing(tmp_path) == before
    assert run("compress", *several, *SIZE).code == 0
    assert {path.name for path in tmp_path.glob("*.adz")} == {"a.adz", "b.adz", "c.adz"}
    refused_again = run("compress", *several, *SIZE)
    assert refused_again.code == 2
    assert refused_again.last == "0 done, 3 failed"


def test_warnings_of_every_source_are_heard(several: list[Path], tmp_path: Path) -> None:
    config = several[1] / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "base_model_name_or_path": "/home/me/base"}))
    for jobs in ("1", "2"):
        result = run("compress", *several, *SIZE, "--output-dir", tmp_path / jobs, "-j", jobs)
        said = [line for line in result.err.splitlines() if line.startswith("warning: ")]
        assert len(said) == 1
        assert said[0].startswith(f"warning: {several[1]}: the base model's name is the path '/home/me/base'")
        told = lines(run("compress", *several, *SIZE, "--output-dir", tmp_path / jobs, "-f", "--json").out)
        assert [len(row["warnings"]) for row in told] == [0, 1, 0]


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_run_that_was_stopped_goes_on(jobs: str, several: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    words: list[str | Path] = ["compress", *several, *SIZE, "--output-dir", out, "-j", jobs]
    child = subprocess.Popen(command(*words), stderr=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True)
    note = out / many.NOTE
    until = time.monotonic() + 120
    while not note.exists() and child.poll() is None and time.monotonic() < until:
        time.sleep(0.002)
    os.killpg(child.pid, signal.SIGINT)
    said = child.communicate()[1]
    if child.returncode != 0:  # It may have been done before the signal came.
        assert child.returncode == 130
        assert f"interrupted; what was finished is kept in {out}; the same command goes on with it" in said
        assert "Traceback" not in said
    result = run(*words)
    assert result.code == 0, result.err
    assert " as before" in result.last
    for source in several:
        assert (out / f"{source.name}.adz").read_bytes() == adaptzip.compress(source, budget="25%").to_bytes()


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="processes are told by /proc")
def test_no_process_outlives_the_one_that_started_it(tmp_path: Path) -> None:
    sources = [make_adapter(tmp_path / f"s{number}", make_tensors(number)) for number in range(40)]
    words: list[str | Path] = ["compress", *sources, *SIZE, "--output-dir", tmp_path / "out", "-j", "2"]
    child = subprocess.Popen(command(*words), stderr=subprocess.DEVNULL, cwd=ROOT, start_new_session=True)
    until = time.monotonic() + 120
    while not (tmp_path / "out" / many.NOTE).exists() and child.poll() is None and time.monotonic() < until:
        time.sleep(0.002)
    started = Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split()
    child.kill()
    child.wait()
    assert len(started) >= 2
    while any(map(_at_work, started)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(map(_at_work, started))
    result = run(*words)
    assert result.code == 0, result.err


def _at_work(process: str) -> bool:
    try:
        told = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False
    return told.rpartition(")")[2].split()[0] != "Z"
