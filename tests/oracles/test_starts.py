"""The numbers that mlx-lm and LyCORIS begin their adapters with are found again."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn

from adaptzip.bases.starts.finding import find_start
from adaptzip.core.adapter import LoraFactors
from tests.bases.starts.made import Modules, check_exact, trained

pytestmark = pytest.mark.oracle


def made_by_mlx_lm(seed: int, rank: int, quantised: bool) -> Modules:
    mlx = pytest.importorskip("mlx.core", reason="mlx-lm has no wheel for this system")
    from mlx.nn import quantize
    from mlx.utils import tree_flatten
    from mlx_lm.models import llama
    from mlx_lm.tuner.utils import linear_to_lora_layers

    mlx.random.seed(seed)
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2}
    model = llama.Model(
        llama.ModelArgs(model_type="llama", num_hidden_layers=6, rms_norm_eps=1e-5, vocab_size=128, **shape)
    )
    if quantised:
        quantize(model, group_size=32, bits=4)
    model.freeze()
    linear_to_lora_layers(model, 4, {"rank": rank, "scale": 20.0, "dropout": 0.0})
    numbers: dict[str, Any] = dict(tree_flatten(model.trainable_parameters()))
    return {
        key.removesuffix(".lora_a"): LoraFactors(
            torch.tensor(value.tolist()).T, torch.zeros(numbers[key.replace("lora_a", "lora_b")].shape[1], rank)
        )
        for key, value in numbers.items()
        if key.endswith(".lora_a")
    }


@pytest.mark.parametrize(("seed", "rank", "quantised"), [(0, 8, False), (0, 4, True), (42, 16, False)])
def test_every_module_of_mlx_lm_is_found(seed: int, rank: int, quantised: bool) -> None:
    first = made_by_mlx_lm(seed, rank, quantised)
    found = find_start(trained(first))
    assert found is not None
    assert (found.generator, found.seed) == ("mlx", seed)
    assert found.places.keys() == first.keys()
    check_exact(found, first)
    keys = sorted(place.offset for place in found.places.values())
    assert {b - a for a, b in pairwise(keys)} == {2}


def test_every_module_of_lycoris_is_found() -> None:
    lycoris = pytest.importorskip("lycoris")
    torch.manual_seed(42)
    base = nn.Sequential(*(nn.Linear(64, 48 + 16 * k) for k in range(4)))
    torch.manual_seed(1337)
    modules = [lycoris.LoConModule(f"m{k}", layer, lora_dim=8) for k, layer in enumerate(base)]
    first = {
        f"m{k}": LoraFactors(one.lora_down.weight.detach().clone(), one.lora_up.weight.detach().clone())
        for k, one in enumerate(modules)
    }
    found = find_start(trained(first))
    assert found is not None
    assert (found.generator, found.seed) == ("uniform", 1337)
    assert found.places.keys() == first.keys()
    check_exact(found, first)
