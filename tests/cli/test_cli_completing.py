"""What shells complete."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from adaptzip.checkpoints import NativeWriter, Writer, dialects
from adaptzip.checkpoints._registry import readers
from adaptzip.cli import _completing as completing
from adaptzip.cli._settings import settings_of
from adaptzip.methods import load, names
from adaptzip.restoring.exporting import PORTABLE


def test_dialects_are_those_of_the_registry() -> None:
    written = [name for name, found in dialects().items() if isinstance(found, Writer | NativeWriter)]
    assert completing.written_dialects() == sorted([*written, PORTABLE])
    assert completing.read_dialects() == sorted(readers())


def completed(*words: str) -> list[str]:
    """What bash is offered for the last word."""
    environment = {**os.environ, "_ADAPTZIP_COMPLETE": "complete_bash", "COMP_CWORD": str(len(words))}
    done = subprocess.run(
        [sys.executable, "-c", "from adaptzip.cli.app import app; app(prog_name='adaptzip')"],
        env={**environment, "COMP_WORDS": " ".join(["adaptzip", *words])},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("compress", "x", "--to", "lor"), [name for name in names() if name.startswith("lor")]),
        (("compress", "x", "--to", "au"), ["auto"]),
        (("plan", "x", "--to", "au"), []),
        (("export", "x", "--as", "peft-p"), [PORTABLE]),
        (("methods", "vb"), ["vblora"]),
        (("compress", "x", "--from", "ko"), ["kohya"]),
        (("compress", "x", "--effort", "f"), ["fast"]),
        (("compress", "x", "--to", "vblora", "-s", "le"), ["length=", "levels="]),
        (("compress", "x", "-s", ""), ["sides="]),
    ],
)
def test_only_what_is_possible_is_offered(words: tuple[str, ...], offered: list[str]) -> None:
    assert completed(*words) == offered


@pytest.mark.parametrize("name", names())
def test_every_option_says_what_it_means(name: str) -> None:
    for setting in settings_of(load(name).config_type):
        assert len(setting.meaning) > 8, setting.name
        assert "\n" not in setting.meaning
