"""Reading calibration texts."""

from __future__ import annotations

from pathlib import Path

import pytest

from adaptzip.errors import CheckpointError
from adaptzip.models.texts.examples import read_examples
from adaptzip.models.texts.fields import TEXT_KEYS
from adaptzip.models.texts.records import read_records


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
    with pytest.raises(CheckpointError, match="line 1: has texts in 'sentence' and 'text'") as caught:
        read_examples(path)
    assert "`text_field=" in str(caught.value.hint)
    assert [example.text for example in read_examples(path, text_field="text")] == ["yes"]


def test_a_line_separator_within_a_text_does_not_end_it(tmp_path: Path) -> None:
    assert read_texts(write(tmp_path, "t.jsonl", '{"text": "a\u2028b"}')) == ("a\u2028b",)


def test_plain_text_is_one_a_line(tmp_path: Path) -> None:
    assert read_texts(write(tmp_path, "t.txt", "one\r\n\n  two \nth\rree")) == ("one", "  two ", "th\rree")


def test_line_ends_within_a_cell_stay_as_they_are(tmp_path: Path) -> None:
    content = b'text,label\r\n"a\r\nb",1\r\nc,2\r\n'
    assert read_texts(write(tmp_path, "t.csv", content)) == ("a\r\nb", "c")


def test_what_an_object_within_a_row_holds_is_named_with_a_dot(tmp_path: Path) -> None:
    path = write(tmp_path, "t.jsonl", '{"translation": {"en": "a", "fr": "b"}}')
    with pytest.raises(CheckpointError, match=r"its fields: translation.en, translation.fr\)"):
        read_examples(path)
    found = read_examples(path, text_field="translation.en", label_field="translation.fr")
    assert [(example.text, example.label) for example in found] == [("a", "b")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"text": "a"}\n{"text": \n', "line 2: is not JSON"),
        ('["a"]', "item 1: expected a JSON object, found str"),
        ('{\n"text": "a"}', "begins one JSON object over several lines"),
        ('{"body": "a"}', r"line 1: has none of the fields text, prompt, question, sentence \(its fields: body\)"),
        ('{"text": 3}', "line 1: 'text' is not a text"),
        ('{"text": " "}', "all of its 1 texts are empty"),
        ("\n\n", "holds no text"),
        (b"\xff\xfe", "is not UTF-8 text"),
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


@pytest.mark.parametrize("name", ["t.json", "t.jsonl"])
def test_a_list_of_objects_is_read(name: str, tmp_path: Path) -> None:
    path = write(tmp_path, name, '\ufeff[\r\n  {"text": "a"},\r\n  {"text": "b\u2028"}\r\n]\r\n')
    assert read_texts(path) == ("a", "b\u2028")
    assert [record.place for record in read_records(path)] == [f"{path}, item 1", f"{path}, item 2"]
    for content, message in (('[{"text": "a"}, 3]', "expected a JSON object"), ('[{"text": "a"}', "is not JSON")):
        with pytest.raises(CheckpointError, match=message):
            read_records(write(tmp_path, name, content))
    # Data sets call lines of objects .json, too.
    assert read_texts(write(tmp_path, name, '{"text": "a"}\r\n{"text": "b"}\r\n')) == ("a", "b")


def test_columns_may_be_parted_by_tabs(tmp_path: Path) -> None:
    path = write(tmp_path, "t.tsv", 'text\tlabel\n"a, ""b"""\tx\nc, d\ty\n')
    assert [dict(record.fields) for record in read_records(path)] == [
        {"text": 'a, "b"', "label": "x"},
        {"text": "c, d", "label": "y"},
    ]


def test_a_column_is_there_once(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="line 1: has the column 'text' twice"):
        read_records(write(tmp_path, "t.csv", "text,label,text\na,1,b\n"))


@pytest.mark.parametrize("name", ["t.txt", "t.csv", "t.jsonl"])
def test_nul_bytes_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="line 2: holds a NUL byte") as caught:
        read_records(write(tmp_path, name, "a\n\0b\0\n"))
    assert "UTF-8" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("name", "hint"),
    [("t.json.gz", "gunzip"), ("t.xlsx", ".csv"), ("t", "one JSON object a line")],
)
def test_other_files_are_refused(name: str, hint: str, tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match="expected texts as .jsonl, .json, .csv, .tsv, .txt or .parquet, found"
    ) as caught:
        read_texts(write(tmp_path, name, "a"))
    assert hint in str(caught.value.hint)


def test_what_is_no_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        read_texts(tmp_path / "missing.txt")
    (tmp_path / "folder.txt").mkdir()
    with pytest.raises(CheckpointError, match="is not readable"):
        read_texts(tmp_path / "folder.txt")
