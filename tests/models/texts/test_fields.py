"""Which fields are texts, told over a whole file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from adaptzip.errors import AdaptzipWarning, CheckpointError, UsageError
from adaptzip.models.texts.example import Example
from adaptzip.models.texts.examples import read_examples
from adaptzip.models.texts.fields import Fields, text_fields
from adaptzip.models.texts.record import Record
from tests.models.texts.test_examples import rows

TITLES = ("Dogs win again", "Nothing new here", "One more day", "The very end")


def records(*fields: Mapping[str, object], typed: bool = True) -> list[Record]:
    return [Record(f"line {number}", one, typed) for number, one in enumerate(fields, 1)]


@pytest.mark.parametrize(
    ("values", "is_text"),
    [
        (TITLES, True),
        (("World News", "Sports News", "World News", "World News"), False),
        (("a1", "b2", "c3", "d4"), False),
        (("https://a.example/x y", "https://b.example", "https://c.example", "https://d.example"), False),
        (("2026-01-02 10:00", "2026-01-02 11:00", "2026-01-03 10:00", "2026-01-04 10:00"), False),
        (("这部电影非常好看吧", "我今天过得不太好啊", "他昨天已经回到北京了", "明天可能会下一点雨"), True),
        ((None, "Dogs win again", None, "Nothing new"), True),
        (("Dogs win again", 3, 4, 5), False),
        ((1, 2, 3, 4), False),
        (({"a": 1}, {"a": 2}, {"a": 3}, {"a": 4}), False),
        ((["Dogs win again", "No"], ["Nothing new"], ["One more"], ["The end"]), True),
        (([{"role": "user", "content": "x"}],) * 4, True),
    ],
)
def test_texts_are_several_words_and_mostly_different(values: tuple[object, ...], is_text: bool) -> None:
    found = text_fields(records(*({"other": value} for value in values)), None)
    assert found == (["other"] if is_text else [])


def test_labels_and_what_says_where_a_row_is_from_are_no_texts() -> None:
    rows = [{"label_text": text, "author": text, "x": text, "y": text} for text in TITLES]
    assert text_fields(records(*rows), "y") == ["x"]


def test_names_that_are_known_need_no_words() -> None:
    assert text_fields(records({"text": "a", "Title": "b", "n": "c"}), None) == ["text", "Title"]
    # An answer may be a number, and is a text nevertheless.
    for typed in (True, False):
        given = records({"question": "a", "answer": "3"}, {"question": "b", "answer": "4"}, typed=typed)
        assert text_fields(given, None) == ["question", "answer"]


@pytest.mark.parametrize(("first", "second"), [("text", "headline"), ("sentence", "remark"), ("body", "remark")])
def test_two_texts_and_one_used_is_refused(first: str, second: str, tmp_path: Path) -> None:
    path = rows(tmp_path, *({first: text, second: f"{text}, really"} for text in TITLES))
    with pytest.raises(CheckpointError, match="line 1: has texts in|line 1: has none of the fields") as caught:
        read_examples(path)
    assert "`text_field=" in str(caught.value.hint)
    assert read_examples(path, text_field=first)[0] == Example("Dogs win again")


def test_one_row_does_not_tell(tmp_path: Path) -> None:
    """The first row's category has several words, and those of the file do not."""
    path = rows(tmp_path, {"text": "a", "kind": "World News"}, *({"text": "b", "kind": "Sport"} for _ in range(3)))
    assert [example.text for example in read_examples(path)] == ["a", "b", "b", "b"]
    late = rows(tmp_path, {"text": "a", "remark": ""}, *({"text": "b", "remark": text} for text in TITLES))
    with pytest.raises(CheckpointError, match="line 2: has texts in 'text' and 'remark'"):
        read_examples(late)


def test_rows_may_have_different_texts(tmp_path: Path) -> None:
    path = rows(tmp_path, {"text": "a"}, {"sentence": "b"}, {"premise": "c", "hypothesis": "d"}, {"text": "e"})
    assert read_examples(path) == (Example("a"), Example("b"), Example("c", pair="d"), Example("e"))


@pytest.mark.parametrize("lacking", [{"premise": "c"}, {"premise": "c", "hypothesis": None}, {"hypothesis": "c"}])
def test_half_a_pair_is_refused(lacking: dict[str, object], tmp_path: Path) -> None:
    path = rows(tmp_path, {"premise": "a", "hypothesis": "b"}, lacking)
    with pytest.raises(CheckpointError, match="line 2: has '(premise|hypothesis)' and no '(premise|hypothesis)'"):
        read_examples(path)
    with pytest.warns(AdaptzipWarning, match="1 of 2 texts are empty and left out"):
        assert read_examples(rows(tmp_path, {"premise": "a", "hypothesis": "b"}, {"premise": None, "hypothesis": None}))
    named = rows(tmp_path, {"one": "a", "two": "b"}, {"one": "a", "two": None})
    with pytest.raises(CheckpointError, match="line 2: has 'one' and no 'two', which is null"):
        read_examples(named, text_field="one", pair_field="two")


def test_pairs_are_known_in_any_order_and_case(tmp_path: Path) -> None:
    path = rows(tmp_path, {"hypothesis": "b", "premise": "a"})
    assert read_examples(path) == (Example("a", pair="b"),)
    path = rows(tmp_path, {"sentence_B": "b", "sentence_A": "a", "pair_ID": 3})
    assert read_examples(path) == (Example("a", pair="b"),)


def test_a_completion_by_another_name(tmp_path: Path) -> None:
    path = rows(tmp_path, {"question": "a", "answer": "b"})
    assert read_examples(path, text_field="question", completion_field="answer") == (Example("a", completion="b"),)
    with pytest.raises(CheckpointError, match="has texts in 'question' and 'answer'") as caught:
        read_examples(path)
    assert "`completion_field=" in str(caught.value.hint)
    alpaca = rows(tmp_path, {"instruction": "a", "input": "c", "output": "b"})
    with pytest.warns(AdaptzipWarning, match="'input' goes with 'instruction' and is not read"):
        read_examples(alpaca, text_field="instruction", completion_field="output")
    # Where it is empty nothing is lost.
    alpaca = rows(tmp_path, {"instruction": "a", "input": "", "output": "b"})
    assert read_examples(alpaca, text_field="instruction", completion_field="output") == (Example("a", completion="b"),)


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"pair": "b"}, "a second text is named and no first"),
        ({"completion": "b"}, "a completion is named and no first"),
        ({"text": "a", "pair": "b", "completion": "c"}, "a second text and a completion are named"),
        ({"text": "a", "label": "a"}, "the field 'a' is named for two things"),
    ],
)
def test_fields_that_make_no_sense(named: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Fields(**named)


def test_a_column_of_numbers_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("text,label\na,1\nb,0.5\n")
    with pytest.raises(CheckpointError, match="'label' holds nothing but numbers") as caught:
        read_examples(path, text_field="label")
    assert caught.value.hint == "name another field"
    assert read_examples(path) == (Example("a"), Example("b"))
    path.write_text("label,text\na,1\nb,0.5\n")
    with pytest.raises(CheckpointError, match="line 2: 'text' holds nothing but numbers") as caught:
        read_examples(path)
    assert "`text_field=`" in str(caught.value.hint)
    path.write_text("prompt,completion\n1 + 1,2\n1 + 2,3\n")
    assert read_examples(path, text_field="prompt", completion_field="completion")[1] == Example(
        "1 + 2", completion="3"
    )


def test_a_second_text_of_few_values_is_told_of(tmp_path: Path) -> None:
    told = [
        {"text": title, "target": "legalization of abortion", "topic": "civil law", "id": "a b"} for title in TITLES
    ]
    with pytest.warns(AdaptzipWarning) as caught:
        assert [example.text for example in read_examples(rows(tmp_path, *told))] == list(TITLES)
    assert [str(warning.message).partition(": ")[2].split(";")[0] for warning in caught] == [
        "'target' is not read", "'topic' is not read",
    ]  # fmt: skip
    read_examples(rows(tmp_path, *told), text_field="text")


def test_prompts_that_are_all_empty(tmp_path: Path) -> None:
    found = read_examples(rows(tmp_path, {"prompt": "", "completion": "a"}, {"prompt": "", "completion": "b"}))
    assert [(example.text, example.completion) for example in found] == [("", "a"), ("", "b")]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"instruction": "a", "input": "b", "output": "c"}, "write both into one field"),
        ({"question": "a", "context": "b"}, "drop `text_field=` to read both"),
    ],
)
def test_what_to_do_about_an_unread_partner(row: Mapping[str, str], said: str, tmp_path: Path) -> None:
    with pytest.warns(AdaptzipWarning, match=said):
        read_examples(rows(tmp_path, row), text_field=next(iter(row)))
