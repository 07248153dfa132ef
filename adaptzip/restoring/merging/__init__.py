"""Merging an adapter into a base model's weights, bit for bit as PEFT does, one tensor at a time."""

from adaptzip.restoring.merging.any_base import merge
from adaptzip.restoring.merging.report import MergeReport

__all__ = ["MergeReport", "merge"]
