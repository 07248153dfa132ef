"""Where output goes, and that nothing is left half-written: existing files, full disks, Ctrl-C, SIGTERM."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.cli_cases import ROOT, Result, command, listing, make_adapter, refused, run, run_apart

AT_WORK = r"__import__('os').write(2, b'at work\n')"
"""One write, so that the lines of two worker threads do not mix."""
PAUSES = {
    # Within an output that is half-written; worker threads finish the rows that they are at.
    "merging": (
        f"import time, adaptzip.restoring.merging.weights as m\nm.row_blocks = lambda *a: ({AT_WORK}, time.sleep(60))"
    ),
    # While the bytes of the finished output are on their way to the disk.
    "syncing": "import os, threading as t, time\n"
    f"os.fsync = lambda *a: t.current_thread() is t.main_thread() and ({AT_WORK}, time.sleep(60))",
    # In the middle of the work, before anything is written; worker threads finish the module they are at.
    "coding": "import time, adaptzip.adz.coding.modules as m\nwas = m.code_modules\n"
    f"m.code_modules = lambda *a: ({AT_WORK}, time.sleep(0.5), was(*a))[-1]",
}


def words_for(verb: str, adapter: Path, base: Path) -> list[str]:
    out = adapter.parent / ("out.adz" if verb == "compress" else "out")
    more = {"compress": ["--lossless"], "merge": ["--base", str(base)]}.get(verb, [])
    if verb == "convert":
        return [verb, str(adapter), str(out)]
    return [verb, str(adapter), *more, "-o", str(out)]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("my-adapter", "my-adapter.adz"),
        ("my-adapter/", "my-adapter.adz"),
        ("my-adapter/adapter_model.safetensors", "my-adapter/adapter_model.adz"),
        ("v1.5", "v1.5.adz"),
    ],
)
def test_the_default_output_lies_beside_the_source(
    source: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_adapter(tmp_path / "my-adapter")
    make_adapter(tmp_path / "v1.5")
    monkeypatch.chdir(tmp_path)
    result = run("compress", source, "--lossless")
    assert result.code == 0, result.err
    assert result.last.startswith(f"wrote {expected}  ")
    assert (tmp_path / expected).is_file()


def test_the_default_output_of_the_folder_one_is_in(adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(adapter)
    assert run("compress", ".", "-q", "--lossless") == Result(0, "", "")
    assert adapter.with_name("my-adapter.adz").is_file()


def test_the_cards_command(adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (adapter / "adapter_model.safetensors").rename(adapter / "lora.safetensors")
    monkeypatch.chdir(adapter)
    result = run("compress", "lora.safetensors", "--to", "svd", "--budget", "1k", "--json")
    assert result.code == 0, result.err
    assert result.json["path"] == "lora.adz"
    assert result.json["parameters"] <= 1000


@pytest.mark.parametrize("verb", ["compress", "convert", "export", "merge"])
def test_an_existing_output_needs_force(verb: str, adapter: Path, base: Path) -> None:
    words = words_for(verb, adapter, base)
    assert run(*words).code == 0
    out = Path(words[-1])
    first = {name: (adapter.parent / name).read_bytes() for name in listing(adapter.parent)}
    refused(run(*words), 2, "exists already", "-f")
    assert {name: (adapter.parent / name).read_bytes() for name in listing(adapter.parent)} == first
    assert run(*words, "-f").code == 0
    assert run(*words, "--force").code == 0
    assert out.exists()
    assert listing(adapter.parent) == sorted(first)


@pytest.mark.parametrize("verb", ["compress", "convert", "export", "merge"])
def test_a_dry_run_writes_nothing(verb: str, adapter: Path, base: Path) -> None:
    before = listing(adapter.parent)
    words = words_for(verb, adapter, base)
    for flag in ("-n", "--dry-run"):
        result = run(*words, flag)
        assert result.code == 0, result.err
        assert result.out.startswith(f"would write {words[-1]}  ")
    values = run(*words, "-n", "--json").json
    assert values["dry_run"] is True
    assert values["path"] == words[-1]
    assert values["bytes"] > 0
    assert listing(adapter.parent) == before


def test_a_dry_run_says_what_the_run_would(adapter: Path) -> None:
    """A dialect of several files is none of one file in a rehearsal either."""
    out = adapter.parent / "out.safetensors"
    refused(run("export", adapter, "-o", out), 2, "peft is written as adapter_config.json, adapter_model.safetensors")
    refused(run("export", adapter, "-o", out, "-n"), 2, "peft is written as adapter_config.json")
    refused(run("convert", adapter, out, "-n"), 2, "peft is written as adapter_config.json")
    single = run("convert", adapter, out.with_suffix(".gguf"), "--as", "gguf", "-n")
    refused(single, 2, "--base")


def test_who_gives_convert_its_output_by_an_option_is_told(adapter: Path) -> None:
    refused(run("convert", adapter, "-o", "x"), 2, "no such option: -o", "write adaptzip convert SRC OUT")
    refused(run("inspect", adapter, "-o", "x"), 2, "no such option: -o", "see adaptzip inspect --help")


@pytest.mark.parametrize("flag", [[], ["-f"]])
def test_the_source_is_never_replaced(flag: list[str], adapter: Path, archive: Path, base: Path) -> None:
    before = {name: (adapter.parent / name).read_bytes() for name in listing(adapter.parent)}
    refused(run("compress", archive, *flag), 2, "would replace its source")
    refused(run("compress", adapter / "adapter_model.safetensors", "-o", adapter, *flag), 2)
    refused(run("export", adapter, "-o", adapter, *flag), 2, "would replace its source")
    refused(run("merge", adapter, "--base", base, "-o", base, *flag), 2, "base")
    assert {name: (adapter.parent / name).read_bytes() for name in listing(adapter.parent)} == before


@pytest.mark.parametrize("verb", ["compress", "convert", "export", "merge"])
def test_a_folder_that_does_not_exist(verb: str, adapter: Path, base: Path) -> None:
    words = words_for(verb, adapter, base)
    words[-1] = str(adapter.parent / "no" / "such" / "out")
    refused(run(*words), 2, "does not exist", "mkdir -p")


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
@pytest.mark.parametrize("verb", ["compress", "convert", "export", "merge"])
def test_a_place_nobody_can_write_to(verb: str, adapter: Path, base: Path) -> None:
    words = words_for(verb, adapter, base)
    words[-1] = "/proc/adaptzip-test" + (".adz" if verb == "compress" else "")
    refused(run(*words), 2, f"{words[-1]}: cannot be written")


@pytest.mark.skipif(not Path("/dev/null").exists(), reason="there is no /dev/null here")
@pytest.mark.parametrize("verb", ["compress", "convert", "export", "merge"])
def test_a_device_is_never_replaced(verb: str, adapter: Path, base: Path) -> None:
    words = words_for(verb, adapter, base)
    words[-1] = "/dev/null"
    refused(run(*words, "-f"), 2, "/dev/null")
    assert Path("/dev/null").is_char_device()


@pytest.mark.skipif(os.name != "posix", reason="limits on the size of a file are POSIX's")
@pytest.mark.parametrize("verb", ["compress", "convert", "export", "merge"])
def test_a_full_disk(verb: str, adapter: Path, base: Path) -> None:
    """No file may grow beyond 1000 bytes, which fails inside a write as a full disk does."""
    before = listing(adapter.parent)
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))"
    result = run_apart(*words_for(verb, adapter, base), before=limit)
    refused(result, 2, "cannot be written", "nothing was left behind")
    assert listing(adapter.parent) == before


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
@pytest.mark.parametrize(
    ("number", "code", "said"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")],
    ids=["ctrl-c", "sigterm"],
)
@pytest.mark.parametrize(
    ("verb", "where"),
    [
        ("compress", "coding"),
        ("compress", "syncing"),
        ("export", "syncing"),
        ("merge", "merging"),
        ("merge", "syncing"),
    ],
)
def test_interrupted(
    verb: str, where: str, number: signal.Signals, code: int, said: str, adapter: Path, base: Path
) -> None:
    before = listing(adapter.parent)
    words = words_for(verb, adapter, base)
    if where == "coding":
        words.remove("--lossless")
    child = subprocess.Popen(
        command(*words, before=PAUSES[where]),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert child.stderr is not None
    assert child.stderr.readline() == "at work\n"
    if where != "coding":
        assert listing(adapter.parent) != before
    child.send_signal(number)
    out, err = child.communicate(timeout=60)
    last = err.replace("at work\n", "")
    assert (child.returncode, out) == (code, "")
    if (verb, where) == ("merge", "syncing"):
        kept = re.fullmatch(
            rf"error: {said}; what was finished is kept in (.+); the same command goes on with it\n", last
        )
        assert kept is not None
        shutil.rmtree(kept[1])
    else:
        assert last == f"error: {said}; nothing was left behind\n"
    assert listing(adapter.parent) == before


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
def test_an_interrupt_is_not_lost_in_an_import(adapter: Path) -> None:
    """Some packages swallow every exception while they are imported; this one stands for them."""
    package = adapter.parent / "swallower.py"
    package.write_text(
        "import signal\ntry:\n    signal.raise_signal(signal.SIGINT)\nexcept BaseException:\n    print('swallowed')\n"
    )
    patch = (
        f"sys.path.insert(0, {str(adapter.parent)!r})\n"
        "import adaptzip.restoring.reading as s\nwas = s.read\n"
        "def read(*a, **k):\n    import swallower, time\n    time.sleep(60)\ns.read = read\n"
    )
    result = run_apart("diff", adapter, adapter, before=patch)
    assert result == Result(130, "", "error: interrupted; nothing was left behind\n")


@pytest.mark.skipif(os.name != "posix", reason="terminals are POSIX's")
@pytest.mark.parametrize("variables", [{}, {"NO_COLOR": "1"}], ids=["colour", "no-colour"])
def test_progress_is_shown_on_a_terminal(adapter: Path, variables: dict[str, str]) -> None:
    ours, theirs = os.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", **variables}
    with os.fdopen(ours, "rb", buffering=0) as screen:
        child = subprocess.Popen(
            command("compress", adapter), stdout=subprocess.PIPE, stderr=theirs, cwd=ROOT, env=environment
        )
        os.close(theirs)
        shown = b""
        try:
            while piece := screen.read(4096):
                shown += piece
        except OSError:  # Linux says so when the other end is closed
            pass
        assert child.communicate()[0] == b""
    assert child.returncode == 0
    assert b"coding" in shown
    assert b"wrote " in shown.splitlines()[-1]
    assert (b"\x1b[3" in shown) == (not variables)
