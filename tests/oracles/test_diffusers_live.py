"""Adapters on pipelines that are in memory: diffusers' layers, and merged weights, hold the update that we mean."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch

import adaptzip
from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.errors import RefusedError

diffusers = pytest.importorskip("diffusers", reason="diffusers is in the environment of the oracles")
from tests.oracles.test_diffusers import adapter_of, check, sd1, sdxl  # noqa: E402

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore::FutureWarning")]
every = pytest.mark.parametrize("make", [sd1, sdxl])


def parts_of(pipe: Any) -> dict[str, Any]:
    return {name: getattr(pipe, name) for name in ("unet", "text_encoder", "text_encoder_2") if hasattr(pipe, name)}


@every
def test_a_pipeline_takes_an_adapter_of_mixed_ranks(make: Callable[[], Any]) -> None:
    pipe = make()
    adapter = adapter_of(parts_of(pipe))
    report = adaptzip.load_into(pipe, adapter, name="style")
    assert report.modules == len(adapter.modules)
    check(adapter, parts_of(pipe))
    assert pipe.get_active_adapters() == ["style"]


@every
def test_a_component_takes_its_part_alone(make: Callable[[], Any]) -> None:
    pipe = make()
    adapter = adapter_of({"unet": pipe.unet})
    adaptzip.load_into(pipe.unet, adapter, name="style")
    check(adapter, {"unet": pipe.unet})


def test_a_pipeline_swaps_one_for_another() -> None:
    pipe = sd1()
    first = adapter_of({"unet": pipe.unet}, mixed=False)
    second = adapter_of({"unet": pipe.unet})
    adaptzip.load_into(pipe, first, name="style")
    layers = sum(1 for _ in pipe.unet.modules())
    assert adaptzip.load_into(pipe, second, name="style", hotswap=True).swapped
    check(second, {"unet": pipe.unet})
    assert sum(1 for _ in pipe.unet.modules()) == layers


@every
def test_a_pipeline_is_merged_in_place(make: Callable[[], Any]) -> None:
    pipe = make()
    before = {name: deepcopy(model.state_dict()) for name, model in parts_of(pipe).items()}
    adapter = adapter_of(parts_of(pipe))
    adaptzip.merge_into(pipe, adapter)
    for name, model in parts_of(pipe).items():
        for key, tensor in model.state_dict().items():
            factors = adapter.modules.get(f"{name}.{key.removesuffix('.weight')}")
            if factors is None:
                assert torch.equal(tensor, before[name][key]), key
            else:
                wanted = before[name][key] + factors.weight_delta()
                assert torch.allclose(tensor, wanted, atol=1e-5, rtol=1e-5), key


def test_an_adapter_of_a_single_model_is_for_a_component() -> None:
    pipe = sd1()
    plain = Adapter({"mid_block.attentions.0.proj_in": LoraFactors(torch.ones(1, 64), torch.ones(64, 1))})
    for act in (adaptzip.load_into, adaptzip.merge_into):
        with pytest.raises(RefusedError, match="the adapter is of a single model"):
            act(pipe, plain)
