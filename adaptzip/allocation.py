"""Sharing ranks out over modules: uniform, by energy, or grown where they buy most."""

from __future__ import annotations

from typing import Literal

from adaptzip.fitting import FittedAdapter
from adaptzip.jobs import Job

Allocation = Literal["uniform", "energy", "increlora"]


def allocate_ranks(job: Job, fitted: FittedAdapter) -> dict[str, int]:
    """The largest rank of each module."""
    return dict(job.request.ranks or {})
