"""What a base model's config.json says about its language model, which may be one part of several."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

TEXT_CONFIGS = ("text_config", "llm_config", "language_config", "thinker_config", "decoder", "generator")
"""Where the configuration of a model of several parts keeps that of its language model."""


def text_part(config: Mapping[str, Any]) -> str | None:
    """The key of the part that describes the language model, None where that is the configuration itself."""
    return next((key for key in TEXT_CONFIGS if isinstance(config.get(key), Mapping)), None)


def text_parts(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The configuration and the parts within it that describe the language model, outermost first."""
    while True:
        yield config
        part = text_part(config)
        if part is None:
            return
        config = config[part]


def says_untied(config: Mapping[str, Any]) -> bool:
    """Whether a configuration says that input and output embeddings are two parameters."""
    said = [part.get("tie_word_embeddings") for part in text_parts(config)]
    return False in said and True not in said
