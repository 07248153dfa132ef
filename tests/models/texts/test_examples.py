"""Which fields of a row are read as what."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from adaptzip.errors import AdaptzipWarning, CheckpointError, UsageError
from adaptzip.models.texts.example import Example
from adaptzip.models.texts.examples import read_examples
from adaptzip.models.texts.fields import PAIRS


def rows(folder: Path, *records: Mapping[str, object], name: str = "rows.jsonl") -> Path:
    path = folder / name
    path.write_text("\n".join(json.dumps(record) for record in records))
    return path


@pytest.mark.parametrize("pair", PAIRS)
def test_known_pairs_are_read_together(pair: tuple[str, str], tmp_path: Path) -> None:
    first, second = pair
    path = rows(tmp_path, {"idx": 3, first: "a b", second: "c", "label": 1})
    assert read_examples(path, label_field="label") == (Example("a b", 1, pair="c"),)
    with pytest.warns(AdaptzipWarning, match=f"'{second}' goes with '{first}' and is not read"):
        assert read_examples(path, text_field=first) == (Example("a b"),)
    assert read_examples(path, text_field=second, pair_field=first) == (Example("c", pair="a b"),)


def test_a_pair_by_other_names(tmp_path: Path) -> None:
    path = rows(tmp_path, {"one": "a", "two": "b"})
    assert read_examples(path, text_field="one", pair_field="two") == (Example("a", pair="b"),)
    with pytest.raises(UsageError, match="a second text is named and no first"):
        read_examples(path, pair_field="two")
    with pytest.raises(CheckpointError, match="has no field 'three'"):
        read_examples(path, text_field="one", pair_field="three")


@pytest.mark.parametrize("other", ["answer", "completion", "text", "messages", "premise"])
def test_a_text_is_not_dropped_without_a_word(other: str, tmp_path: Path) -> None:
    path = rows(tmp_path, {"question": "a", other: ["b"] if other == "messages" else "b"})
    with pytest.raises(CheckpointError, match=f"has texts in .*'{other}'"):
        read_examples(path)
    # As a label it is read.
    if other == "answer":
        assert read_examples(path, label_field=other) == (Example("a", "b"),)


def test_a_prompt_has_its_completion(tmp_path: Path) -> None:
    path = rows(tmp_path, {"prompt": "a :", "completion": " b"})
    assert read_examples(path) == (Example("a :", completion=" b"),)
    assert rows(tmp_path, {"prompt": "a"}) == path
    assert read_examples(path) == (Example("a"),)


def test_messages(tmp_path: Path) -> None:
    user, bot = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
    path = rows(tmp_path, {"messages": [user, bot]}, {"messages": [user]})
    assert read_examples(path) == (
        Example("a", messages=(user, bot), prompt=1),
        Example("a", messages=(user,)),
    )
    apart = rows(tmp_path, {"prompt": [user], "completion": [bot]})
    assert read_examples(apart) == (Example("a", messages=(user, bot), prompt=1),)
    for broken in ([{"role": "user"}], [user, "b"], [3]):
        with pytest.raises(CheckpointError, match="line 1: 'messages' is not a text, nor a list of words or messages"):
            read_examples(rows(tmp_path, {"messages": broken}))


@pytest.mark.parametrize("field", ["tokens", "words"])
def test_lists_of_words(field: str, tmp_path: Path) -> None:
    path = rows(tmp_path, {field: ["a", "b c"], "ner_tags": [0, 2]})
    assert read_examples(path, label_field="ner_tags") == (Example("a b c", (0, 2), words=("a", "b c")),)
    named = rows(tmp_path, {"body": ["a"]})
    assert read_examples(named, text_field="body") == (Example("a", words=("a",)),)


def test_empty_texts_are_left_out_and_counted(tmp_path: Path) -> None:
    path = rows(tmp_path, {"text": "a"}, {"text": " "}, {"text": None}, {"text": "b"})
    with pytest.warns(AdaptzipWarning, match="2 of 4 texts are empty and left out"):
        assert read_examples(path) == (Example("a"), Example("b"))
    with pytest.raises(CheckpointError, match="all of its 1 texts are empty"):
        read_examples(rows(tmp_path, {"text": ""}))


def test_half_a_character_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a"}\n{"text": "b \\ud83d"}')
    with pytest.raises(CheckpointError, match=r"line 2: 'text' holds half of a character, \\ud83d") as caught:
        read_examples(path)
    assert caught.value.hint
    # Both halves are one.
    path.write_text('{"text": "b \\ud83d\\ude00"}')
    assert read_examples(path) == (Example("b \U0001f600"),)


def test_labels_keep_what_they_are(tmp_path: Path) -> None:
    labels: list[object] = [True, 2, 2.0, 0.25, "x", "3", [1, 0], []]
    path = rows(tmp_path, *({"text": "a", "y": label} for label in labels), name="rows.JSONL")
    found = [example.label for example in read_examples(path, label_field="y")]
    assert found == [True, 2, 2.0, 0.25, "x", "3", (1, 0), ()]
    assert [type(label) for label in found[:4]] == [bool, int, float, float]
    table = tmp_path / "rows.csv"
    table.write_text("text,y\na,3\na,03\na,2.0\na,x\n")
    assert [example.label for example in read_examples(table, label_field="y")] == [3, "03", "2.0", "x"]


def test_long_cells_are_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.CSV"
    path.write_text(f"text\n{'a ' * 100_000}\n")
    assert len(read_examples(path)[0].text) == 200_000


def table(folder: Path, *cells: str) -> list[Example]:
    """Rows of a .csv with the text a and these labels."""
    path = folder / "rows.csv"
    path.write_text(
        "\n".join(["text,y", *("a," + (f'"{c.replace(chr(34), chr(34) * 2)}"' if c else "") for c in cells)])
    )
    return list(read_examples(path, label_field="y"))


def test_cells_that_hold_lists(tmp_path: Path) -> None:
    cells = ["[1, 0, 1]", '["a", "b"]', "['a', \"it's\"]", "[]", "[0.5, -1]"]
    found = table(tmp_path, *cells)
    assert [example.label for example in found] == [(1, 0, 1), ("a", "b"), ("a", "it's"), (), (0.5, -1)]
    # A text to be written is written as it is.
    assert [example.cell for example in found] == cells


def test_cells_that_look_like_lists(tmp_path: Path) -> None:
    cells = ["[1 0 1]", "['a' 'b']", "[CLS] a [SEP]", "[x]", "[[1]"]
    found = table(tmp_path, *cells)
    assert [(example.label, example.cell) for example in found] == [(cell, None) for cell in cells]
    with pytest.raises(CheckpointError, match="line 2: 'y' is not a label, it holds None"):
        table(tmp_path, "[1, null]")


def test_quotes_within_a_cell_make_a_name(tmp_path: Path) -> None:
    found = table(tmp_path, '"1"', "1", '"a', "", "9" * 5000)
    assert [example.label for example in found] == ["1", 1, '"a', None, "9" * 5000]
    assert found[0].cell == '"1"'


def test_words_of_a_table(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('tokens,ner_tags\n"[""a"", ""b c""]","[0, 2]"\na b,O O\n')
    found = read_examples(path, label_field="ner_tags")
    assert found[0] == Example("a b c", (0, 2), words=("a", "b c"))
    assert found[1] == Example("a b", "O O")


@pytest.mark.parametrize("field", ["y", "pair", "words"])
def test_half_a_character_anywhere_is_named(field: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    values = {"y": '"\\ud83d"', "pair": '"\\ud83d"', "words": '["\\ud83d"]'}
    path.write_text(f'{{"text": "a", "{field}": {values[field]}}}')
    named = {"y": {"label_field": "y"}, "pair": {"text_field": "text", "pair_field": "pair"}}
    with pytest.raises(CheckpointError, match=rf"line 1: '{field}' holds half of a character, \\ud83d"):
        read_examples(path, **named.get(field, {"text_field": "words"}))


@pytest.mark.parametrize(
    ("label", "said"),
    [("NaN", "it holds nan"), ("Infinity", "it holds inf"), ("{}", "a dict"), (f"1{'0' * 400}", "more than 18 digits")],
)
def test_what_is_no_label_is_named(label: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(f'{{"text": "a", "y": {label}}}')
    with pytest.raises(CheckpointError, match=f"line 1: 'y' is not a label, .*{said}"):
        read_examples(path, label_field="y")
