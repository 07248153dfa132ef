"""Quantised weights read as float ones, some rows at a time: a file for each scheme.

Each scheme finds its modules by their tensors' names, and gives for each of them a `Decoder`, which makes rows of the
weight in float32. What a weight is, is what the scheme's own library makes of the stored numbers, in its arithmetic.
"""
