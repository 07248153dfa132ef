"""The start of a model in memory, recorded beside its run and read again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import Trainer, TrainingArguments

import adaptzip
from adaptzip.bases.starts.files import NOTE, TENSORS, write_start
from adaptzip.bases.starts.finding import find_start, measured, start_at
from adaptzip.bases.starts.found import FoundStart, KeptStart
from adaptzip.bases.starts.generators import Place
from adaptzip.bases.starts.recording import record_start
from adaptzip.core.adapter import LoraFactors
from adaptzip.core.frames import frame, whole_rows
from adaptzip.errors import AdaptzipWarning, FormatError, OutputError, RefusedError, UsageError
from tests.bases.starts.made import adapted, check_exact, first_values, tiny_llama, trained

read_start = adaptzip.read_start


@pytest.fixture(autouse=True)
def fewer_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """The streams are short here."""
    monkeypatch.setattr("adaptzip.bases.starts.recording._DRAWS", 1 << 18)
    monkeypatch.setattr("adaptzip.bases.starts.recording.POPULAR", (42, 0))


def model(seed: int = 42, **options: Any) -> nn.Module:
    return adapted(tiny_llama, LoraConfig(**{"r": 8, "target_modules": ["q_proj", "up_proj"], **options}), seed)


def drawn_elsewhere() -> nn.Module:
    """A model whose A no seed of torch's CPU generator gives, as if a GPU had drawn them."""
    made = model()
    generator = torch.Generator().manual_seed(2**40 + 99)
    with torch.no_grad():
        for key, A in made.named_parameters():
            if "lora_A" in key:
                A.copy_(torch.rand(A.shape, generator=generator).flip(0) - 0.5)
    return made


@pytest.mark.parametrize("options", [{}, {"init_lora_weights": "gaussian"}, {"rank_pattern": {"q_proj": 4}}])
def test_a_new_adapter_is_told_by_its_seed(tmp_path: Path, options: dict[str, Any]) -> None:
    made = model(20_261_128, **options)
    start = record_start(made, tmp_path / "run")
    assert isinstance(start, FoundStart)
    assert start.seed == 20_261_128
    first = first_values(made)
    assert start.places.keys() == first.keys()
    check_exact(start, first)
    assert read_start(tmp_path / "run") == read_start(tmp_path / "run" / NOTE) == start
    assert [one.name for one in (tmp_path / "run").iterdir()] == [NOTE]


def test_names_are_those_that_adaptzip_reads(tmp_path: Path) -> None:
    made: Any = model()
    start = record_start(made)
    made.save_pretrained(tmp_path)
    (tmp_path / "adapter_config.json").write_text(
        (tmp_path / "adapter_config.json").read_text().replace('"base_model_name_or_path": ""', '"x": 1')
    )
    assert isinstance(start, FoundStart)
    assert start.places.keys() == adaptzip.read(tmp_path).modules.keys()


def test_half_precision_is_told_by_its_seed() -> None:
    start = record_start(model(7).to(torch.bfloat16))
    assert isinstance(start, FoundStart)
    assert start.seed == 7


def test_the_numbers_are_kept_where_no_seed_gives_them(tmp_path: Path) -> None:
    made = drawn_elsewhere()
    start = record_start(made, tmp_path)
    assert isinstance(start, KeptStart)
    found = read_start(tmp_path)
    assert isinstance(found, KeptStart)
    first = first_values(made)
    assert found.A.keys() == first.keys()
    for name, A in found.A.items():
        assert A.dtype == torch.float16
        assert torch.equal(A, first[name].A.half())
        V = frame(whole_rows(A))
        assert torch.linalg.norm(first[name].A - first[name].A @ V @ V.T) < 1e-3 * torch.linalg.norm(first[name].A)


def test_numbers_that_half_precision_would_lose_are_kept_whole() -> None:
    made = drawn_elsewhere()
    with torch.no_grad():
        for key, A in made.named_parameters():
            if "lora_A" in key:
                A[1] *= 1e-5
    start = record_start(made)
    assert isinstance(start, KeptStart)
    assert {A.dtype for A in start.A.values()} == {torch.float32}


def test_a_trained_adapter_is_refused() -> None:
    made = drawn_elsewhere()
    with torch.no_grad():
        for key, B in made.named_parameters():
            if "lora_B" in key:
                B.fill_(0.1)
    with pytest.raises(RefusedError, match="the B of module .* is not zero"):
        record_start(made)


def test_models_without_an_adapter_or_with_several_are_refused() -> None:
    with pytest.raises(UsageError, match="no adapter with lora_A"):
        record_start(tiny_llama())
    made: Any = model()
    torch.manual_seed(5)
    made.add_adapter("other", LoraConfig(r=4, target_modules=["v_proj"]))
    with pytest.raises(UsageError, match="the adapters default, other"):
        record_start(made)
    with pytest.raises(UsageError, match="no adapter 'third'"):
        record_start(made, adapter="third")
    start = record_start(made, adapter="other")
    assert isinstance(start, FoundStart)
    assert start.seed == 5
    assert all("v_proj" in name for name in start.places)


def test_models_on_the_meta_device_are_refused() -> None:
    with pytest.raises(RefusedError, match="is not in this process"):
        record_start(model().to("meta"))


def test_plain_parameters_are_recorded_too() -> None:
    layer = nn.Linear(64, 32)
    torch.manual_seed(123)
    layer.lora_A, layer.lora_B = nn.Parameter(torch.empty(8, 64)), nn.Parameter(torch.zeros(32, 8))
    nn.init.kaiming_uniform_(layer.lora_A, a=5**0.5)
    start = record_start(nn.ModuleDict({"attention": layer}))
    assert isinstance(start, FoundStart)
    assert start.places == {"attention": Place(0, 8, 64)}


def test_nothing_is_replaced_unless_asked_for(tmp_path: Path) -> None:
    record_start(model(1), tmp_path)
    with pytest.raises(OutputError, match="exists"):
        record_start(model(2), tmp_path)
    assert read_start(tmp_path).seed == 1  # type: ignore[union-attr]
    record_start(model(2), tmp_path, force=True)
    assert read_start(tmp_path).seed == 2  # type: ignore[union-attr]


GOOD = {"format": 1, "generator": "uniform", "seed": 1, "modules": {"a": [0, 2, 8]}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "1"}, "has no format version"),
        ({"generator": "philox"}, "generator 'philox', expected one of"),
        ({"seed": 2**64}, "seed is 18446744073709551616"),
        ({"seed": 1.5}, "is malformed"),
        ({"seed": True}, "is malformed"),
        ({"extra": 1}, "is malformed"),
        ({"modules": {"a": [0, 2]}}, "module a has"),
        ({"modules": {"a": [0, 2, True]}}, "module a has"),
        ({"modules": {"a": [2**40, 2, 8]}}, "module a starts at number 1099511627776"),
        ({"modules": {"a": [0, 9, 8]}}, "which makes no frame"),
    ],
)
def test_notes_that_are_wrong_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    (tmp_path / NOTE).write_text(json.dumps(GOOD))
    assert read_start(tmp_path) == FoundStart("uniform", 1, {"a": Place(0, 2, 8)}, {"a": 1.0})
    (tmp_path / NOTE).write_text(json.dumps(GOOD | change))
    with pytest.raises(FormatError, match=message) as caught:
        read_start(tmp_path)
    assert NOTE in str(caught.value)


def test_notes_of_newer_versions_and_missing_ones_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="cannot be read"):
        read_start(tmp_path)
    (tmp_path / NOTE).write_text(json.dumps(GOOD | {"format": 2}))
    with pytest.raises(RefusedError, match="format 2 is not 1"):
        read_start(tmp_path)


@pytest.mark.parametrize("A", [torch.full((2, 8), torch.nan), torch.ones(8), torch.ones(2, 8, dtype=torch.int32)])
def test_kept_numbers_that_make_no_frame_are_refused(tmp_path: Path, A: torch.Tensor) -> None:
    write_start(KeptStart({"a": A}), tmp_path)
    with pytest.raises(FormatError, match=rf"{TENSORS}: module a"):
        read_start(tmp_path)


def test_kept_numbers_that_are_missing_are_refused(tmp_path: Path) -> None:
    (tmp_path / NOTE).write_text(json.dumps({"format": 1, "tensors": TENSORS}))
    with pytest.raises(FormatError, match=f"{TENSORS}: cannot be read"):
        read_start(tmp_path)


def test_a_record_is_measured_against_what_training_made() -> None:
    made = model()
    start = record_start(made)
    assert isinstance(start, FoundStart)
    modules = trained(first_values(made))
    name = min(modules)
    modules[name] = LoraFactors(torch.randn(8, 64, generator=torch.Generator().manual_seed(1)), modules[name].B)
    found = measured(modules, start.generator, start.seed, start.places)
    assert found is not None
    assert found == find_start(modules)
    assert found.places.keys() == modules.keys() - {name}
    assert measured({name: modules[name]}, "uniform", 42, {name: start.places[name]}) is None


@pytest.mark.parametrize("init", [True, "gaussian"])
def test_the_others_follow_from_one_place_that_is_known(init: object) -> None:
    base = tiny_llama()
    torch.manual_seed(99)
    torch.rand(3_000_000)
    config = LoraConfig(r=8, init_lora_weights=init, target_modules=["v_proj"])
    first = first_values(get_peft_model(base, config))
    modules = trained(first)
    offset = 3_000_000 + 8 * 64 + 8 * 32
    found = start_at(modules, 99, offset)
    assert found is not None
    assert found.places.keys() == modules.keys()
    check_exact(found, first)
    assert start_at(modules, 99, offset + 1) is None
    assert start_at(modules, 98, offset) is None
    assert start_at({}, 99, offset) is None


class Words(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, k: int) -> dict[str, torch.Tensor]:
        tokens = torch.arange(k, k + 6)
        return {"input_ids": tokens, "labels": tokens}


def train(made: nn.Module, folder: Path, **options: Any) -> None:
    arguments = TrainingArguments(
        output_dir=str(folder), max_steps=2, save_steps=1, report_to=[], use_cpu=True, disable_tqdm=True, **options
    )
    Trainer(made, arguments, train_dataset=Words(), callbacks=[adaptzip.start_callback()]).train()


def test_the_callback_records_and_copies_into_checkpoints(tmp_path: Path) -> None:
    made = model(31337)
    first = first_values(made)
    train(made, tmp_path, learning_rate=0.01)
    start = read_start(tmp_path)
    assert isinstance(start, FoundStart)
    assert start.seed == 31337
    check_exact(start, first)
    for step in (1, 2):
        assert read_start(tmp_path / f"checkpoint-{step}") == start
        assert (tmp_path / f"checkpoint-{step}" / "adapter_model.safetensors").is_file()
    modules = first_values(made)
    assert any(not np.array_equal(modules[name].A, first[name].A) for name in first)


def test_the_callback_warns_of_what_it_cannot_record(tmp_path: Path) -> None:
    with pytest.warns(AdaptzipWarning, match="the start of the adapter is not recorded: the model has no adapter"):
        train(tiny_llama(), tmp_path)
    assert not (tmp_path / NOTE).exists()
