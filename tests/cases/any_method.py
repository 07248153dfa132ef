"""The methods that tests run through, and what `adaptzip.testing` does with any of them."""

from __future__ import annotations

from adaptzip import methods
from adaptzip.testing.adapters import dense, same_factors
from adaptzip.testing.trials import (
    OneModule,
    all_zero,
    code_one,
    compress,
    fit,
    job_of,
    needs,
    needs_file,
    stored_numbers,
)

__all__ = [
    "EVERY",
    "OUTSIDE",
    "OneModule",
    "all_zero",
    "code_one",
    "compress",
    "dense",
    "fit",
    "job_of",
    "needs",
    "needs_file",
    "same_factors",
    "stored_numbers",
]

OUTSIDE = ("sixth", "seventh")
EVERY = (*methods.fittable(), *OUTSIDE)
"""Built-in methods that need no training, and the two of `plugging.TOYS`."""
