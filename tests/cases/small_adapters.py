"""Small adapters made on the fly, as `adaptzip.testing` makes them."""

from __future__ import annotations

from adaptzip.testing.adapters import Shape, adapter, bits, factors, relative_error, same_bits

__all__ = ["Shape", "adapter", "bits", "factors", "relative_error", "same_bits"]
