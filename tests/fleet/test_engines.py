"""Who does the tasks: the same comes of it, and nothing is done twice."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from adaptzip.errors import CheckFailedError, UsageError
from adaptzip.fleet.engines import fleet_engine
from adaptzip.fleet.runs import Json, Plan, Run, Stage

HERE = "tests.fleet.test_engines"


def square(run: Run, payload: Json) -> Json:
    """Counts how often it is called, by a line in a file."""
    with Path(payload["log"]).open("a") as handle:
        handle.write(f"{payload['number']}\n")
    return {"square": payload["number"] ** 2}


def die_once(run: Run, payload: Json) -> Json:
    mark = Path(payload["log"]).with_suffix(".died")
    if payload["number"] == 1 and not mark.exists():
        mark.write_text("")
        os._exit(9)
    return square(run, payload)


def die(run: Run, payload: Json) -> Json:
    os._exit(9)


def refuse(run: Run, payload: Json) -> Json:
    raise UsageError(f"number {payload['number']} is refused", hint="a hint")


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., tuple[Run, Stage, Path]]:
    def made(work: str = "square", count: int = 5) -> tuple[Run, Stage, Path]:
        log = tmp_path / "log"
        payloads = [{"number": number, "log": str(log)} for number in range(count)]
        return Run.of(str(tmp_path / "store"), Plan("test", (), {})), Stage("squares", f"{HERE}:{work}", payloads), log

    return made


def squares(run: Run, count: int = 5) -> list[Any]:
    return [run.fresh("squares", number)["square"] for number in range(count)]


def test_a_task_is_done_once(make: Callable[..., tuple[Run, Stage, Path]]) -> None:
    run, stage, log = make()
    told: list[tuple[str, float, float]] = []
    fleet_engine(progress=lambda *what: told.append(what)).complete(run, stage)
    assert squares(run) == [0, 1, 4, 9, 16]
    assert told == [("squares", done, 5) for done in range(6)]
    run.tree.remove(run.note("squares", 3))
    fleet_engine().complete(run, stage)
    assert log.read_text().split() == ["0", "1", "2", "3", "4", "3"]


def test_processes_that_die_are_replaced(make: Callable[..., tuple[Run, Stage, Path]]) -> None:
    run, stage, _ = make("die_once")
    engine = fleet_engine(jobs=2)
    engine.complete(run, stage)
    engine.close()
    assert squares(run) == [0, 1, 4, 9, 16]


@pytest.mark.slow
def test_processes_that_always_die_are_given_up(make: Callable[..., tuple[Run, Stage, Path]]) -> None:
    run, stage, _ = make("die")
    with pytest.raises(CheckFailedError, match="5 processes died at the same task"):
        fleet_engine(jobs=2).complete(run, stage)


@pytest.mark.parametrize("jobs", [1, 2])
def test_what_a_task_raises_comes_back(make: Callable[..., tuple[Run, Stage, Path]], jobs: int) -> None:
    run, stage, _ = make("refuse")
    engine = fleet_engine(jobs=jobs)
    with pytest.raises(UsageError, match=r"number \d is refused") as caught:
        engine.complete(run, stage)
    engine.close()
    assert caught.value.hint == "a hint"


def test_ranks_share_the_work_and_wait_for_each_other(make: Callable[..., tuple[Run, Stage, Path]]) -> None:
    run, stage, log = make(count=7)
    engines = [fleet_engine(rank=rank, world_size=3, wait=60) for rank in range(3)]
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda engine: engine.complete(run, stage), engines))
    assert sorted(log.read_text().split()) == [str(number) for number in range(7)]
    assert squares(run, 7) == [number**2 for number in range(7)]


def test_a_rank_says_which_others_are_missing(make: Callable[..., tuple[Run, Stage, Path]]) -> None:
    run, stage, log = make()
    with pytest.raises(CheckFailedError, match="4 of 5 tasks of stage 'squares' were not done by others") as caught:
        fleet_engine(rank=1, world_size=4, wait=0.05).complete(run, stage)
    assert caught.value.hint == "start the same command for rank 0, 2, 3 again, and this one"
    assert log.read_text().split() == ["1"]


def test_runs_of_other_plans_are_other_runs(tmp_path: Path) -> None:
    one, other = (Run.of(str(tmp_path), Plan("test", (), {"size": size})) for size in (1, 2))
    assert one.key != other.key
    assert one.plan.settings == {"size": 1}


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"name": "slurm"}, "engine 'slurm' is unknown"),
        ({"jobs": 0}, "0 jobs were asked for"),
        ({"rank": 1}, "a rank was given without a world size"),
        ({"rank": 2, "world_size": 2}, "rank 2 of a world of 2"),
        ({"address": "ray://head:10001"}, "Ray is not asked for"),
        ({"name": "ray", "rank": 0, "world_size": 1}, "Ray shares out the work itself"),
    ],
)
def test_engines_that_make_no_sense_are_refused(options: dict[str, Any], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        fleet_engine(**options)


@pytest.mark.skipif(find_spec("ray") is not None, reason="Ray is installed")
def test_a_ray_that_is_not_installed_is_told() -> None:
    with pytest.raises(UsageError, match="Ray is not installed") as caught:
        fleet_engine("ray")
    assert caught.value.hint == "pip install 'adaptzip[ray]'"
