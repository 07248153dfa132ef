"""Fixtures of stores."""

from __future__ import annotations

from tests.cases.stores import alone, team

__all__ = ["alone", "team"]
