"""Second moments of inputs, against sums by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import BertModel

from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.errors import AdaptzipWarning
from adaptzip.fitting.calibration.moments import (
    InputTally,
    collect_moments,
    input_rows,
    observed_inputs,
    relative_weights,
)
from adaptzip.models.live.layers import Layer, find_layers
from adaptzip.models.live.running import Batch, load_teacher
from tests.cases import tiny_peft
from tests.cases.models_on_disk import TEXTS, adapter, head, save


def test_one_layer_by_hand() -> None:
    layer = nn.Linear(2, 3)
    mask = torch.tensor([[True, True], [True, False]])
    inputs = torch.tensor([[[1.0, 0.0], [0.0, 2.0]], [[1.0, 1.0], [9.0, 9.0]]])
    tally = InputTally()
    batch = Batch(torch.zeros(2, 2, dtype=torch.int64), mask)
    for _ in range(2):
        with observed_inputs({"m": Layer(layer, layer.get_parameter("weight"), "linear")}, batch, {"m": tally}):
            layer(inputs)
    layer(inputs)
    # x x^T of (1, 0), (0, 2) and (1, 1), twice; the padded (9, 9) is left out.
    assert tally.gram is not None
    assert tally.gram.tolist() == [[4.0, 2.0], [2.0, 10.0]]
    assert (tally.positions, tally.energy) == (6, 14.0)


def test_padding_changes_nothing(tmp_path: Path) -> None:
    base = save(tiny_peft.llama, tmp_path)
    lora = adapter(tiny_peft.llama(), "q_proj", "down_proj")
    together = collect_moments(base, lora, TEXTS, batch=6)
    alone = collect_moments(base, lora, TEXTS, batch=1)
    for name, sensitivity in together.items():
        assert sensitivity.moments is not None
        torch.testing.assert_close(sensitivity.moments, alone[name].moments, rtol=1e-4, atol=1e-5)
        assert sensitivity.weight == pytest.approx(alone[name].weight, rel=1e-4)


def test_they_are_the_teachers_own_and_scaled(tmp_path: Path) -> None:
    base = save(tiny_peft.llama, tmp_path)
    lora = adapter(tiny_peft.llama(), "q_proj", "v_proj", "up_proj")
    found = collect_moments(base, lora, TEXTS)
    assert found.keys() == lora.modules.keys()
    assert sum(s.weight for s in found.values()) / len(found) == pytest.approx(1.0)
    for sensitivity in found.values():
        assert sensitivity.moments is not None
        assert float(sensitivity.moments.trace()) == pytest.approx(16, rel=1e-5)
    first, second = "model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj"
    untouched = collect_moments(base, Adapter({n: LoraFactors(m.A, 0 * m.B) for n, m in lora.modules.items()}), TEXTS)
    torch.testing.assert_close(found[first].moments, untouched[first].moments)
    assert (found[second].moments - untouched[second].moments).abs().max() > 1e-3  # type: ignore[operator]


def test_transposed_layers_are_seen_in_the_updates_orientation(tmp_path: Path) -> None:
    base = save(tiny_peft.gpt2, tmp_path)
    found = collect_moments(base, adapter(tiny_peft.gpt2(), "c_fc", "c_proj"), TEXTS)
    assert {len(s.moments) for s in found.values() if s.moments is not None} == {16, 64}


def test_names_may_have_another_prefix(tmp_path: Path) -> None:
    model = tiny_peft.bert()
    lora = adapter(model, "query")
    assert find_layers(model.bert, lora.modules, tmp_path).keys() == lora.modules.keys()


def test_a_module_that_never_runs_is_named(tmp_path: Path) -> None:
    base = save(lambda: BertModel(tiny_peft.bert().config), tmp_path)
    lora = adapter(BertModel(tiny_peft.bert().config), "query")
    loaded = load_teacher(base, lora, torch.device("cpu"))
    assert loaded.kind == "encoder"
    with pytest.warns(AdaptzipWarning, match="1 modules did not run and weigh 1: b"):
        assert relative_weights({"a": 2.0, "b": 0.0, "c": 6.0}, "did not run") == {"a": 0.5, "b": 1.0, "c": 1.5}


def test_modules_that_run_once_a_text_weigh_less(tmp_path: Path) -> None:
    base = save(tiny_peft.bert, tmp_path)
    lora = head(adapter(tiny_peft.bert(), "query", "pooler.dense"))
    loaded = load_teacher(base, lora, torch.device("cpu"))
    (batch,) = loaded.batches(TEXTS, 8, 64)
    tallies = {name: InputTally() for name in loaded.layers}
    with observed_inputs(loaded.layers, batch, tallies):
        loaded(batch)
    assert tallies["bert.pooler.dense"].positions == len(TEXTS)
    assert tallies["bert.encoder.layer.0.attention.self.query"].positions == batch.tokens


@pytest.mark.parametrize("name", ["conv1", "conv2", "conv3", "grouped"])
def test_a_convolutions_patches_are_what_its_weight_multiplies(name: str) -> None:
    layer = getattr(tiny_peft.Layers(), name)
    shape = {"conv1": (2, 8, 7), "conv2": (2, 3, 6, 5), "conv3": (2, 2, 4, 4, 4), "grouped": (2, 8, 5, 5)}[name]
    inputs = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    rows = input_rows(Layer(layer, layer.get_parameter("weight"), "conv"), inputs, torch.ones(2, 1, dtype=torch.bool))
    weight = layer.weight.detach().flatten(1)
    grouped = rows.reshape(2, layer.groups, -1, rows.shape[1])
    out = torch.einsum("tgpi,goi->tgop", grouped, weight.reshape(layer.groups, -1, weight.shape[1]))
    expected = layer(inputs).detach() - layer.bias.detach().reshape(-1, *[1] * (len(shape) - 2))
    torch.testing.assert_close(out.reshape(expected.shape), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("kernel", "dilation"), [((3, 3), (2, 2)), ((4, 2), (2, 3)), ((3, 1), (3, 2))])
def test_a_strided_dilated_padded_convolution(kernel: tuple[int, int], dilation: tuple[int, int]) -> None:
    layer = nn.Conv2d(2, 3, kernel, stride=2, padding=1, dilation=dilation, bias=False)
    inputs = torch.randn(1, 2, 9, 8)
    rows = input_rows(Layer(layer, layer.get_parameter("weight"), "conv"), inputs, torch.ones(1, 1, dtype=torch.bool))
    found = rows @ layer.weight.detach().flatten(1).T
    torch.testing.assert_close(found.T.reshape(layer(inputs).shape), layer(inputs).detach(), rtol=1e-4, atol=1e-5)
