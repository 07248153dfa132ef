"""Tables on a terminal: drawn as wide as it is, with nothing lost; elsewhere plain."""

from __future__ import annotations

import io
import re

import pytest

from adaptzip.cli import _text as text
from adaptzip.cli._drawing import show
from adaptzip.cli._output import Output, error

_STYLE = re.compile(r"\x1b\[[0-9;]*m")


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> _Terminal:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "40")
    return _Terminal()


def _page() -> str:
    rows = [["a.long.module.name.that.does.not.fit.here", "12"], ["b", "345"]]
    return f"first\n\n{text.table(rows, head=['module', 'bytes'])}\nlast\n\n{text.fields([('one', '1' * 50)])}"


def test_tables_are_drawn_within_the_width_and_lose_nothing(terminal: _Terminal) -> None:
    show(terminal, _page, text.printable)
    shown = terminal.getvalue()
    lines = _STYLE.sub("", shown).splitlines()
    assert shown != _STYLE.sub("", shown)
    assert max(map(len, lines)) <= 40
    assert lines[:3] == ["first", "", next(line for line in lines if line.startswith("module"))]
    names = "".join(line.split("  ")[0].strip() for line in lines[4 : lines.index("last") - 1])
    assert names == "a.long.module.name.that.does.not.fit.here"
    assert sum(line.count("1") for line in lines[lines.index("last") :]) == 50
    assert [line for line in lines if line.endswith(" 12")]


def test_no_name_steers_the_terminal_or_forges_a_table(terminal: _Terminal) -> None:
    names = ["\x1b[31mred", "\0" + "0" * 16 + ":0\0", "new\nline"]
    show(
        terminal,
        lambda: "\n".join([names[1], text.table([[name, "1"] for name in names], head=["name", ""])]),
        text.printable,
    )
    plain = _STYLE.sub("", terminal.getvalue())
    assert "\0" not in plain
    assert "\x1b" not in plain
    assert plain.count(r"\x000000000000000000:0\x00") == 2
    assert r"\x1b[31mred" in plain
    assert len(plain.splitlines()) == 6


@pytest.mark.parametrize("variable", [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_a_terminal_without_colour_gets_plain_text(
    terminal: _Terminal, monkeypatch: pytest.MonkeyPatch, variable: tuple[str, str]
) -> None:
    monkeypatch.setenv(*variable)
    monkeypatch.setattr("sys.stdout", terminal)
    Output().result({}, _page)
    assert terminal.getvalue() == f"{_page()}\n"


def test_results_notes_and_errors_have_colour_on_a_terminal_only(
    terminal: _Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    for stream in (terminal, io.StringIO()):
        monkeypatch.setattr("sys.stdout", stream)
        monkeypatch.setattr("sys.stderr", stream)
        Output().result({}, _page)
        Output().note(_page)
        Output().warning("odd\x1b[31m")
        error("wrong", "do otherwise", 2, kind="usage", json_too=False)
        found = stream.getvalue()
        assert ("\x1b" in found) == stream.isatty()
        assert r"odd\x1b[31m" in found
        assert _STYLE.sub("", found).endswith("error: wrong\nhint: do otherwise\n")
