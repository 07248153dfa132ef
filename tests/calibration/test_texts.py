"""Reading calibration texts."""

from __future__ import annotations

from pathlib import Path

import pytest

from adaptzip.calibration.examples import read_examples
from adaptzip.calibration.texts import TEXT_KEYS, read_records
from adaptzip.errors import CheckpointError


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def read_texts(path: Path) -> tuple[str, ...]:
    return tuple(example.text for example in read_examples(path))


@pytest.mark.parametrize("key", TEXT_KEYS)
def test_every_key_is_read(key: str, tmp_path: Path) -> None:
    path = write(tmp_path, "t.jsonl", f'{{"{key}": "one two", "label": 3}}\n\n{{"{key}": "three"}}\n')
    assert read_texts(path) == ("one two", "three")


def test_one_of_several_texts_is_not_read_alone(tmp_path: Path) -> None:
    path = write(tmp_path, "t.jsonl", '{"sentence": "no", "text": "yes"}')
    with pytest.raises(CheckpointError, match="line 1: has texts in 'text' and 'sentence'") as caught:
        read_examples(path)
    assert "--text-field" in str(caught.value.hint)
    assert [example.text for example in read_examples(path, text_field="text")] == ["yes"]


def test_a_line_separator_within_a_text_does_not_end_it(tmp_path: Path) -> None:
    assert read_texts(write(tmp_path, "t.jsonl", '{"text": "a\u2028b"}')) == ("a\u2028b",)


def test_plain_text_is_one_a_line(tmp_path: Path) -> None:
    assert read_texts(write(tmp_path, "t.txt", "one\r\n\n  two \n")) == ("one", "two")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"text": "a"}\n{"text": \n', "line 2: is not JSON"),
        ('["a"]', "line 1: expected a JSON object, found list"),
        ('{"body": "a"}', r"line 1: has none of the fields text, prompt, question, sentence \(its fields: body\)"),
        ('{"text": 3}', "line 1: 'text' is not a text"),
        ('{"text": " "}', "all of its 1 texts are empty"),
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


def test_rows_are_read_by_their_header(tmp_path: Path) -> None:
    path = write(tmp_path, "t.csv", '\ufefftext, label\r\n"a, ""b""\nc",x\r\n\r\nd,\r\n')
    records = read_records(path)
    assert [dict(record.fields) for record in records] == [
        {"text": 'a, "b"\nc', "label": "x"},
        {"text": "d", "label": ""},
    ]
    assert records[1].place == f"{path}, line 5"
    assert read_texts(path) == ('a, "b"\nc', "d")


def test_a_named_field_counts(tmp_path: Path) -> None:
    (record,) = read_records(write(tmp_path, "t.jsonl", '{"text": "no", "body": "yes", "n": 3}'))
    assert record.value("n") == 3
    with pytest.raises(CheckpointError, match=r"line 1: has no field 'title' \(its fields: text, body, n\)"):
        record.value("title")
    path = tmp_path / "t.jsonl"
    assert read_examples(path, text_field="body")[0].text == "yes"
    with pytest.raises(CheckpointError, match="line 1: 'n' is not a text"):
        read_examples(path, text_field="n")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text,label\na,b,c\n", r"line 2: has 3 columns, expected 2 \(text, label\)"),
        ('text\n"a\n', "is not CSV"),
        ("text\n", "holds no text"),
        ("body\na\n", r"line 2: has none of the fields .* \(its fields: body\)"),
    ],
)
def test_bad_rows_are_named(content: str, message: str, tmp_path: Path) -> None:
    path = write(tmp_path, "t.csv", content)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_texts(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="expected texts as .jsonl, .csv or .txt, found .json"):
        read_texts(write(tmp_path, "t.json", "a"))
    with pytest.raises(CheckpointError, match="does not exist"):
        read_texts(tmp_path / "missing.txt")
    (tmp_path / "folder.txt").mkdir()
    with pytest.raises(CheckpointError, match="is not readable"):
        read_texts(tmp_path / "folder.txt")
