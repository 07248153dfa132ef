"""The methods that tests run through."""

from __future__ import annotations

from adaptzip import methods

OUTSIDE = ("sixth", "seventh")
EVERY = (*methods.fittable(), *OUTSIDE)
"""Built-in methods that need no training, and the two of `plugging.TOYS`."""
