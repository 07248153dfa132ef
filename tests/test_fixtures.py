"""The fixtures are what their page says: honest splits, and adapters that reach their recorded accuracies."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import pytest

import adaptzip
from fixtures import langid, lists
from fixtures.evaluation import accuracy_of, load_adapter, predict
from fixtures.names import Rows, as_tokenised
from fixtures.train import TASKS, Task

SAMPLE = 400


@dataclass(frozen=True)
class Fixture:
    name: str
    task: Task
    rows: Rows
    metrics: dict[str, float]


@pytest.fixture(scope="module", params=sorted(TASKS))
def fixture(request: pytest.FixtureRequest) -> Fixture:
    task = TASKS[request.param]
    metrics = json.loads((task.folder / "metrics.json").read_text())
    return Fixture(request.param, task, task.rows(), metrics)


def test_no_item_is_in_both_halves(fixture: Fixture) -> None:
    train, held_out = (
        {item for row in half for item in row.item.split(", ")} for half in (fixture.rows.train, fixture.rows.held_out)
    )
    assert train
    assert not train & held_out


def test_no_text_is_in_both_halves_or_in_two_languages(fixture: Fixture) -> None:
    train, held_out = (
        {(as_tokenised(row.text), row.label) for row in half} for half in (fixture.rows.train, fixture.rows.held_out)
    )
    assert not train & held_out
    assert len({text for text, _ in train | held_out}) == len(train | held_out)
    assert len(train) > 0.99 * len(fixture.rows.train)
    assert len(held_out) > 0.99 * len(fixture.rows.held_out)


def test_every_language_is_in_both_halves(fixture: Fixture) -> None:
    for half in (fixture.rows.train, fixture.rows.held_out):
        assert {row.label for row in half} == set(range(len(fixture.task.languages)))


@pytest.mark.parametrize("module", [langid, lists])
def test_other_names_are_refused_with_the_version_to_install(module: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROWS_SHA256", "0" * 64)
    with pytest.raises(RuntimeError, match=r"install babel==2\.18\.0"):
        module.load_rows()  # type: ignore[attr-defined]


def test_the_adapter_is_complete(fixture: Fixture) -> None:
    adapter = adaptzip.read(fixture.task.folder)
    assert len(adapter.modules) == 6 * 6
    assert {factors.rank for factors in adapter.modules.values()} == {16}
    assert {factors.A.dtype for factors in adapter.modules.values()} == {fixture.task.dtype}
    assert sorted(tensor.shape[0] for tensor in adapter.extras.values()) == [len(fixture.task.languages)] * 2


def test_the_adapter_reaches_its_accuracy(fixture: Fixture) -> None:
    sample = fixture.rows.held_out[:SAMPLE]
    expected = fixture.metrics["accuracy"]
    deviation = math.sqrt(expected * (1 - expected) / SAMPLE)
    model = load_adapter(len(fixture.task.languages), fixture.task.folder)
    assert abs(accuracy_of(predict(model, sample), sample) - expected) < 3 * deviation


def test_the_page_says_the_recorded_accuracies(fixture: Fixture) -> None:
    page = (fixture.task.folder.parent / "README.md").read_text(encoding="utf-8")
    section = page[page.index(f"## {fixture.task.folder.name}") :].split("\n## ")[0]
    accuracies = [value for name, value in fixture.metrics.items() if name.startswith("accuracy")]
    assert len(accuracies) == 4
    assert all(f"{100 * value:.1f} %" in section for value in accuracies)
