"""Merging an adapter into a base model's weights, bit for bit as PEFT does, one tensor at a time."""

from adaptzip.restoring.merging.folders import MergeReport, merge

__all__ = ["MergeReport", "merge"]
