"""The one place where a transformers model is run."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from adaptzip.errors import AdaptzipError, RefusedError

_NO_MEMORY = ("can't allocate memory", "not enough memory", "ALLOC_FAILED")
"""What torch says of a processor's memory, and CUDA's libraries of theirs."""


def forward(model: nn.Module, ids: Tensor, mask: Tensor, **options: Any) -> Any:
    """What a transformers model puts out.

    Args:
        ids: token ids (texts, longest) int64.
        mask: where they, and what is in the cache before them, are no padding, (texts, all) bool.
        options: more that the model is given.

    Raises:
        RefusedError: if the model cannot run on these texts.
    """
    try:
        return model(input_ids=ids, attention_mask=mask.long(), **options)
    except AdaptzipError:
        raise
    except (ValueError, IndexError, TypeError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise
        reason = str(error).strip().partition("\n")[0]
        raise RefusedError(f"{type(model).__name__} does not run on these texts ({reason})") from error


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out."""
    return isinstance(error, torch.OutOfMemoryError) or any(part in str(error) for part in _NO_MEMORY)
