"""Serving adapters from a store: what engines call, and swapping on a live model."""
