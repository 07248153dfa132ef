"""--from says what a checkpoint is read as, in every command that reads one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import adaptzip
from adaptzip.checkpoints import WriteOptions, Writer
from adaptzip.errors import RefusedError, UsageError
from tests.cases.plugging import installed_dialects
from tests.cli.cli_cases import make_adapter, make_base, refused, run

COMMANDS = {
    "bench": ("bench", "a"),
    "compress": ("compress", "a", "-o", "x.adz"),
    "distill": ("distill", "--teacher", "a", "--base", "b", "--data", "t.jsonl", "-o", "x.adz"),
    "eval": ("eval", "--teacher", "a", "--base", "b", "--data", "t.jsonl"),
    "export": ("export", "a", "-o", "out"),
    "inspect": ("inspect", "a"),
    "merge": ("merge", "a", "--base", "b", "-o", "out"),
    "plan": ("plan", "a"),
    "verify": ("verify", "a.adz", "--against", "a"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_that_reads_has_it(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_adapter(tmp_path / "a")
    make_base(tmp_path / "b")
    adaptzip.compress("a", "a.adz", lossless=True)
    (tmp_path / "t.jsonl").write_text(json.dumps({"text": "a", "label": 0}) + "\n")
    refused(run(*COMMANDS[name], "--from", "nothing"), 2, "there is no checkpoint dialect 'nothing'", "peft-loha")


def test_it_is_read_as_what_is_named(tmp_path: Path) -> None:
    folder = make_adapter(tmp_path / "a")
    plain = run("inspect", folder, "--json").json
    assert run("inspect", folder, "--from", "peft", "--json").json == plain
    refused(run("inspect", folder, "--from", "peft-loha"), 2, "its peft_type is 'LORA'")


def test_a_packed_file_is_read_as_nothing_else(tmp_path: Path) -> None:
    adaptzip.compress(make_adapter(tmp_path / "a"), tmp_path / "a.adz", lossless=True)
    refused(run("inspect", tmp_path / "a.adz", "--from", "peft"), 2, "--from", "is a .adz file")
    with pytest.raises(UsageError, match="`dialect='peft'` was given, but .*a.adz is a .adz file"):
        adaptzip.read(tmp_path / "a.adz", dialect="peft")


class Mute(Writer):
    """A dialect that is written alone."""

    name = "mute"
    title = "Mute"

    def write(self, adapter: adaptzip.Adapter, folder: Path, options: WriteOptions) -> None:
        """Nothing."""


MUTE = Mute()


def test_a_dialect_that_is_written_alone_reads_nothing(tmp_path: Path) -> None:
    folder = make_adapter(tmp_path / "a")
    with (
        installed_dialects(tmp_path / "site", {"mute": f"{__name__}:MUTE"}),
        pytest.raises(RefusedError, match="Mute checkpoints are written, not read"),
    ):
        adaptzip.read(folder, dialect="mute")
