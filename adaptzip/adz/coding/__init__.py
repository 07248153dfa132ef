"""Turning rows of real numbers into few bytes, and back exactly: trellis, tables, entropy coding, rate control."""
