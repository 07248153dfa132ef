"""What bits are held to be worth, wherever rate is weighed against error."""

from __future__ import annotations

BIT_WEIGHT = 0.3
"""Squared error, in units of the step squared, that one bit must buy (best by measurement: docs/decisions/0002)."""

ROW_BITS = 10.0
"""What a row's class takes, about."""
