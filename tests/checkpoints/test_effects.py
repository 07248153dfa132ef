"""What extras do, told in core terms from the keys and the configuration."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from adaptzip.checkpoints import resolved
from adaptzip.core.adapter import Adapter
from adaptzip.core.effects import Effect, Effects
from adaptzip.core.meta import Meta
from adaptzip.errors import CheckpointError, UsageError
from adaptzip.testing.adapters import adapter

PREFIX = "base_model.model."
TOKENS = ".token_adapter.trainable_tokens_delta"

CASES: dict[str, tuple[str, dict[str, Any], Effect]] = {
    "a head": ("score.weight", {}, Effect("replace", "score.weight", copied=True)),
    "no head": ("norm.weight", {}, Effect("replace", "norm.weight")),
    "a named copy": ("norm.weight", {"modules_to_save": ["norm"]}, Effect("replace", "norm.weight", copied=True)),
    "a copy in memory": (
        "lm_head.modules_to_save.default.weight", {}, Effect("replace", "lm_head.weight", copied=True),
    ),
    "a copy of another name": (
        "lm_head.modules_to_save.mine.weight", {}, Effect("replace", "lm_head.mine.weight", copied=True, placed=False),
    ),
    "an original": ("lm_head.original_module.weight", {}, Effect("original", "lm_head.weight")),
    "below an update": ("a.q.base_layer.weight", {}, Effect("replace", "a.q.weight")),
    "a bias beside an update": ("a.q.bias", {}, Effect("replace", "a.q.bias")),
    "a weight beside an update": ("a.q.weight", {}, Effect("ignore", "a.q.weight")),
    "rows": (f"emb{TOKENS}", {"trainable_token_indices": [3, 1]}, Effect("token_rows", "emb.weight", (3, 1))),
    "rows by module": (
        f"m.emb{TOKENS}", {"trainable_token_indices": {"emb": [2]}}, Effect("token_rows", "m.emb.weight", (2,)),
    ),
    "rows of nobody": (f"emb{TOKENS}", {"trainable_token_indices": {"x": [1]}}, Effect("token_rows", "emb.weight")),
    "a weight below rows": ("emb.weight", {"trainable_token_indices": {"emb": [2]}}, Effect("ignore", "emb.weight")),
}  # fmt: skip


def holding(*keys: str, **config: Any) -> Adapter:
    extras = {PREFIX + key: torch.ones(1) for key in keys}
    return resolved(adapter({"a.q": (8, 6, 2)}, extras=extras, config=config))


@pytest.mark.parametrize("name", CASES)
def test_an_extra_has_one_effect(name: str) -> None:
    key, config, effect = CASES[name]
    assert holding(key, **config).resolved.extras == {PREFIX + key: effect}


def test_what_holds_for_the_whole_adapter() -> None:
    tied = {"ensure_weight_tying": True, "modules_to_save": ["lm_head"], "target_modules": "model.(q|v)"}
    assert holding(**tied).resolved == Effects(trained_tied=True, copies_stay_tied=True)
    tied = {"ensure_weight_tying": True, "target_modules": ".*embed_tokens"}
    assert holding(**tied).resolved == Effects(trained_tied=True, updates_stay_tied=True)
    assert holding(task_type="SEQ_CLS", layer_replication=[[0, 2], [1, 2]]).resolved == Effects(
        task="SEQ_CLS", layers=((0, 2), (1, 2))
    )
    assert holding(trainable_token_indices={"x": [1]}).resolved.rows_by_module


@pytest.mark.parametrize("ranges", [3, "0-2", [0, 2], [[0]], [[0, "2"]], {"a": 1}])
def test_layers_that_are_no_pairs_are_refused(ranges: object) -> None:
    with pytest.raises(CheckpointError, match="layer_replication is .*, expected pairs of layer numbers"):
        holding(layer_replication=ranges)


def test_what_was_never_resolved_is_refused_where_it_counts() -> None:
    assert adapter({"a.q": (8, 6, 2)}).resolved == Effects()
    made = adapter({"a.q": (8, 6, 2)}, extras={PREFIX + "score.weight": torch.ones(1)})
    strange = replace(resolved(made), extras={"other": torch.ones(1)})
    for unknown in (made, strange, Adapter({}, {}, Meta("x", {"a": 1}))):
        with pytest.raises(UsageError, match="is not resolved"):
            _ = unknown.resolved
    assert replace(resolved(made), extras={}).resolved.extras
