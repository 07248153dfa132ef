"""What a file says of its training: written and read, and the room that it is given."""

from __future__ import annotations

from dataclasses import replace
from math import inf, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptzip.adz.container.numbers import Cursor
from adaptzip.adz.container.training import read_report, write_report
from adaptzip.core.training_report import TrainingReport
from adaptzip.distillation.reports import longest, report, room
from adaptzip.errors import UsageError
from adaptzip.reports.evaluation import Score

NUMBERS = st.one_of(st.none(), st.floats(), st.floats(0, 1), st.floats(0, 1e6))
SCORES = st.builds(Score, NUMBERS, NUMBERS, NUMBERS, NUMBERS, st.just(9))
ROWS = st.fixed_dictionaries(dict.fromkeys(("none", "teacher", "fitted", "distilled"), SCORES))


@given(ROWS, st.sampled_from([None, "accuracy", "loss"]))
def test_whatever_was_measured_can_be_read_again(rows: dict[str, Score], metric: str | None) -> None:
    told = report(rows, metric, texts=900, held_out=100, step=7, steps=50)
    assert read_report(Cursor(write_report(told), "the head")) == told
    assert list(told.rows) == ["none", "teacher", "fitted", "distilled"]


@given(
    st.fixed_dictionaries(
        dict.fromkeys(
            ("none", "teacher", "fitted", "distilled"),
            st.builds(Score, st.floats(0, 9.9), st.floats(0, 1), st.none(), st.floats(0, 9.9), st.just(9)),
        )
    ),
    st.integers(0, 5000),
)
def test_no_report_is_longer_than_the_room_for_it(rows: dict[str, Score], step: int) -> None:
    told = report(rows, "accuracy", texts=12345, held_out=678, step=step, steps=5000)
    bound = longest(12345, 678, 5000)
    assert len(write_report(told)) <= len(write_report(bound)) < room(bound)


def test_figures_that_are_none_are_left_out() -> None:
    rows = dict.fromkeys(("none", "teacher", "fitted", "distilled"), Score(nan, inf, None, 2.0**63, 1))
    told = report(rows, "loss", texts=1, held_out=1, step=0, steps=1)
    assert set(told.rows.values()) == {(None, None, None)}


def test_an_encoder_tells_its_cosine() -> None:
    rows = dict.fromkeys(("none", "teacher", "fitted", "distilled"), Score(None, None, 0.25, None, 1))
    assert report(rows, None, texts=1, held_out=1, step=0, steps=1).distilled == (0.25, None, None)


@pytest.mark.parametrize(
    "change",
    [
        {"texts": -1},
        {"steps": 2**63},
        {"metric": "luck"},
        {"metric": []},
        {"teacher": (0.5, 1, -1)},
        {"fitted": (0.5, nan, 1)},
        {"none": (0.5, 2.0**63, 1)},
    ],
)
def test_a_report_that_no_file_can_hold_is_refused(change: dict[str, object]) -> None:
    row = (0.5, 1.0, None)
    told = replace(TrainingReport(9, 1, 2, 3, "loss", row, row, row, row), **change)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="a file cannot hold"):
        write_report(told)
