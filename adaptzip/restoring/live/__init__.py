"""Adapters and models that are in memory: putting an adapter onto one, swapping it, and merging it in place."""

from __future__ import annotations

from adaptzip.restoring.live.loading import LoadReport, load_into
from adaptzip.restoring.live.merging import MergedReport, merge_into

__all__ = ["LoadReport", "MergedReport", "load_into", "merge_into"]
