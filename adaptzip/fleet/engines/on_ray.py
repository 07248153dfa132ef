"""Tasks on Ray's workers, on this machine or a cluster that sees the same store."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from typing import Any

from adaptzip.core.progress import Progress
from adaptzip.errors import UsageError
from adaptzip.fleet.runs import Run, Stage, perform

INSTALL = "pip install 'adaptzip[ray]'"
_TRIES = 3
"""Times that Ray starts a task again whose worker died."""


class OnRay:
    """Ray's workers; Ray is started, or the cluster found, with the first task."""

    def __init__(self, jobs: int, address: str | None, progress: Progress) -> None:
        if find_spec("ray") is None:
            raise UsageError("Ray is not installed", hint=INSTALL)
        self._jobs, self._address, self._progress = jobs, address, progress
        self.here = False

    def complete(self, run: Run, stage: Stage) -> None:
        ray = self._started()
        remote = ray.remote(num_cpus=1, max_retries=_TRIES)(_alone)
        done, wanted = run.done(stage.name), len(stage.payloads)
        left = [number for number in range(wanted) if number not in done]
        waiting = [remote.remote(run, stage.name, stage.work, number, stage.payloads[number]) for number in left]
        while waiting:
            self._progress(stage.name, wanted - len(waiting), wanted)
            ready, waiting = ray.wait(waiting)
            for one in ready:
                try:
                    ray.get(one)
                except ray.exceptions.RayTaskError as error:
                    raise error.cause from error
        self._progress(stage.name, wanted, wanted)

    def close(self) -> None:
        """Ray is left to whoever started it; one that was started here ends with this process."""

    def _started(self) -> Any:
        import ray

        if not ray.is_initialized():
            here = {"num_cpus": self._jobs, "include_dashboard": False} if self._address is None else {}
            ray.init(address=self._address, log_to_driver=False, logging_level=logging.ERROR, **here)
        return ray


def _alone(run: Run, stage: str, work: str, number: int, payload: Any) -> None:
    """A task in a worker, which has one core."""
    import torch

    torch.set_num_threads(1)
    perform(run, stage, work, number, payload)
