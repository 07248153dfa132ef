"""The whole of calibration, and what methods make of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from math import log2
from pathlib import Path

import pytest
import torch

import adaptzip
from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.core.budget import Budget
from adaptzip.core.comparing import weighted_error
from adaptzip.core.sensitivity import Sensitivity, root
from adaptzip.errors import AdaptzipWarning, CheckFailedError, CheckpointError, UsageError
from adaptzip.fitting.calibration import calibrate
from adaptzip.fitting.calibration.choosing import EQUAL, _distances, attribute, attributed_weights, choose_estimate
from adaptzip.fitting.calibration.coarse import coordinates, copy_of_error, copy_of_size
from adaptzip.fitting.calibration.moments import collect_moments
from adaptzip.fitting.loading import load_source
from adaptzip.fitting.measuring import calibrated_error as told_error
from adaptzip.fitting.requests import Request, prepare_job
from adaptzip.fitting.running import run
from adaptzip.models.live.running import load_teacher
from adaptzip.models.texts.examples import read_examples
from adaptzip.restoring.reconstruction import reconstruct
from adaptzip.testing.adapters import adapter as small
from adaptzip.testing.adapters import relative_error
from tests.cases import tiny_peft
from tests.cases.models_on_disk import TEXTS, adapter, save


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return save(tiny_peft.llama, tmp_path / "base")


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(TEXTS))
    return path


@pytest.mark.parametrize("use", ["inputs", "gradients", "both"])
def test_what_comes_of_it(use: str, base: Path, texts: Path) -> None:
    lora = adapter(tiny_peft.llama(), "q_proj", "v_proj", "down_proj")
    found = calibrate(base, lora, texts, use=use)  # type: ignore[arg-type]
    assert found.texts == len(TEXTS)
    assert found.tokens == sum(len(text.split()) for text in TEXTS)
    assert found.distances[found.estimate] <= found.distances[EQUAL] == 1.0
    assert ("inputs" in found.distances) == (use != "gradients")
    assert ("attributed" in found.distances) == (use != "inputs")
    assert ("Fisher" in found.distances) == (use == "gradients")
    assert ("Fisher, moments" in found.distances) == (use == "both")
    assert bool(found.importance) == (use != "inputs")
    assert (found.estimate == EQUAL) == (not found.sensitivities)
    again = calibrate(base, lora, texts, use=use)  # type: ignore[arg-type]
    assert again.estimate == found.estimate
    assert again.importance == found.importance


def test_texts_that_are_left_out_are_told_and_not_counted(base: Path, tmp_path: Path) -> None:
    lora = adapter(tiny_peft.llama(), "v_proj")
    path = tmp_path / "texts.jsonl"
    rows = [{"prompt": "a b", "completion": " c d"}] * 3 + [{"prompt": "a b " * 9, "completion": " c"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.warns(AdaptzipWarning, match="1 of 4 texts have no token that counts within 16"):
        assert calibrate(base, lora, path, use="inputs", max_tokens=16).texts == 3
    with pytest.warns(AdaptzipWarning, match="1 of 4 texts have no token"):
        collect_moments(base, lora, read_examples(path), max_tokens=16)
    path.write_text(json.dumps(rows[-1]) + "\n")
    with pytest.raises(CheckFailedError, match="^no completion begins within 16 tokens$") as caught:
        calibrate(base, lora, path, max_tokens=16)
    assert caught.value.hint == "give texts with shorter prompts"


def test_the_error_that_is_limited_is_the_one_that_is_told(base: Path, texts: Path) -> None:
    lora = adapter(tiny_peft.llama(), "q_proj", "v_proj", "down_proj", rank=4, strength=1.0)
    request = Request(max_error=0.4, base=base, calibration=texts, device="cpu")
    source = load_source(lora, request)
    made = run(prepare_job(source, request))
    weights = [sensitivity.weight for sensitivity in source.sensitivities.values()]
    assert len(set(weights)) > 1
    # Weights are squares of gains, which are powers of 2^(1/4).
    assert all(2 * log2(weight) == pytest.approx(round(2 * log2(weight)), abs=1e-5) for weight in weights)
    told = told_error(source, made.compressed, request)
    assert told == pytest.approx(made.error, rel=1e-4)
    assert told is not None
    assert told <= 0.4


def test_the_model_is_left_as_it_was(base: Path) -> None:
    lora = adapter(tiny_peft.llama(), "v_proj")
    loaded = load_teacher(base, lora, torch.device("cpu"))
    before = {name: layer.weight.clone() for name, layer in loaded.layers.items()}
    batches = loaded.batches(TEXTS, 4, 64)
    attribute(loaded, lora, batches)
    choose_estimate(loaded, lora, {"x": {name: Sensitivity(2.0) for name in lora.modules}}, batches)
    assert all(torch.equal(layer.weight, before[name]) for name, layer in loaded.layers.items())


def test_a_copys_distance_is_shared_out_in_full(base: Path) -> None:
    """Along the way from the adapter to the copy, by the middles of its two halves."""
    lora = adapter(tiny_peft.llama(), "v_proj", "down_proj", strength=1.0, rank=4)
    loaded = load_teacher(base, lora, torch.device("cpu"))
    batches = loaded.batches(TEXTS, 4, 64)
    plain = {name: coordinates(module, Sensitivity()) for name, module in lora.modules.items()}
    copies = {("copy", place): copy_of_error(lora.modules, plain, e)[0] for place, e in enumerate((0.25, 0.5))}
    distances = _distances(loaded, lora, copies, batches)
    for place, attribution in enumerate(attribute(loaded, lora, batches)):
        assert sum(attribution.shares.values()) / 2 == pytest.approx(distances["copy", place], rel=0.1)


def test_the_estimate_that_spares_what_matters_is_chosen(base: Path) -> None:
    lora = adapter(tiny_peft.llama(), "v_proj", "q_proj", strength=1.0, rank=4)
    loaded = load_teacher(base, lora, torch.device("cpu"))
    batches = loaded.batches(TEXTS, 4, 64)

    def weights(value: float, query: float) -> dict[str, Sensitivity]:
        return {name: Sensitivity(value if "v_proj" in name else query) for name in lora.modules}

    choice = choose_estimate(loaded, lora, {"values": weights(1.9, 0.1), "queries": weights(0.1, 1.9)}, batches)
    assert choice.name == "values"
    assert choice.distances["values"] < 1.0 < choice.distances["queries"]
    shares = attributed_weights(attribute(loaded, lora, batches), {})
    value, query = (sum(w for name, w in shares.items() if end in name) for end in ("v_proj", "q_proj"))
    assert value > 2 * query


def test_coarse_copies_keep_to_their_limits() -> None:
    lora = small([(40, 30, 5), (20, 50, 4)])
    found = {name: coordinates(module, Sensitivity(0.5)) for name, module in lora.modules.items()}
    for error in (0.2, 0.5):
        copy, bits = copy_of_error(lora.modules, found, error)
        made = Adapter({name: LoraFactors(A, B) for name, (B, A) in copy.items()})
        assert 0.6 * error < relative_error(lora, made) <= error
        again = Adapter({name: LoraFactors(A, B) for name, (B, A) in copy_of_size(found, bits).items()})
        assert relative_error(lora, again) == pytest.approx(relative_error(lora, made), rel=0.1)


def compressed(lora: Adapter, size: int, sensitivities: Mapping[str, Sensitivity]) -> adaptzip.Compressed:
    request = Request(budget=Budget.parse(f"{size}B"), device="cpu")
    source = replace(load_source(lora, request), sensitivities=sensitivities)
    return run(prepare_job(source, request)).compressed


def uneven(width: int, seed: int) -> torch.Tensor:
    """Moments whose eigenvalues fall over three decades, in random directions."""
    basis, _ = torch.linalg.qr(torch.randn(width, width, generator=torch.Generator().manual_seed(seed)))
    values = torch.logspace(0, -3, width)
    found: torch.Tensor = (basis * values) @ basis.T * (width / values.sum())
    return found


def test_moments_lower_the_weighted_error_at_equal_bytes() -> None:
    lora = small([(96, 80, 8), (64, 96, 8)])
    # Every other component reads quiet inputs alone, the others loud ones.
    for module in lora.modules.values():
        module.A[::2, : module.A.shape[1] // 2] = 0
        module.A[1::2, module.A.shape[1] // 2 :] = 0
    weights = {}
    for name, module in lora.modules.items():
        loud = torch.where(torch.arange(module.shape[1]) < module.shape[1] // 2, 1.98, 0.02)
        weights[name] = Sensitivity(1.0, torch.diag(loud))
    plain, weighted = (reconstruct(compressed(lora, 1000, s)) for s in ({}, weights))
    assert weighted_error(lora, weighted, weights) < 0.7 * weighted_error(lora, plain, weights)
    assert relative_error(lora, weighted) > relative_error(lora, plain)


def test_the_error_that_is_minimised_is_the_weighted_one() -> None:
    lora = small([(96, 80, 8)])
    weights = {"m.0": Sensitivity(1.0, uneven(80, 0))}
    request = Request(budget=Budget.parse("1200B"), device="cpu")
    made = run(prepare_job(replace(load_source(lora, request), sensitivities=weights), request))
    after = reconstruct(made.compressed)
    assert made.error == pytest.approx(weighted_error(lora, after, weights), rel=1e-4)
    assert made.compressed.provenance.relative_error == pytest.approx(relative_error(lora, after), rel=1e-4)


def test_even_moments_change_nothing_much() -> None:
    lora = small([(96, 80, 8)])
    even = {"m.0": Sensitivity(1.0, torch.eye(80))}
    plain, weighted = (reconstruct(compressed(lora, 1200, s)) for s in ({}, even))
    assert relative_error(lora, weighted) == pytest.approx(relative_error(lora, plain), rel=0.02)


def test_unseen_directions_do_not_run_away() -> None:
    lora = small([(48, 40, 6)])
    blind = torch.diag(torch.tensor([2.0] * 20 + [0.0] * 20))
    after = reconstruct(compressed(lora, 900, {"m.0": Sensitivity(1.0, blind)}))
    assert relative_error(lora, after) < 1.1


def test_weights_move_bytes_between_modules() -> None:
    lora = small([(96, 80, 8), (96, 80, 8)], seed=3)
    weights = {"m.0": Sensitivity(1.9), "m.1": Sensitivity(0.1)}
    after = reconstruct(compressed(lora, 1500, weights))
    first, second = (relative_error(Adapter({n: lora.modules[n]}), after) for n in ("m.0", "m.1"))
    assert first < 0.6 * second


def test_the_root_of_moments() -> None:
    moments = uneven(30, 0)
    torch.testing.assert_close(root(moments) @ root(moments), moments, rtol=1e-3, atol=1e-4)


@pytest.mark.filterwarnings("ignore:the file takes:adaptzip.errors.AdaptzipWarning")
def test_compress_takes_a_base_and_texts(base: Path, texts: Path, tmp_path: Path) -> None:
    lora = adapter(tiny_peft.llama(), "q_proj", "v_proj", "down_proj", rank=8)
    found = calibrate(base, lora, texts)
    made = adaptzip.compress(lora, budget="1600B", base=base, calibration=texts, device="cpu")
    assert made.chunks == compressed(lora, 1600, found.sensitivities).chunks
    if found.sensitivities:
        assert made.chunks != adaptzip.compress(lora, budget="1600B", device="cpu").chunks


def test_bad_requests(base: Path, tmp_path: Path, texts: Path) -> None:
    lora = adapter(tiny_peft.llama(), "q_proj")
    with pytest.raises(UsageError, match="calibration use 'all' is unknown"):
        calibrate(base, lora, texts, use="all")  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match="does not exist"):
        calibrate(base, lora, tmp_path / "missing.jsonl")
