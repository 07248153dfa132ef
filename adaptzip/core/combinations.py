"""The names that PEFT's `add_weighted_adapter` has for the ways to make one adapter of several."""

from __future__ import annotations

from typing import Literal, get_args

Combination = Literal[
    "cat", "svd", "linear", "ties", "dare_linear", "dare_ties", "magnitude_prune",
    "ties_svd", "dare_linear_svd", "dare_ties_svd", "magnitude_prune_svd",
]  # fmt: skip
COMBINATIONS: tuple[str, ...] = get_args(Combination)
BESIDE: Combination = "cat"
CUT: Combination = "svd"
CUT_LATER = "_svd"
"""At the end of the name of a way that works on whole updates, and cuts what comes of them."""
