"""Seeds that nobody would guess, found by trying them all."""

from __future__ import annotations

from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig

import adaptzip
from adaptzip.bases.starts.finding import find_start
from adaptzip.bases.starts.hypotheses import Hypothesis, drawn_before, predicted
from adaptzip.bases.starts.parities import parities
from adaptzip.bases.starts.scanning import Scan, scan_with_torch, scanner
from adaptzip.bases.starts.searching import search_start
from adaptzip.core.mersenne import Mersenne, seeded_state
from adaptzip.errors import RefusedError, UsageError
from tests.bases.starts.made import Modules, adapted, check_exact, first_values, tiny_llama, trained

SEED = 3_141_592_653
HAS_NUMBA = find_spec("numba") is not None
ROOT = Path(__file__).parents[3]

by_torch: Scan = partial(scan_with_torch, device=torch.device("cpu"))


def first(init: object = True) -> Modules:
    config = LoraConfig(r=8, target_modules=["q_proj", "up_proj"], init_lora_weights=init)
    return first_values(adapted(tiny_llama, config, SEED))


@pytest.mark.parametrize("place", [0, 200, 700, 5000])
@pytest.mark.parametrize("seed", [0, 12345, 2**32 - 1])
def test_bits_of_outputs_are_parities_of_the_seeded_state(place: int, seed: int) -> None:
    rng = np.random.default_rng(place)
    outputs = (place + rng.integers(0, 1300, 40)).tolist()
    masks = rng.integers(0, 2**32, 40).tolist()
    raw = Mersenne(seed).draw(max(outputs) + 1)
    expected = [int(np.bitwise_count(raw[k] & np.uint32(mask))) & 1 for k, mask in zip(outputs, masks, strict=True)]
    found = np.bitwise_count(parities(outputs, masks) & seeded_state(seed)).sum(axis=1) & 1
    assert found.tolist() == expected


def scores_one_by_one(seeds: Any, rows: Any, expected: Any) -> Any:
    states = np.stack([seeded_state(int(seed)) for seed in seeds])
    bits = np.bitwise_count(states[:, None, None] & rows[None]).sum(axis=3) & 1
    return (bits == expected[None]).sum(axis=2)


def scans() -> list[Any]:
    compiled = pytest.mark.skipif(not HAS_NUMBA, reason="numba is not installed")
    return [pytest.param("torch"), pytest.param("numba", marks=compiled)]


@pytest.mark.parametrize("kind", scans())
def test_scores_are_those_of_single_seeds(kind: str) -> None:
    scan = by_torch if kind == "torch" else scanner(torch.device("cpu"))
    rng = np.random.default_rng(1)
    seeds = np.concatenate([rng.integers(0, 2**32, 97), [0, 1, 2**31, 2**32 - 1]]).astype(np.uint32)
    rows = rng.integers(0, 2**32, (3, 8, 624)).astype(np.uint32)
    expected = rng.integers(0, 2, (3, 8))
    assert np.array_equal(scan(seeds, rows, expected), scores_one_by_one(seeds, rows, expected))
    assert scan(seeds[:0], rows, expected).shape == (0, 3)


@pytest.mark.parametrize("init", [True, "gaussian"])
def test_the_seed_is_found_where_the_recipe_puts_the_first_module(init: object) -> None:
    began = first(init)
    modules = trained(began)
    assert find_start(modules) is None
    hypotheses = predicted(modules)
    assert ("uniform" if init is True else "normal") in {one.generator for one in hypotheses}
    found = search_start(modules, hypotheses, SEED - 3000, SEED + 3000, scan=by_torch)
    assert found is not None
    assert found.seed == SEED
    assert found.places.keys() == modules.keys()
    check_exact(found, began)


def test_numbers_that_were_drawn_before_are_part_of_a_hypothesis() -> None:
    modules = trained(first())
    offset = {one.offset for one in predicted(modules)}
    assert {one.offset for one in predicted(modules, before=[100, 7000])} == {
        o + b for o in offset for b in (100, 7000)
    }
    assert search_start(modules, predicted(modules, before=[1]), SEED - 50, SEED + 50, scan=by_torch) is None


@pytest.mark.parametrize("name", ["lists-minilm-r16", "langid-minilm-r16"])
def test_heads_that_were_drawn_before_are_told_by_the_adapter(name: str) -> None:
    adapter = adaptzip.read(ROOT / "fixtures" / name)
    found = find_start(adapter.modules)
    assert found is not None
    module = min(found.places, key=lambda module: found.places[module].offset)
    hypotheses = predicted(adapter.modules, drawn_before(adapter.extras))
    assert found.places[module].offset in {one.offset for one in hypotheses if one.generator == "uniform"}


def test_a_search_that_was_stopped_goes_on_after_its_last_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adaptzip.bases.starts.searching.PART", 256)
    modules, note = trained(first()), tmp_path / "search"
    low, high = SEED - SEED % 256 - 512, SEED + 1000
    told: list[int] = []

    def stop(done: int) -> None:
        told.append(done)
        if len(told) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search_start(modules, predicted(modules), low, high, progress=stop, note=note, scan=by_torch)
    assert told == [256, 512]
    tried: list[int] = []

    def watched(seeds: Any, rows: Any, expected: Any) -> Any:
        tried.extend(seeds.tolist())
        return by_torch(seeds, rows, expected)

    found = search_start(modules, predicted(modules), low, high, note=note, scan=watched)
    assert found is not None
    assert found.seed == SEED
    assert min(tried) == low + 512
    tried.clear()
    assert search_start(modules, predicted(modules), low, high, note=note, scan=watched) == found
    assert not tried
    others = [Hypothesis(one.module, one.generator, one.offset + 1) for one in predicted(modules)]
    assert search_start(modules, others, low, low + 256, note=note, scan=watched) is None
    assert min(tried) == low


def test_what_cannot_be_searched_is_refused() -> None:
    modules = trained(first())
    with pytest.raises(UsageError, match="module x can have no start"):
        search_start(modules, [Hypothesis("x", "uniform", 0)], scan=by_torch)
    with pytest.raises(UsageError, match="seeds 5 to 4294967297 were asked for"):
        search_start(modules, [], 5, 2**32 + 1, scan=by_torch)
    assert search_start(modules, [], 0, 10, scan=by_torch) is None


def test_the_processor_needs_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adaptzip.bases.starts.scanning.find_spec", lambda _: None)
    modules = trained(first())
    with pytest.raises(RefusedError, match="numba"):
        search_start(modules, predicted(modules), 0, 10)


@pytest.mark.skipif(not HAS_NUMBA, reason="numba is not installed")
def test_half_a_million_seeds_are_tried_by_the_compiled_loop() -> None:
    adapter = adaptzip.read(ROOT / "fixtures" / "lists-minilm-r16")
    found = search_start(adapter.modules, predicted(adapter.modules, drawn_before(adapter.extras)), 0, 1 << 17)
    assert found is not None
    assert (found.seed, len(found.places)) == (0, 36)
    shifted = trained(first())
    found = search_start(shifted, predicted(shifted), SEED - (1 << 18), SEED + (1 << 18))
    assert found is not None
    assert found.seed == SEED
