"""Turning rows of real numbers into few bytes, and back exactly: trellis, tables and entropy coding."""
