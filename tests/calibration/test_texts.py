"""Reading calibration texts."""

from __future__ import annotations

from pathlib import Path

import pytest

from adaptzip.calibration.texts import TEXT_KEYS, read_texts
from adaptzip.errors import CheckpointError


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize("key", TEXT_KEYS)
def test_every_key_is_read(key: str, tmp_path: Path) -> None:
    path = write(tmp_path, "t.jsonl", f'{{"{key}": "one two", "label": 3}}\n\n{{"{key}": "three"}}\n')
    assert read_texts(path) == ("one two", "three")


def test_the_first_of_several_keys_counts(tmp_path: Path) -> None:
    assert read_texts(write(tmp_path, "t.jsonl", '{"sentence": "no", "text": "yes"}')) == ("yes",)


def test_a_line_separator_within_a_text_does_not_end_it(tmp_path: Path) -> None:
    assert read_texts(write(tmp_path, "t.jsonl", '{"text": "a\u2028b"}')) == ("a\u2028b",)


def test_plain_text_is_one_a_line(tmp_path: Path) -> None:
    assert read_texts(write(tmp_path, "t.txt", "one\r\n\n  two \n")) == ("one", "two")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"text": "a"}\n{"text": \n', "line 2: is not JSON"),
        ('["a"]', "line 1: expected a JSON object, found list"),
        ('{"body": "a"}', r"line 1: has none of the keys text, prompt, question, sentence \(its keys: body\)"),
        ('{"text": 3}', "line 1: 'text' is not a text"),
        ('{"text": " "}', "line 1: 'text' is not a text"),
        ("\n\n", "holds no text"),
        (b"\xff\xfe", "is not readable as UTF-8"),
    ],
)
def test_bad_lines_are_named(content: str | bytes, message: str, tmp_path: Path) -> None:
    path = write(tmp_path, "t.jsonl", content)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_texts(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="expected texts as .jsonl or .txt, found .csv"):
        read_texts(write(tmp_path, "t.csv", "a"))
    with pytest.raises(CheckpointError, match="does not exist"):
        read_texts(tmp_path / "missing.txt")
