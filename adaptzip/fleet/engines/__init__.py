"""Who does the tasks of a stage: this process, several on this machine, one of several ranks, or Ray's workers."""

from __future__ import annotations

from typing import Literal, Protocol, get_args

from adaptzip.core.calling import public
from adaptzip.core.progress import Progress, silent
from adaptzip.errors import UsageError
from adaptzip.fleet.engines.local import Local
from adaptzip.fleet.engines.on_ray import OnRay
from adaptzip.fleet.engines.ranked import Ranked
from adaptzip.fleet.runs import Run, Stage

EngineName = Literal["local", "ray"]
ENGINES: tuple[str, ...] = get_args(EngineName)


class Engine(Protocol):
    """What does tasks; made by `fleet_engine`."""

    @property
    def here(self) -> bool:
        """Whether all of them are done in this process."""

    def complete(self, run: Run, stage: Stage) -> None:
        """Return when every task of a stage is done, by this engine or by others.

        Raises:
            AdaptzipError: what a task raised, or if tasks cannot be done.
        """

    def close(self) -> None:
        """Let go of processes that stand ready for more tasks; a next one makes them anew."""


@public
def fleet_engine(
    name: str = "local",
    *,
    jobs: int = 1,
    rank: int | None = None,
    world_size: int | None = None,
    address: str | None = None,
    wait: float = 3600.0,
    progress: Progress = silent,
) -> Engine:
    """What does the tasks of `build_fleet_basis` and `compress_fleet`, for their `engine=`.

    Every worker sees the store, and what comes of a job is the same bit for bit however many there are. A worker that
    dies is started again, and so is a whole job: what was done stays done.

    Args:
        name: "local" or "ray".
        jobs: processes at once, or CPUs that a Ray of its own may use.
        rank, world_size: which of how many runs this is that share the work, each perhaps on a machine of its own.
        address: of a Ray cluster, such as "ray://head:10001"; None starts Ray here.
        wait: seconds for which a rank waits for others that finish nothing.
        progress: told of each stage how many of its tasks are done.

    Raises:
        UsageError: if they contradict each other, or Ray is asked for and not installed.

    Example:
        >>> engine = adaptzip.fleet_engine(jobs=2)
        >>> engine.close()
    """
    if name not in ENGINES:
        raise UsageError(f"engine {name!r} is unknown", hint=f"engines: {', '.join(ENGINES)}")
    if jobs < 1:
        raise UsageError(f"{jobs} jobs were asked for, expected at least 1")
    if (rank is None) != (world_size is None):
        raise UsageError("a rank was given without a world size, or the other way round", hint="give both")
    if name == "ray":
        if rank is not None:
            raise UsageError("Ray shares out the work itself", hint="leave `rank=` and `world_size=` out")
        return OnRay(jobs, address, progress)
    if address is not None:
        raise UsageError("the address of a Ray cluster was given, and Ray is not asked for", hint="add `engine='ray'`")
    local = Local(jobs, progress)
    if rank is None or world_size is None:
        return local
    if not 0 <= rank < world_size:
        raise UsageError(f"rank {rank} of a world of {world_size}", hint="ranks are numbered from 0")
    return Ranked(local, rank, world_size, wait)
