"""Labels in numbers: names are names, numbers are numbers, and what may be both is refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

import adaptzip
from adaptzip.errors import BaseModelError, CheckpointError, UsageError
from adaptzip.models.live.batches import Example, encode, read_examples, reading_of
from adaptzip.models.live.labels import fitted
from adaptzip.models.live.running import LoadedModel, load_teacher
from adaptzip.models.texts.classes import by_which, class_of
from tests.cases import tiny_peft
from tests.cases.models_on_disk import adapter, save
from tests.cases.tasks import classifier


def model(folder: Path, *names: str, problem: str | None = None) -> LoadedModel:
    """A classifier whose classes are called so."""
    named = {"id2label": dict(enumerate(names)), "label2id": {name: place for place, name in enumerate(names)}}
    task = classifier(folder, len(names), problem, **named)
    return load_teacher(task.base, adaptzip.read(task.adapter), torch.device("cpu"))


def read(loaded: LoadedModel, labels: Sequence[object]) -> list[tuple[float, ...]]:
    examples = [Example("a", label) for label in labels]  # type: ignore[arg-type]
    return [encoded.labels for encoded in encode(loaded, examples, max_tokens=4)]


STARS = ("1", "2", "3", "4", "5")


@pytest.mark.parametrize(
    ("labels", "places"),
    [
        ([0, 1, 4], [0, 1, 4]),
        ([1, 5], [0, 4]),
        (["1", "4"], [0, 3]),
        ([0.0, 4.0], [0, 4]),
        (["5", 0], [4, 0]),
    ],
)
def test_classes_that_are_called_by_digits(labels: list[object], places: list[int], tmp_path: Path) -> None:
    assert read(model(tmp_path, *STARS), labels) == [(place,) for place in places]


@pytest.mark.parametrize(
    ("labels", "said"),
    [([1, 2, 4], "1, 2, 4 may be names or numbers of the classes 1, 2"), ([0, 2, 5], "some names and some numbers")],
)
def test_what_may_be_both_is_refused(labels: list[object], said: str, tmp_path: Path) -> None:
    loaded = model(tmp_path, *STARS)
    with pytest.raises(CheckpointError, match=said) as caught:
        read(loaded, labels)
    assert "names in quotes" in str(caught.value.hint)


def test_a_part_of_the_data_is_read_as_the_whole(tmp_path: Path) -> None:
    loaded = model(tmp_path, *STARS)
    whole = [Example("a", label) for label in (0, 1, 2)]
    reading = reading_of(loaded, whole)
    found = encode(loaded, whole[1:], max_tokens=4, reading=reading)
    assert [encoded.labels for encoded in found] == [(1,), (2,)]


def test_names_that_are_their_own_numbers(tmp_path: Path) -> None:
    assert read(model(tmp_path, "0", "1", "2"), [0, 2, "1"]) == [(0,), (2,), (1,)]


@pytest.mark.parametrize(
    ("names", "labels", "places"),
    [
        (("no", "yes"), [True, False], [1, 0]),
        (("True", "False"), [True, False], [0, 1]),
        (("false", "true"), [True, "True"], [1, 1]),
        (("no", "yes"), [1.0, "0.0", "yes", " no "], [1, 0, 1, 0]),
    ],
)
def test_flags_and_numbers_with_a_point(
    names: tuple[str, ...], labels: list[object], places: list[int], tmp_path: Path
) -> None:
    assert read(model(tmp_path, *names), labels) == [(place,) for place in places]


@pytest.mark.parametrize("label", [2, -1, 0.5, "maybe"])
def test_no_class(label: object, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="the label of the text 'a', is none of the classes no, yes"):
        read(model(tmp_path, "no", "yes"), [label])


def test_several_classes(tmp_path: Path) -> None:
    loaded = model(tmp_path, "x", "y", "z", problem="multi_label_classification")
    assert read(loaded, [(1, 0, 1), (0, 0, 0)]) == [(1, 0, 1), (0, 0, 0)]
    assert read(loaded, [(1.0, 0.0, 0.0), (True, False, True)]) == [(1, 0, 0), (1, 0, 1)]
    assert read(loaded, [("x", "z"), (), "y"]) == [(1, 0, 1), (0, 0, 0), (0, 1, 0)]
    assert read(loaded, [(0, 2), (1,)]) == [(1, 0, 1), (0, 1, 0)]
    with pytest.raises(CheckpointError, match="'w', the label of the text 'a', is none of the classes x, y, z"):
        read(loaded, [("x", "w")])


def test_scores(tmp_path: Path) -> None:
    loaded = model(tmp_path, "score")
    assert loaded.kind == "scores"
    assert read(loaded, [0.25, 3, "-1.5", None]) == [(0.25,), (3.0,), (-1.5,), ()]
    for label in ("good", (1.0, 2.0)):
        with pytest.raises(CheckpointError, match="the label of the text 'a', is not a number"):
            read(loaded, [label])


@pytest.mark.parametrize(
    ("names", "labels", "places"),
    [
        # Digits in quotes are names, and in any other form as good as numbers.
        (STARS, ["1", "2"], [0, 1]),
        (STARS, ["2.0", "5.0"], [1, 4]),
        (("1.0", "2.0", "3.0"), [3, 1.0], [2, 0]),
        ((" a", "b"), [" a", "b ", "a", 0], [0, 1, 0, 0]),
        (("1 star", "2 stars", "3 stars"), [1, 2, 3], [0, 1, 2]),
        (("1 star", "b"), [1, 0], [1, 0]),
        (("true", "false"), ["True", "FALSE", True], [0, 1, 0]),
        (("a", "b", "c"), [True], [None]),
        (("a", "b", "c"), ["A", "2.0"], [None, 2]),
        (("a", "a", "b"), ["a", "b", 1], [None, 2, 1]),
    ],
)
def test_names_in_other_forms(names: Sequence[str], labels: list[object], places: list[int | None]) -> None:
    by = by_which(labels, names)  # type: ignore[arg-type]
    assert [class_of(label, names, by) for label in labels] == places  # type: ignore[arg-type]


@pytest.mark.parametrize("labels", [["1", "0"], ["1", "2.0"], ["1.0", "2.0"], [1.0, 2.0]])
def test_digits_that_may_be_either(labels: list[object]) -> None:
    with pytest.raises(CheckpointError, match="names or numbers of|some names and some numbers of") as caught:
        by_which(labels, STARS)  # type: ignore[arg-type]
    # Both readings are told, and what to write in either kind of file.
    assert "is the class called '1', or number 1" in str(caught.value)
    assert '"""1""" in a .csv' in str(caught.value.hint)


@pytest.mark.parametrize(
    ("id2label", "label2id", "said"),
    [
        ({0: "a", 2: "b"}, {}, "id2label names the outputs 0, 2, expected 0 to 1"),
        ({0: "a", 1: "b"}, {"a": 1, "b": 0}, "label2id says that 'a' is output 1, and id2label that it is 0"),
    ],
)
def test_a_configuration_that_contradicts_itself(
    id2label: dict[int, str], label2id: dict[str, int], said: str, tmp_path: Path
) -> None:
    task = classifier(tmp_path, 2)
    config = json.loads((task.base / "config.json").read_text())
    config |= {"id2label": {str(key): name for key, name in id2label.items()}, "label2id": label2id}
    (task.base / "config.json").write_text(json.dumps(config))
    loaded = load_teacher(task.base, adaptzip.read(task.adapter), torch.device("cpu"))
    with pytest.raises(BaseModelError, match=said) as caught:
        read(loaded, ["a"])
    assert caught.value.hint
    # Without labels, nobody asks for names.
    assert read(loaded, [None]) == [()]


def test_names_are_told_by_their_numbers(tmp_path: Path) -> None:
    """JSON has the numbers as texts, in the order of which "10" comes before "2"."""
    loaded = model(tmp_path, *(f"c{place}" for place in range(12)))
    assert read(loaded, ["c2", "c10", 2]) == [(2,), (10,), (2,)]


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([1, 0, 1], "may be numbers of the model's 3 classes, or say whether one class is there"),
        ([True, False], "may be numbers of the model's 3 classes, or say whether one class is there"),
        ([(1, 0, 1), ()], "names a class twice"),
        ([(1, 0, 1), (1, 0)], "names a class twice"),
        ([(1, 0, 1), "x"], "some labels are lists of a 1 or a 0 for every class, and some are not, such as 'x'"),
        ([(0.5, 0.5, 0)], "0.5, the label of the text 'a', is none of the classes"),
        (["x,y"], "'x,y', the label of the text 'a', is none of the classes"),
    ],
)
def test_several_labels_that_may_be_misread(labels: list[object], said: str, tmp_path: Path) -> None:
    loaded = model(tmp_path, "x", "y", "z", problem="multi_label_classification")
    with pytest.raises(CheckpointError, match=said) as caught:
        read(loaded, labels)
    assert caught.value.hint


def test_two_classes_in_a_list_of_two(tmp_path: Path) -> None:
    loaded = model(tmp_path, "x", "y", problem="multi_label_classification")
    assert read(loaded, [(0, 1), (1, 1)]) == [(0, 1), (1, 1)]
    with pytest.raises(CheckpointError, match="may name both of the classes x, y, or say that the second alone"):
        read(loaded, [(0, 1), (0, 1)])


def test_one_class_that_is_there_or_not(tmp_path: Path) -> None:
    loaded = model(tmp_path, "x", problem="multi_label_classification")
    assert loaded.kind == "multilabel"
    assert read(loaded, [1, 0]) == read(loaded, [(1,), (0,)]) == read(loaded, ["x", ()]) == [(1,), (0,)]


def test_lists_in_cells(tmp_path: Path) -> None:
    loaded = model(tmp_path, "x", "y", "z")
    path = tmp_path / "rows.csv"
    path.write_text('text,y\na,"[1, 0, 1]"\nb,"[0, 0, 0]"\n')
    examples = read_examples(path, label_field="y")
    loaded = fitted(loaded, examples)
    assert loaded.kind == "multilabel"
    assert [encoded.labels for encoded in encode(loaded, examples, max_tokens=4)] == [(1, 0, 1), (0, 0, 0)]


def test_a_text_to_be_written_is_no_list(tmp_path: Path) -> None:
    loaded = load_teacher(save(tiny_peft.t5, tmp_path), adapter(tiny_peft.t5(), "q"), torch.device("cpu"))
    path = tmp_path / "rows.csv"
    path.write_text('text,y\na,"[a, b]"\nb,"[]"\nc,"""a"""\n')
    examples = read_examples(path, label_field="y")
    asked = [loaded.tokeniser.encode_target(text) for text in ("[a, b]", "[]", '"a"')]
    assert [list(encoded.labels) for encoded in encode(loaded, examples, max_tokens=9)] == asked
    with pytest.raises(CheckpointError, match="has a label and a completion, which are both texts to be written"):
        encode(loaded, [Example("a", "b", completion="c")], max_tokens=9)


@pytest.mark.parametrize(
    ("examples", "said"),
    [
        ([Example("a b", (0, 1, 2))], "has 2 words and 3 labels"),
        ([Example("a b", 1)], "has 2 words and 1 labels"),
        ([Example("['a', 'b']", (0, 1))], "may be a list of words, or a text with brackets"),
        ([Example("a", completion="b")], "a model for tokens reads no completions"),
    ],
)
def test_words_that_have_no_classes(examples: list[Example], said: str, tmp_path: Path) -> None:
    make = tiny_peft.bert_tokens
    loaded = load_teacher(save(make, tmp_path), adapter(make(), "value"), torch.device("cpu"))
    with pytest.raises((CheckpointError, UsageError), match=said):
        encode(loaded, examples, max_tokens=9)


@pytest.mark.parametrize("labels", [[(2,), (0,)], [("b",)], [(0, 0, 1), (1, 0, 0)]])
def test_lists_of_one_class_may_be_either(labels: list[object], tmp_path: Path) -> None:
    loaded = model(tmp_path, "a", "b", "c")
    examples = [Example("a", label) for label in labels]  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match="for one class a text or for several") as caught:
        fitted(loaded, examples)
    assert "`kind='classifier'` or `kind='multilabel'`" in str(caught.value.hint)
    assert fitted(loaded, [*examples, Example("a", ("a", "b"))]).kind == "multilabel"
    # A kind that was named holds.
    assert fitted(loaded, examples, given=True) is loaded
    expected = {(2,): 2, (0,): 0, ("b",): 1, (0, 0, 1): 2, (1, 0, 0): 0}
    assert read(loaded, labels) == [(expected[label],) for label in labels]  # type: ignore[index]


def test_several_classes_of_a_model_for_one(tmp_path: Path) -> None:
    loaded = model(tmp_path, "a", "b", "c")
    for label in ((0, 1), (1, 0, 1), (0.5, 0.5, 1.0), ()):
        with pytest.raises(CheckpointError, match="is more than one class, or none") as caught:
            read(loaded, [label])
        assert "`kind='multilabel'`" in str(caught.value.hint)
    with pytest.raises(CheckpointError, match=r"0\.7, the label") as caught:
        read(loaded, [0.7])
    assert "`kind='scores'`" in str(caught.value.hint)
