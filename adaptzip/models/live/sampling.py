"""Text that a causal language model writes by itself."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from adaptzip.errors import RefusedError
from adaptzip.models.live.forward import forward
from adaptzip.models.live.running import LoadedModel


@torch.inference_mode()
def sample_ids(loaded: LoadedModel, count: int, max_tokens: int, generator: torch.Generator) -> list[list[int]]:
    """Token ids drawn one after another from a causal model's own distributions, at temperature 1.

    Args:
        count: texts, written together.
        max_tokens: a text stops before an end token, or here; the start token counts.
        generator: on the CPU, so that every device draws the same from the same distributions.

    Returns:
        The ids of each text, without its start and end tokens.

    Raises:
        RefusedError: if the tokeniser has neither a start nor an end token to begin with.
    """
    start = loaded.tokeniser.start
    if start is None:
        raise RefusedError(
            "the tokeniser has no token that a text starts with, so that the model can't write one by itself",
            hint="give texts",
        )
    ends = loaded.ends
    found: list[list[int]] = [[] for _ in range(count)]
    writing = set(range(count))
    ids = torch.full((count, 1), start, device=loaded.device)
    cache = None
    for length in range(1, loaded.longest(max_tokens)):
        mask = torch.ones(count, length, dtype=torch.bool, device=loaded.device)
        cached: dict[str, Any] = {} if cache is None else {"past_key_values": cache}
        output = forward(loaded.model, ids[:, -1:] if cached else ids, mask, use_cache=True, **cached)
        # Recurrent models have a cache of another kind, and read what they wrote anew.
        cache = getattr(output, "past_key_values", None)
        drawn = _draw(output.logits[:, -1], generator)
        for row in sorted(writing):
            token = int(drawn[row])
            if token in ends:
                writing.remove(row)
            else:
                found[row].append(token)
        if not writing:
            break
        ids = torch.cat([ids, drawn.unsqueeze(1).to(loaded.device)], 1)
    return found


def _draw(logits: Tensor, generator: torch.Generator) -> Tensor:
    """One token of each row of logits (texts, vocabulary)."""
    return torch.multinomial(logits.float().softmax(1).cpu(), 1, generator=generator)[:, 0]
