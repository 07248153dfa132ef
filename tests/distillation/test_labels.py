"""Labels in numbers: names are names, numbers are numbers, and what may be both is refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

import adaptzip
from adaptzip.calibration.models import LoadedModel, load_teacher
from adaptzip.distillation.data import Example, encode, reading_of
from adaptzip.errors import CheckpointError
from tests.distillation.tasks import classifier


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
