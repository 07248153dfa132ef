"""What a terminal shows while a command works."""

from __future__ import annotations

import io
import logging
import sys

import pytest

from adaptzip.cli._output import Output
from adaptzip.cli._whole import WholeJob


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_what_is_logged_stands_beside_the_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal, logger = Terminal(), logging.getLogger("adaptzip.core.compiled")
    monkeypatch.setattr(sys, "stderr", terminal)
    with Output().progress() as report:
        report("coding", 1, 2)
        logger.info("compiling\nfor long")
    logger.info("afterwards")
    assert "compiling for long" in terminal.getvalue()
    assert "afterwards" not in terminal.getvalue()


def test_elsewhere_nothing_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = io.StringIO()
    monkeypatch.setattr(sys, "stderr", plain)
    with Output().progress() as report:
        report("coding", 1, 2)
        logging.getLogger("adaptzip.core.compiled").info("compiling")
    assert not plain.getvalue()


def test_elsewhere_what_is_logged_takes_verbose(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = io.StringIO()
    monkeypatch.setattr(sys, "stderr", plain)
    with Output(verbose=True).progress():
        logging.getLogger("adaptzip.bases.kept").info("from the cache")
    assert plain.getvalue() == "from the cache\n"


def test_commands_without_a_bar_say_on_a_terminal_what_is_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    logger = logging.getLogger("adaptzip.core.compiled")
    for stream, output, said in (
        (Terminal(), Output(), "compiling\n"),
        (Terminal(), Output(quiet=True), ""),
        (Terminal(), Output(as_json=True), ""),
        (io.StringIO(), Output(), ""),
        (io.StringIO(), Output(verbose=True), "compiling\n"),
    ):
        monkeypatch.setattr(sys, "stderr", stream)
        with output.warnings(), output.warnings():
            logger.info("compiling")
        logger.info("afterwards")
        assert stream.getvalue() == said


def test_the_bar_of_a_whole_job_never_goes_back() -> None:
    whole = WholeJob()
    steps = [("preparing", 1, 2), ("preparing", 2, 2), *(("fitting", n, 9) for n in range(10))]
    steps += [("coding", n, 9) for _ in range(5) for n in range(1, 10)] + [("reference", 0, 1)]
    shown = [whole.told(*step) for step in steps]
    assert shown == sorted(shown)
    assert 0 < shown[0] < shown[-1] < 1
    passes = [shown[12 + 9 * n + 8] for n in range(5)]
    assert passes == sorted(set(passes))


def test_a_job_that_counts_all_of_itself_is_shown_as_it_counts() -> None:
    whole = WholeJob()
    assert [whole.told(name, done, 4) for done, name in enumerate("abcd")] == [0, 0.25, 0.5, 0.75]
    assert whole.told("d", 4, 4) == pytest.approx(0.999)
    assert WholeJob().told("merging", 3, 0) == 0
