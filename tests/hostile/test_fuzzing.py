"""A little of the fuzzer, with the same seeds each time; `python -m tests.hostile.fuzz` goes on as long as asked."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.hostile import fuzz, mutating

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are Linux's")
def test_no_fault_in_half_a_minute() -> None:
    """A machine that is busy may take its time; what takes ten seconds is ended by the system."""
    command = [sys.executable, "-m", "tests.hostile.fuzz", "--seconds", "30", "--slow", "100"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.endswith(" 0 faults\n")


def test_a_fault_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codes = iter([70, 0, 3, 0, 0])
    monkeypatch.setattr(fuzz, "ended", lambda words: (next(codes), 5.0 if "verify" in words else 0.0, 0, "said"))
    for folder in ("x", "good"):
        (tmp_path / folder).mkdir()
    found = list(fuzz.faults("archive", 0, tmp_path / "x", tmp_path / "good", 2))
    assert (
        found
        == [
            "inspect: exit code 70, 0.0 s, 0 MB: said",
            "verify: exit code 0, 5.0 s, 0 MB: said",
            "inspect of what export wrote: exit code 0: said",
        ][:2]
    )


def test_a_seed_makes_the_same_file_each_time() -> None:
    made = [mutating.archive(random.Random(seed)) for seed in range(20)]
    assert made == [mutating.archive(random.Random(seed)) for seed in range(20)]
    assert len(set(made)) > 15


def test_a_value_of_json_is_changed_in_one_place() -> None:
    whole = {"a": [1, {"b": 2}], "c": "d"}
    changed = [mutating.changed_json(random.Random(seed), whole) for seed in range(200)]
    assert sum(json.dumps(one) != json.dumps(whole) for one in changed) > 150
    assert whole == {"a": [1, {"b": 2}], "c": "d"}
