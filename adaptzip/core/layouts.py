"""How a base model stores what an update changes: the layouts that there are, and what some have in common."""

from __future__ import annotations

from typing import Literal

Layout = Literal["linear", "transposed", "conv", "embedding", "expert", "expert_transposed"]
"""How a module's base weight lies in memory, against the update's (out, in).

linear: (out, in). transposed: (in, out), as transformers' Conv1D. conv: (out, in, *kernel).
embedding: (vocabulary, dimension) where in = vocabulary and out = dimension.
expert: one (out, in) slice of a stacked (experts, out, in) parameter; expert_transposed: (experts, in, out).
"""

PLAIN: frozenset[Layout] = frozenset({"linear", "transposed"})
"""Layouts of a weight of two dimensions that a linear layer multiplies by."""

TURNED: frozenset[Layout] = frozenset({"transposed", "embedding", "expert_transposed"})
"""Layouts in which the update's transpose is added."""

TRANSPOSED_EXPERT_TYPES = frozenset({"gpt_oss", "openai_privacy_filter", "aria", "aria_text"})
"""Model types that stack their experts as (experts, in, out)."""
