"""The fixture is what its page says: an honest split, and an adapter that reaches its recorded accuracy."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

import adaptzip
from fixtures import langid
from fixtures.evaluation import accuracy_of, load_adapter, predict
from fixtures.langid import LANGUAGES, Rows, load_rows

FOLDER = Path(__file__).parent.parent / "fixtures" / "langid-minilm-r16"
SAMPLE = 400


@pytest.fixture(scope="module")
def rows() -> Rows:
    return load_rows()


@pytest.fixture(scope="module")
def metrics() -> dict[str, float]:
    return dict(json.loads((FOLDER / "metrics.json").read_text()))


def test_no_item_is_in_both_halves(rows: Rows) -> None:
    assert not {row.item for row in rows.train} & {row.item for row in rows.held_out}


def test_no_name_is_in_both_halves_or_in_two_languages(rows: Rows) -> None:
    every = [langid.as_tokenised(row.text) for row in (*rows.train, *rows.held_out)]
    assert len(every) == len(set(every))


def test_every_language_is_in_both_halves(rows: Rows) -> None:
    for half in (rows.train, rows.held_out):
        assert {row.label for row in half} == set(range(len(LANGUAGES)))


def test_other_names_are_refused_with_the_version_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(langid, "ROWS_SHA256", "0" * 64)
    with pytest.raises(RuntimeError, match=r"install babel==2\.18\.0"):
        load_rows()


def test_the_adapter_is_complete() -> None:
    adapter = adaptzip.read(FOLDER)
    assert len(adapter.modules) == 6 * 6
    assert {factors.rank for factors in adapter.modules.values()} == {16}
    assert sorted(tensor.shape[0] for tensor in adapter.extras.values()) == [len(LANGUAGES)] * 2


def test_the_adapter_reaches_its_accuracy(rows: Rows, metrics: dict[str, float]) -> None:
    sample = rows.held_out[:SAMPLE]
    expected = metrics["accuracy"]
    deviation = math.sqrt(expected * (1 - expected) / SAMPLE)
    assert abs(accuracy_of(predict(load_adapter(FOLDER), sample), sample) - expected) < 3 * deviation


def test_the_page_says_the_recorded_accuracies(metrics: dict[str, float]) -> None:
    page = (FOLDER.parent / "README.md").read_text(encoding="utf-8")
    accuracies = [value for name, value in metrics.items() if name.startswith("accuracy")]
    assert len(accuracies) == 4
    assert all(f"{100 * value:.1f} %" in page for value in accuracies)
