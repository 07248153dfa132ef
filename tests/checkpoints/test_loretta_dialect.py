"""LoRETTA_rep checkpoints, made by hand: their updates computed number by number, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import adaptzip
from adaptzip.checkpoints import dialect
from adaptzip.errors import AdaptzipError, CheckpointError, RefusedError
from tests.cases.tiny_peft import bert, merged_by_peft

STEM = "base_model.model.layer.q_proj"
CONFIG = {"peft_type": "LORA", "r": 8, "bottleneck_size": 4, "lora_alpha": 6, "tensor_rank": 2, "task_type": "SEQ_CLS"}
IN_MODES, OUT_MODES = (2, 3, 4), (4, 2, 5)
"""(in 6, bottleneck 4) and (bottleneck 4, out 10), folded into modes of which none need end with a row."""


def cores(side: str, modes: tuple[int, ...], seed: int, stem: str = STEM, rank: int = 2) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ranks = [1, *[rank] * (len(modes) - 1), 1]
    return {
        f"{stem}.lora_{side}.layer.tensor.factors.{i}": torch.randn(ranks[i], k, ranks[i + 1], generator=generator)
        for i, k in enumerate(modes)
    }


def tensors() -> dict[str, Tensor]:
    return cores("A", IN_MODES, 1) | cores("B", OUT_MODES, 2)


def save(folder: Path, contents: dict[str, Tensor], config: dict[str, Any] | None = CONFIG, *, pickled: bool) -> Path:
    folder.mkdir(exist_ok=True)
    if pickled:
        torch.save(contents, folder / "adapter_model.bin")
    else:
        save_file(contents, folder / "adapter_model.safetensors")
    if config is not None:
        (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def entry(trains: dict[str, Tensor], side: str, modes: tuple[int, ...], flat: int, stem: str = STEM) -> float:
    """One number of a factor from its place in row-major order: the product of one matrix of each core."""
    product = np.ones((1, 1))
    for i, index in enumerate(np.unravel_index(flat, modes)):
        product = product @ trains[f"{stem}.lora_{side}.layer.tensor.factors.{i}"].double().numpy()[:, int(index)]
    return float(product[0, 0])


def by_hand(trains: dict[str, Tensor], scaling: float) -> np.ndarray:
    """The update (out, in), number by number: y = scaling * x A B with A (in, bottleneck), B (bottleneck, out)."""
    delta = np.zeros((10, 6))
    for o in range(10):
        for i in range(6):
            for b in range(4):
                delta[o, i] += entry(trains, "A", IN_MODES, 4 * i + b) * entry(trains, "B", OUT_MODES, 10 * b + o)
    return scaling * delta


def failure(kind: type[AdaptzipError], folder: Path) -> str:
    with pytest.raises(kind) as error:
        adaptzip.read(folder)
    assert error.value.hint
    return str(error.value)


@pytest.mark.parametrize("pickled", [True, False])
def test_the_update_is_the_one_computed_by_hand(tmp_path: Path, pickled: bool) -> None:
    trains = tensors()
    adapter = adaptzip.read(save(tmp_path / "a", trains, pickled=pickled))
    assert adapter.meta.dialect == "loretta"
    module = adapter.modules["layer.q_proj"]
    assert (module.shape, module.rank, module.scaling) == ((10, 6), 4, 6 / 4)
    np.testing.assert_allclose(module.delta().numpy(), by_hand(trains, 6 / 4), rtol=1e-5, atol=1e-6)


def test_modes_that_end_inside_a_row_are_rows_all_the_same(tmp_path: Path) -> None:
    trains = cores("A", (3, 8), 1) | cores("B", (8, 5), 2)
    module = adaptzip.read(save(tmp_path / "a", trains, pickled=True)).modules["layer.q_proj"]
    first, second = (trains[f"{STEM}.lora_A.layer.tensor.factors.{i}"] for i in (0, 1))
    expected = torch.einsum("iar,rbj->ab", first, second).reshape(6, 4).T
    torch.testing.assert_close(module.A, expected)
    assert module.B.shape == (10, 4)


def test_extras_are_kept_and_conv1d_layouts_known(tmp_path: Path) -> None:
    head = torch.arange(6.0)
    contents = tensors() | {"base_model.model.classifier.bias": head}
    adapter = adaptzip.read(save(tmp_path / "a", contents, CONFIG | {"fan_in_fan_out": True}, pickled=True))
    assert torch.equal(adapter.extras["base_model.model.classifier.bias"], head)
    assert adapter.modules["layer.q_proj"].layout == "transposed"
    assert adapter.modules["layer.q_proj"].shape == (10, 6)


def test_it_compresses_and_comes_back_as_a_peft_lora(tmp_path: Path) -> None:
    trains = tensors()
    contents = trains | {"base_model.model.classifier.bias": torch.arange(6.0)}
    source = save(tmp_path / "a", contents, CONFIG | {"modules_to_save": ["classifier"]}, pickled=True)
    packed = tmp_path / "a.adz"
    adaptzip.compress(source, packed, max_error=0.01)
    adaptzip.export(packed, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (config["peft_type"], config["task_type"]) == ("LORA", "SEQ_CLS")
    assert config["modules_to_save"] == ["classifier"]
    assert "bottleneck_size" not in config
    again = adaptzip.read(tmp_path / "out")
    assert again.meta.dialect == "peft"
    expected = by_hand(trains, 6 / 4)
    error = np.linalg.norm(again.modules["layer.q_proj"].delta().numpy() - expected) / np.linalg.norm(expected)
    assert error <= 0.01


def test_lossless_files_keep_the_factors(tmp_path: Path) -> None:
    source = save(tmp_path / "a", tensors(), pickled=True)
    adaptzip.compress(source, tmp_path / "a.adz", lossless=True)
    before, after = adaptzip.read(source), adaptzip.read(tmp_path / "a.adz")
    assert torch.equal(before.modules["layer.q_proj"].A, after.modules["layer.q_proj"].A)
    assert torch.equal(before.modules["layer.q_proj"].B, after.modules["layer.q_proj"].B)


@pytest.mark.parametrize(
    ("name", "value"),
    [*(("bottleneck_size", value) for value in (0.5, 0, "8", True)),
     *(("lora_alpha", value) for value in (None, "8", True, float("inf")))],
)  # fmt: skip
def test_what_the_configuration_lacks_is_named(tmp_path: Path, name: str, value: object) -> None:
    message = failure(CheckpointError, save(tmp_path / "a", tensors(), CONFIG | {name: value}, pickled=True))
    assert name in message


def test_without_a_configuration_both_are_missing(tmp_path: Path) -> None:
    folder = save(tmp_path / "a", tensors(), None, pickled=True)
    assert "no configuration beside it says lora_alpha" in failure(CheckpointError, folder)
    with pytest.raises(RefusedError, match="its base model is needed to tell the bottleneck of layer.q_proj"):
        adaptzip.read(folder, alpha=6)


def test_loretta_adp_is_refused_by_name(tmp_path: Path) -> None:
    key = "base_model.model.layer.output.adapter_down.layer.tensor.factors.0"
    config = {"peft_type": "BOTTLENECK", "bottleneck_size": 64}
    message = failure(RefusedError, save(tmp_path / "a", {key: torch.ones(1, 4, 1)}, config, pickled=True))
    assert "LoRETTA_adp" in message
    bias = {"base_model.model.layer.output.adapter_up.layer.bias": torch.ones(4)}
    assert "LoRETTA_adp" in failure(RefusedError, save(tmp_path / "b", bias, config, pickled=True))


def head(modes: tuple[int, ...] = (2, 3, 10), seed: int = 5) -> dict[str, torch.Tensor]:
    """A classifier's dense layer as a train of 6 x 10 numbers, with its bias."""
    generator = torch.Generator().manual_seed(seed)
    ranks = (1, *(2 for _ in modes[1:]), 1)
    at = "base_model.model.classifier.dense.layer"
    cores = {f"{at}.tensor.factors.{i}": torch.randn(ranks[i], k, ranks[i + 1], generator=generator)
             for i, k in enumerate(modes)}  # fmt: skip
    return cores | {f"{at}.bias": torch.arange(10.0)}


def test_a_tensorised_classifier_becomes_the_weight_that_it_stands_for(tmp_path: Path) -> None:
    """The layer computes x M + bias, M (in, out) in row-major order."""
    cores = head()
    extras = adaptzip.read(save(tmp_path / "a", tensors() | cores, pickled=True)).extras
    assert extras.keys() == {f"base_model.model.classifier.dense.{name}" for name in ("weight", "bias")}
    first, second, third = (cores[f"base_model.model.classifier.dense.layer.tensor.factors.{i}"] for i in range(3))
    x = torch.randn(5, 6)
    expected = x @ torch.einsum("iar,rbs,scj->abc", first, second, third).reshape(6, 10)
    got = torch.nn.functional.linear(x, extras["base_model.model.classifier.dense.weight"])
    torch.testing.assert_close(got, expected)
    assert torch.equal(extras["base_model.model.classifier.dense.bias"], torch.arange(10.0))


def test_a_tensorised_layer_that_cannot_be_told_is_named(tmp_path: Path) -> None:
    at = "base_model.model.classifier.dense.layer"
    without = {key: tensor for key, tensor in head().items() if not key.endswith("bias")}
    message = failure(RefusedError, save(tmp_path / "a", tensors() | without, pickled=True))
    assert (
        "layer classifier.dense: is a tensorised layer of 60 numbers, whose widths nothing in the file tells" in message
    )
    gap = {key: tensor for key, tensor in head().items() if not key.endswith(".1")}
    assert "the cores [0, 2]" in failure(CheckpointError, save(tmp_path / "a", tensors() | gap, pickled=True))
    nan = head() | {f"{at}.tensor.factors.0": torch.full((1, 2, 2), float("nan"))}
    assert "NaN" in failure(CheckpointError, save(tmp_path / "a", tensors() | nan, pickled=True))


def test_the_bottleneck_is_r_where_it_has_no_name_of_its_own(tmp_path: Path) -> None:
    config = {**{key: value for key, value in CONFIG.items() if key != "bottleneck_size"}, "r": 4}
    module = adaptzip.read(save(tmp_path / "a", tensors(), config, pickled=True)).modules["layer.q_proj"]
    np.testing.assert_allclose(module.delta().numpy(), by_hand(tensors(), 6 / 4), rtol=1e-5, atol=1e-6)
    config = {key: value for key, value in config.items() if key != "r"}
    message = failure(CheckpointError, save(tmp_path / "b", tensors(), config, pickled=True))
    assert "r is missing in adapter_config.json" in message


def test_plain_factors_beside_trains_are_refused(tmp_path: Path) -> None:
    contents = tensors() | {"base_model.model.other.lora_A.weight": torch.ones(4, 6)}
    message = failure(RefusedError, save(tmp_path / "a", contents, pickled=True))
    assert "base_model.model.other.lora_A.weight" in message


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({f"{STEM}.lora_A.layer.tensor.factors.1": torch.ones(3, 3, 2)}, "expected (2, mode, rank)"),
        ({f"{STEM}.lora_A.layer.tensor.factors.1": torch.ones(6)}, "expected (2, mode, rank)"),
        ({f"{STEM}.lora_A.layer.tensor.factors.4": torch.ones(1, 2, 1)}, "without a gap"),
        ({f"{STEM}.lora_A.layer.tensor.factors.2": torch.ones(2, 5, 1)}, "bottleneck_size 4"),
        ({f"{STEM}.lora_A.layer.tensor.factors.2": torch.ones(2, 4, 2)}, "last rank 2"),
        ({f"{STEM}.lora_A.layer.tensor.factors.0": torch.full((1, 2, 2), float("nan"))}, "NaN"),
        ({f"{STEM}.lora_A.layer.tensor.factors.0": torch.ones(1, 2, 2, dtype=torch.int64)}, "real numbers"),
        ({f"{STEM}.lora_A.layer.tensor.factors.0": torch.ones(1, 0, 1)}, "expected (1, mode, rank)"),
    ],
)
def test_malformed_trains_are_named(tmp_path: Path, changed: dict[str, Tensor], said: str) -> None:
    message = failure(CheckpointError, save(tmp_path / "a", tensors() | changed, pickled=True))
    assert said in message
    assert "lora_A" in message


def test_a_module_with_one_factor_is_named(tmp_path: Path) -> None:
    message = failure(CheckpointError, save(tmp_path / "a", cores("A", IN_MODES, 1), pickled=True))
    assert "layer.q_proj" in message
    assert "lora_B" in message


def test_modes_of_astronomic_size_are_refused_at_once(tmp_path: Path) -> None:
    trains = cores("A", (16,) * 30, 1, rank=1) | cores("B", OUT_MODES, 2)
    assert "bottleneck_size" in failure(CheckpointError, save(tmp_path / "a", trains, pickled=True))


def test_plain_peft_adapters_are_still_read_as_such(tmp_path: Path) -> None:
    contents = {f"{STEM}.lora_A.weight": torch.randn(4, 6), f"{STEM}.lora_B.weight": torch.randn(10, 4)}
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 6, "target_modules": ["q_proj"]}
    assert adaptzip.read(save(tmp_path / "a", contents, config, pickled=False)).meta.dialect == "peft"


def test_writing_points_to_peft(tmp_path: Path) -> None:
    adapter = adaptzip.read(save(tmp_path / "a", tensors(), pickled=True))
    with pytest.raises(RefusedError) as error:
        adaptzip.export(adapter, tmp_path / "out", as_="loretta")
    assert "peft" in str(error.value.hint)
    assert not dialect("loretta").files.owns("adapter_model.bin")


def bert_adapter(bias: str) -> dict[str, Tensor]:
    """Cores on a layer's query, and its trained bias under the plain key, as LoRETTA saves it."""
    stem = "base_model.model.bert.encoder.layer.0.attention.self.query"
    found = cores("A", (4, 4, 4), 1, stem) | cores("B", (4, 4, 4), 2, stem) | {f"{stem}.bias": torch.full((16,), 7.0)}
    norm = "base_model.model.bert.encoder.layer.0.attention.output.LayerNorm.bias"
    return found | ({norm: torch.full((16,), 3.0)} if bias == "all" else {})


@pytest.mark.parametrize("bias", ["lora_only", "all", "none"])
@pytest.mark.parametrize("compressed", [False, True])
def test_trained_biases_are_merged_and_exported_so_that_peft_applies_them(
    bias: str, compressed: bool, tmp_path: Path
) -> None:
    bert().save_pretrained(tmp_path / "base")
    source = save(tmp_path / "source", bert_adapter(bias), CONFIG | {"bias": bias}, pickled=True)
    if compressed:
        adaptzip.compress(source, tmp_path / "x.adz", lossless=True)
        source = tmp_path / "x.adz"
    adaptzip.merge(source, tmp_path / "base", tmp_path / "merged")
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    self_ = "bert.encoder.layer.0.attention.self"
    assert torch.equal(merged[f"{self_}.query.bias"], torch.full((16,), 7.0))
    adaptzip.export(source, tmp_path / "peft")
    config = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    assert config["bias"] == ("all" if bias == "all" else "lora_only")
    by_peft = merged_by_peft(bert(), tmp_path / "peft", allow=("Found missing adapter keys",))
    assert by_peft.keys() == merged.keys()
    for name, tensor in by_peft.items():
        assert torch.equal(tensor, merged[name]), name
