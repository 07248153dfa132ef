"""Around the commands: help, version, usage errors, what is imported, and what a broken stream does."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import torch

import adaptzip
from adaptzip.cli.app import COMMANDS
from adaptzip.methods import names
from tests.cli.cli_cases import ROOT, command, make_adapter, refused, run, run_apart

NAMES = [command.__name__ for command in COMMANDS]
SEES_TORCH = """
import atexit
atexit.register(lambda: print('torch' in sys.modules, file=sys.stderr))
"""


def test_no_words_show_the_help_on_stderr() -> None:
    result = run()
    assert result.code == 2
    assert result.out == ""
    assert "Commands:" in result.err


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_lists_every_command(flag: str) -> None:
    result = run(flag)
    assert result.code == 0
    assert result.err == ""
    for name in NAMES:
        assert f"\n  {name} " in result.out


@pytest.mark.parametrize("name", NAMES)
def test_every_help_has_an_example_and_says_what_is_written(name: str) -> None:
    result = run(name, "-h")
    assert result.code == 0
    assert f"Examples:\n    adaptzip {name}" in result.out
    assert "Writes" in result.out
    assert "--json" in result.out


def test_no_summary_is_cut_short_in_the_list_of_commands() -> None:
    commands = run("-h").out.partition("Commands:")[2]
    assert "..." not in commands


def test_version() -> None:
    assert run("--version").out == f"adaptzip {adaptzip.__version__}\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["comress", "x"], "compress"),
        (["compress", "x", "--buget", "1k"], "--budget"),
        (["compress"], "SRC"),
        (["compress", "x", "--extras", "int2"], "int8"),
        (["compress", "x", "--seed", "one"], "--seed"),
        (["export", str(ROOT / "README.md")], "-o"),
        (["merge", "x", "-o", "y"], "--base"),
        (["diff", "x"], "B"),
        (["verify", "x", "--max-error", "-1"], "--max-error"),
        (["methods", "svdd"], "svd"),
    ],
)
def test_usage_errors(words: list[str], said: str) -> None:
    refused(run(*words), 2, said)


def test_errors_are_json_too_where_asked_for() -> None:
    result = run("inspect", "nowhere", "--json")
    lines = result.err.splitlines()
    assert lines[0].startswith("error: nowhere: ")
    error = json.loads(lines[-1])
    assert error["schema"] == 1
    assert error["error"] == {
        "kind": "CheckpointError",
        "message": lines[0].removeprefix("error: "),
        "hint": lines[1].removeprefix("hint: "),
        "exit_code": 2,
    }


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["methods"], ["compress", "--help"], []])
def test_no_torch_for(words: list[str]) -> None:
    assert run_apart(*words, before=SEES_TORCH).last == "False"


def test_no_torch_for_the_header_of_an_archive(archive: Path) -> None:
    result = run_apart("inspect", archive, before=SEES_TORCH)
    assert result.code == 0
    assert result.last == "False"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("compress nosuch", "nosuch: no such file or folder"),
        ("plan nosuch", "nosuch: no such file or folder"),
        ("inspect nosuch", "nosuch: no such file or folder"),
        ("export nosuch -o out", "nosuch: no such file or folder"),
        ("merge nosuch:0.5 --base base -o out", "nosuch:0.5: no such file or folder"),
        ("distill --teacher nosuch --base base --data self -o x.adz", "nosuch: no such file or folder"),
        ("diff {adapter} nosuch", "nosuch: no such file or folder"),
        ("verify nosuch", "nosuch: no such file"),
        ("basis build nosuch", "nosuch: no such file or folder"),
        ("compress {adapter} --budget 3Q", "'Q' is no unit"),
        ("compress {adapter} --params 3KiB", "it does not count parameters"),
        ("compress {adapter} --params 3 --bytes 4", "--params and --bytes both limit the size"),
        ("compress {adapter} --to magic", "method 'magic' is unknown"),
        ("plan {adapter} --to svd --to magic", "method 'magic' is unknown"),
        ("compress {adapter} -o {adapter}", "the output would"),
    ],
)
def test_no_torch_for_what_is_refused_at_once(words: str, said: str, adapter: Path) -> None:
    result = run_apart(*(word.format(adapter=adapter) for word in words.split()), before=SEES_TORCH)
    assert result.code == 2
    assert said in result.err
    assert result.last == "False"


def test_no_torch_for_completion() -> None:
    variables = {
        "_ADAPTZIP_COMPLETE": "complete_bash",
        "COMP_WORDS": "adaptzip compress --to ",
        "COMP_CWORD": "3",
    }
    result = run_apart(before=f"import os; os.environ.update({variables!r}){SEES_TORCH}")
    assert result.out.split() == [*names(), "auto"]
    assert result.last == "False"


def test_an_internal_error_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise KeyError("something")

    monkeypatch.setattr("adaptzip.methods.names", broken)
    refused(run("methods"), 70, "internal error: KeyError", "ADAPTZIP_DEBUG=1")
    monkeypatch.setenv("ADAPTZIP_DEBUG", "1")
    assert "Traceback" in run("methods").err


@pytest.mark.parametrize(
    ("error", "on_gpu"),
    [
        (MemoryError(), False),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), False),
        (torch.OutOfMemoryError("CUDA out of memory."), True),
    ],
)
def test_too_little_memory(error: Exception, on_gpu: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def greedy() -> None:
        raise error

    monkeypatch.setattr("adaptzip.methods.names", greedy)
    done = run("methods")
    refused(done, 2, "not enough memory")
    assert ("--device cpu" in done.err) == on_gpu


def test_names_cannot_steer_the_terminal(tmp_path: Path) -> None:
    result = run("inspect", tmp_path / "red\x1b[31m\nline")
    refused(result, 2)
    assert "\x1b" not in result.err
    assert "red\\x1b[31m line" in result.err


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    source = make_adapter(tmp_path / "a")
    child = subprocess.Popen(
        command("diff", source, source), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert child.stdout is not None
    assert child.stderr is not None
    child.stdout.close()
    assert child.stderr.read() == ""
    assert child.wait() == 0
    child.stderr.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_a_full_disk_under_stdout(tmp_path: Path) -> None:
    source = make_adapter(tmp_path / "a")
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            command("diff", source, source),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            cwd=ROOT,
        )
    assert done.returncode == 2
    assert done.stderr.startswith("error: no space left on device\n")
    assert "Exception" not in done.stderr
