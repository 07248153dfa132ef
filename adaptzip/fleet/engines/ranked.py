"""One of several runs that share the work by their ranks, each on a machine of its own or not."""

from __future__ import annotations

import time

from adaptzip.errors import CheckFailedError
from adaptzip.fleet.engines.local import Local
from adaptzip.fleet.runs import Run, Stage

_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
"""Seconds between looks at what the others have done: the first, and the most."""
_SHOWN = 8


class Ranked:
    """Every `world_size`-th task, from `rank` on; then it waits until the others have done theirs."""

    def __init__(self, local: Local, rank: int, world_size: int, wait: float) -> None:
        self._local = local
        self._rank, self._world_size, self._wait = rank, world_size, wait
        self.here = False

    def close(self) -> None:
        self._local.close()

    def complete(self, run: Run, stage: Stage) -> None:
        count = len(stage.payloads)
        self._local.do(run, stage, range(self._rank, count, self._world_size))
        missing, pause, since = count, _PAUSE, time.monotonic()
        while True:
            left = sorted(set(range(count)) - run.done(stage.name))
            if not left:
                return
            if len(left) < missing:
                missing, pause, since = len(left), _PAUSE, time.monotonic()
            if time.monotonic() - since > self._wait:
                ranks = sorted({number % self._world_size for number in left})
                told = ", ".join(map(str, ranks[:_SHOWN])) + (", ..." if len(ranks) > _SHOWN else "")
                raise CheckFailedError(
                    f"{len(left)} of {count} tasks of stage {stage.name!r} were not done by others within "
                    f"{self._wait:g} s",
                    hint=f"start the same command for rank {told} again, and this one",
                )
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
