"""Pipes, sockets and devices in the place of files: an error that names what they are, at once."""

from __future__ import annotations

import os
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli.cli_cases import run

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes with names")


@pytest.fixture(autouse=True)
def _at_once() -> Iterator[None]:
    """An end for what would wait for ever."""

    def end(*_: object) -> None:
        raise AssertionError("it waits")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def pipe(path: Path) -> None:
    os.mkfifo(path)


def bound(path: Path) -> None:
    own = socket.socket(socket.AF_UNIX)
    os.chdir(path.parent)  # The name of a socket is short.
    own.bind(path.name)
    own.close()


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


KINDS = {"a pipe": pipe, "a socket": bound, "a device": device}
kinds = pytest.mark.parametrize(("what", "make"), KINDS.items(), ids=[what.split()[1] for what in KINDS])


@kinds
@pytest.mark.parametrize("words", [["inspect"], ["verify"], ["export", "-o", "out"], ["compress", "-o", "x.adz"]])
@pytest.mark.parametrize("name", ["x.adz", "x.safetensors", "x"])
def test_as_a_source(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    what: str,
    make: Callable[[Path], None],
    words: list[str],
    name: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    make(tmp_path / name)
    done = run(*words, tmp_path / name)
    assert done.code == 2
    assert what in done.err or "neither a file nor a folder" in done.err


@kinds
@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json"])
def test_within_an_adapter(adapter: Path, what: str, make: Callable[[Path], None], name: str) -> None:
    (adapter / name).unlink()
    make(adapter / name)
    for words in (["inspect"], ["compress", "-o", "x.adz"]):
        assert run(*words, adapter).code == 2


@kinds
@pytest.mark.parametrize("name", [None, "config.json", "model.safetensors", "model.safetensors.index.json"])
def test_as_a_base(
    adapter: Path, base: Path, what: str, make: Callable[[Path], None], name: str | None, tmp_path: Path
) -> None:
    if name is None:
        shutil.rmtree(base)
    else:
        (base / name).unlink(missing_ok=True)
    if name == "model.safetensors.index.json":
        (base / "model.safetensors").unlink()
    make(base if name is None else base / name)
    for words in (["merge", adapter, "-o", tmp_path / "merged"], ["inspect", adapter]):
        assert run(*words, "--base", base).code in ((2, 3) if words[0] == "merge" else (0, 2))
    assert not (tmp_path / "merged").exists()


@kinds
@pytest.mark.parametrize(
    "words",
    [
        ["compress", "--to", "lora-xs", "--basis"],
        ["compress", "--to", "vblora", "--basis"],
        ["compress", "--plan"],
        ["compress", "--config"],
        ["compress", "--start"],
        ["export", "--as", "peft", "--basis"],
        ["basis", "show"],
        ["bank", "show"],
    ],
)
@pytest.mark.parametrize("name", ["x.basis", "x.bank", "x.json"])
def test_as_what_is_named_beside(
    adapter: Path, tmp_path: Path, what: str, make: Callable[[Path], None], words: list[str], name: str
) -> None:
    make(tmp_path / name)
    source = [] if words[-1] == "show" else [adapter, "-o", tmp_path / "out.adz"]
    assert run(*words, tmp_path / name, *source).code in (2, 3)  # A bank is of no use for lora-xs.


@kinds
@pytest.mark.parametrize("name", ["x.jsonl", "x.csv", "x.txt", "x.parquet"])
def test_as_data(adapter: Path, base: Path, tmp_path: Path, what: str, make: Callable[[Path], None], name: str) -> None:
    make(tmp_path / name)
    done = run("eval", adapter, "--base", base, "--data", tmp_path / name)
    assert done.code == 2


def test_no_message_is_longer_than_a_screen(adapter: Path) -> None:
    done = run("inspect", adapter / ("x" * 200) / ("y" * 200) / "/".join(["z" * 200] * 15))
    assert done.code == 2
    assert len(done.err) < 1700
    assert " [...] zzz" in done.err
    assert done.err.count("\n") <= 2
