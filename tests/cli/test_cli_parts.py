"""The pieces under the commands: text, paths, and typed options of a method."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from adaptzip.cli import _text as text
from adaptzip.cli._paths import check_file, check_folder, default_output
from adaptzip.cli._settings import parse_settings, settings_of
from adaptzip.errors import OutputError, UsageError


@dataclass(frozen=True)
class Config:
    rank: int = 4
    weight: float | None = None
    centred: bool = False
    kind: Literal["uniform", "energy"] = "uniform"
    label: str = ""


SETTINGS = settings_of(Config)


def test_settings_are_typed_by_the_config() -> None:
    items = ["rank=8", "weight = 0.5", "centred=yes", "kind=energy", "label=a=b"]
    values = parse_settings(items, "some", SETTINGS)
    assert values == {"rank": 8, "weight": 0.5, "centred": True, "kind": "energy", "label": "a=b"}
    assert parse_settings(["weight=none"], "some", SETTINGS) == {"weight": None}
    assert Config(**values).rank == 8


@pytest.mark.parametrize(
    ("item", "said", "hint"),
    [
        (
            "rnk=8",
            "has no option 'rnk'",
            "did you mean rank? its options: rank, weight, centred, kind, label",
        ),
        ("zzz=8", "has no option 'zzz'", "its options: rank,"),
        ("rank", "expected key=value", "rank, weight"),
        ("rank=many", "rank is 'many', expected whole number", ""),
        ("rank=1.5", "expected whole number", ""),
        ("weight=heavy", "expected number or none", ""),
        ("centred=maybe", "expected true or false", ""),
        ("kind=other", "expected one of uniform, energy", ""),
    ],
)
def test_wrong_settings(item: str, said: str, hint: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        parse_settings([item], "some", SETTINGS)
    assert hint in (caught.value.hint or "")


def test_a_setting_may_be_given_once() -> None:
    with pytest.raises(UsageError, match="rank is set twice"):
        parse_settings(["rank=1", "rank=2"], "some", SETTINGS)


def test_settings_describe_themselves() -> None:
    assert [setting.kind for setting in SETTINGS] == [
        "whole number",
        "number or none",
        "true or false",
        "one of uniform, energy",
        "text",
    ]
    assert SETTINGS[0].as_dict() == {"name": "rank", "type": "whole number", "default": 4, "meaning": ""}


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (1048575, "1.0 MiB"),
        (6 * 2**30, "6.0 GiB"),
    ],
)
def test_sizes(count: int, said: str) -> None:
    assert text.size(count) == said


@pytest.mark.parametrize(
    ("count", "most", "said"),
    [
        (19_999_000, 20_000_000, "19.07 MiB"),
        (65_530, 65_536, "64.0 KiB"),
        (1500, 100, "1.5 KiB"),
        (2047, 2047, "1.999 KiB"),
    ],
)
def test_no_size_is_rounded_beyond_what_it_is_within(count: int, most: int, said: str) -> None:
    assert text.size(count, most) == said


@pytest.mark.parametrize(
    ("value", "most", "said"),
    [
        (0.12359, 0.1236, "0.1236"),
        (0.0998, 0.1, "0.0998"),
        (0.09996, 0.1, "0.1"),
        (0.12359, 0.12, "0.124"),
        (0.5, None, "0.5"),
    ],
)
def test_no_number_is_rounded_beyond_what_it_is_within(value: float, most: float | None, said: str) -> None:
    assert text.number(value, most) == said


@pytest.mark.parametrize(
    ("part", "whole", "said"),
    [
        (19, 1000, "1.9 %"),
        (1, 100000, "0.001 %"),
        (52, 100, "52 %"),
        (1, 1, "100 %"),
        (0, 5, "0 %"),
        (1, 0, "0 %"),
    ],
)
def test_shares(part: int, whole: int, said: str) -> None:
    assert text.share(part, whole) == said


@pytest.mark.parametrize(
    ("before", "after", "said"), [(5200, 100, "52x"), (150, 100, "1.5x"), (90, 100, "0.90x"), (1, 0, "-")]
)
def test_ratios(before: int, after: int, said: str) -> None:
    assert text.ratio(before, after) == said


def test_tables_are_aligned() -> None:
    assert text.table([["a", "1"], ["long", "100"]], head=["name", "n"]) == "name    n\na       1\nlong  100"
    assert text.table([]) == ""
    assert text.fields([("one", "1"), ("none", ""), ("three", "3")]) == "one    1\nthree  3"


def test_control_characters_are_escaped() -> None:
    assert text.printable("a\x1b[0m\tb\nc\u202e") == "a\\x1b[0m\\tb\nc\\u202e"
    assert text.one_line("a\nb") == "a b"


def test_default_outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = tmp_path / "my.adapter" / "inner"
    inner.mkdir(parents=True)
    assert default_output(tmp_path / "lora.safetensors") == tmp_path / "lora.adz"
    assert default_output(tmp_path / "my.adapter") == tmp_path / "my.adapter.adz"
    monkeypatch.chdir(inner)
    assert default_output(Path()) == tmp_path / "my.adapter" / "inner.adz"
    assert default_output(Path("..")) == tmp_path / "my.adapter.adz"
    with pytest.raises(UsageError, match="no name"):
        default_output(Path("/"))


def test_outputs_are_checked_first(tmp_path: Path) -> None:
    source, file, folder = tmp_path / "source", tmp_path / "file", tmp_path / "folder"
    source.mkdir()
    file.touch()
    folder.mkdir()
    check_folder(folder, source=source, force=False)
    (folder / "x").touch()
    with pytest.raises(OutputError, match="found a folder"):
        check_file(folder, source=source, force=True)
    with pytest.raises(OutputError, match="found a file"):
        check_folder(file, source=source, force=True)
    with pytest.raises(OutputError, match="not empty"):
        check_folder(folder, source=source, force=False)
    check_folder(folder, source=source, force=True)
    with pytest.raises(OutputError, match="exists already"):
        check_file(file, source=source, force=False)
    check_file(file, source=source, force=True)
    with pytest.raises(UsageError, match="would replace its source"):
        check_folder(tmp_path, source=source, force=True)
