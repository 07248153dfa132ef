"""`distill`: the report, the numbers as JSON, stops and resumptions, and what stands in its way."""

from __future__ import annotations

import inspect
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from adaptzip.adz.container.reader import open_adz
from adaptzip.cli.distill import distill
from adaptzip.distillation.losses import LossWeights
from adaptzip.distillation.schedules import Schedule
from adaptzip.fitting.calibration import Calibration, calibrate
from tests.cases.evaluation_cases import classifier, write_rows
from tests.cli.cli_cases import ROOT, Result, command, listing, refused, run
from tests.cli.test_cli_reference import documented

SHORT = ("--steps", "6", "--batch-size", "2", "--budget", "6kB", "--label-field", "label", "--device", "cpu")

LONG = SHORT[2:]
"""The same without the length of training."""


@dataclass(frozen=True)
class Workplace:
    """A base model, its teacher and data."""

    base: Path
    teacher: Path
    data: Path

    @property
    def out(self) -> Path:
        return self.base.parent / "out.adz"

    def words(self, *more: str | Path) -> tuple[str | Path, ...]:
        given = {"--teacher": self.teacher, "--base": self.base, "--data": self.data, "-o": self.out}
        return ("distill", *more, *(x for pair in given.items() if pair[0] not in more for x in pair))

    def distill(self, *more: str | Path) -> Result:
        return run(*self.words(*more))


@pytest.fixture
def place(tmp_path: Path) -> Workplace:
    base, teacher = classifier(tmp_path)
    return Workplace(base, teacher, write_rows(tmp_path / "rows.jsonl"))


def test_the_report_and_what_inspect_shows(place: Workplace) -> None:
    before = listing(place.base.parent)
    result = place.distill(*SHORT)
    assert result.code == 0, result.err
    head, *rows, over = result.out.splitlines()
    assert head.split() == ["KL", "agreement", "accuracy", "gain"]
    assert [row.split("  ")[0] for row in rows] == ["no adapter", "teacher", "fitted", "distilled"]
    assert over == "over 1 text held out"
    assert result.last.startswith(f"wrote {place.out}  ")
    assert place.out.stat().st_size <= 6000
    assert set(listing(place.base.parent)) - set(before) == {"out.adz"}
    shown = run("inspect", place.out).out
    assert "best as before training, after 6 updates; 5 texts trained on, 1 held out" in shown
    table = shown[shown.index("\ndistilled ") :]
    assert table.index("no adapter") < table.index("teacher") < table.index("fitted")
    assert table.splitlines()[1].split() == ["distilled", "KL", "agreement", "accuracy", "gain"]
    gains = [line.split("  ")[-1].strip() for line in rows]
    assert [line.split("  ")[-1].strip() for line in table.splitlines()[2:6]] == gains
    told = run("inspect", place.out, "--json").json["distilled"]
    assert told["rows"].keys() == {"none", "teacher", "fitted", "distilled"}
    assert (told["steps"], told["texts"], told["held_out"], told["metric"]) == (6, 5, 1, "accuracy")
    refused(place.distill(*SHORT), 2, "exists already")


def test_the_json_is_explained(place: Workplace) -> None:
    values = place.distill(*SHORT, "--json").json
    assert values.keys() == documented("distill")
    assert values["bytes"] == place.out.stat().st_size
    assert values["update_bytes"] < values["bytes"]
    assert [row["name"] for row in values["rows"]] == ["no adapter", "teacher", "fitted", "distilled"]
    assert (values["steps"], values["texts"], values["held_out"]) == (6, 5, 1)


def test_time_ends_a_run_with_the_usual_output(place: Workplace) -> None:
    values = place.distill(*SHORT, "--steps", "100000", "--max-time", "0.1s", "--json").json
    assert values["steps"] < 100000
    assert place.out.exists()


def test_the_minutes_of_a_run_decide_its_steps(place: Workplace) -> None:
    """A thousandth of a minute holds nothing; what else minutes do is in tests/distillation/test_pacing.py."""
    refused(place.distill(*LONG, "--minutes", "0.001"), 1, "0.001 minutes hold no update")
    assert not place.out.exists()


def test_the_fit_can_be_calibrated_on_the_data(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the data's own fields, where texts of both are called alike."""
    given = []

    def noted(*words: Any, **fields: Any) -> Calibration:
        given.append((words[2], fields["text_field"]))
        return calibrate(*words, **fields)

    monkeypatch.setattr("adaptzip.fitting.loading.calibrate", noted)
    rows = place.base.parent / "bodies.jsonl"
    rows.write_text(place.data.read_text().replace('"text"', '"body"'))
    result = place.distill(*SHORT, "--data", rows, "--text-field", "body", "--calibration", rows)
    assert result.code == 0, result.err
    assert given == [(rows, "body")]
    refused(place.distill(*SHORT, "-f", "--calibration", place.base.parent / "none.jsonl"), 2, "none.jsonl")


def test_the_options_have_the_library_s_defaults() -> None:
    """They are repeated, because reading them from the library would load torch for --help."""
    given = {name: p.default for name, p in inspect.signature(distill).parameters.items()}
    schedule, weights = Schedule(), LossWeights()
    assert (given["steps"], schedule.steps) == (None, 1000)  # As the help says.
    assert [given[name] for name in ("batch_size", "micro_batch", "rate", "seed")] == [
        schedule.batch, schedule.micro, schedule.rate, schedule.seed,
    ]  # fmt: skip
    assert {name: given[name] for name in vars(weights)} == vars(weights)


def test_bad_input_is_one_line(place: Workplace) -> None:
    empty = place.base.parent / "empty.jsonl"
    empty.write_text("")
    refused(place.distill(*SHORT, "--data", empty), 2, "empty.jsonl")
    refused(place.distill(*SHORT, "--text-field", "body"), 2, "body")
    refused(place.distill(*SHORT, "--max-time", "soon"), 2, "--max-time soon")
    refused(place.distill(*SHORT, "--minutes", "2"), 2, "--minutes decides how long training is, and so does --steps")
    refused(place.distill("--minutes", "2", "--max-time", "9s"), 2, "and so does --max-time")
    refused(place.distill("--budget", "6kB", "--minutes", "-1"), 2, "the time of the run is -1 minutes")
    refused(place.distill(*SHORT, "--to", "auto"), 2, "one method")
    refused(place.distill(*SHORT, "--base", place.teacher), 2, "holds an adapter, expected a base model")
    refused(place.distill(*SHORT, "--kl", "0"), 2, "every loss has the weight 0")
    refused(place.distill(*SHORT, "--data", "self"), 2, "--label-field was given as 'label', and no file")
    refused(place.distill("--steps", "3"), 2, "needs a size")
    assert not place.out.exists()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_process_that_was_stopped_goes_on_with_the_same_result(place: Workplace, number: signal.Signals) -> None:
    words = place.words(*SHORT, "--steps", "30")
    assert run(*words).code == 0
    expected = place.out.read_bytes()
    place.out.unlink()
    progress, best = (place.out.with_name(name) for name in ("out.adz.progress", "out.best.adz"))
    # Saved after every step, and slowly enough to be stopped on the way.
    before = """
import time
import adaptzip.distillation.running as running
running.INTERVAL = 0.0
save = running.save_state
def slowly(*arguments):
    save(*arguments)
    time.sleep(0.2)
running.save_state = slowly
"""
    process = subprocess.Popen(command(*words, before=before), cwd=ROOT, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 90
    while not progress.exists() and time.monotonic() < until and process.poll() is None:
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(number)
    said = process.communicate(timeout=90)[1]
    assert not place.out.exists(), said
    assert progress.exists(), said
    if number == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
    else:
        assert process.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143}[number], said
        assert f"the best so far is {best}" in said
        assert run("inspect", best).code == 0
    refused(run(*words), 2, "a run was stopped here", "--resume")
    assert run(*words, "--resume").code == 0
    assert place.out.read_bytes() == expected
    assert not progress.exists()


@pytest.mark.slow
def test_two_processes_write_one_file(place: Workplace) -> None:
    launch = (
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--cpu",
        "--num_processes",
        "2",
        "--num_machines",
        "1",
    )
    done = subprocess.run(
        [*launch, "--mixed_precision", "no", "--dynamo_backend", "no", "-m", "adaptzip",
         *map(str, place.words(*SHORT, "--json"))],
        capture_output=True, text=True, check=False, cwd=ROOT, timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    values = Result(done.returncode, done.stdout, done.stderr).json
    assert values["steps"] == 6
    assert place.out.stat().st_size == values["bytes"]


def test_a_path_in_place_of_the_base_models_name_is_warned_of(place: Workplace) -> None:
    config = place.teacher / "adapter_config.json"
    named = json.loads(config.read_text()) | {"base_model_name_or_path": "/home/ann/secret"}
    config.write_text(json.dumps(named))
    first = place.distill(*SHORT, "--steps", "1")
    assert [line[:9] for line in first.err.splitlines() if "/home/ann/secret" in line] == ["warning: "], first.err
    assert open_adz(place.out).meta.base_model == "/home/ann/secret"
    further = ("-o", place.out.with_name("named.adz"), "--base-name", "org/model")
    for words in ((place.out, *SHORT[:4], "--device", "cpu", *further), (*SHORT, *further)):
        second = place.distill(*words, "--steps", "1", "-f")
        assert second.code == 0, second.err
        assert "secret" not in second.err
        made = open_adz(further[1])
        assert made.meta.base_model == made.meta.config["base_model_name_or_path"] == "org/model"
