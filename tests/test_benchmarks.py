"""The benchmarks: the bound against hand computation, and every program on a small adapter."""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import replace
from math import log2, sqrt
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import adaptzip
from adaptzip.bases.updates import build_basis
from adaptzip.core.comparing import same_bits
from adaptzip.core.projection import captured_energy
from adaptzip.reports.bounds import Components, allot, components, least_bytes, price_at, spend
from benchmarks import directions, page, quantiser, rate_distortion, shared_frames, storage
from benchmarks.contexts import CONTEXTS, saving
from benchmarks.peers import ours
from benchmarks.real_adapters import find
from benchmarks.research_quantiser import PARITY_CHECKS, Quantiser, fit_family, quantise
from benchmarks.shared_vectors import Config, Named, Shared, places, signs, spread

PROGRAMS = (
    "banks",
    "bases",
    "bound",
    "by_hand",
    "calibration",
    "directions",
    "extract",
    "fleet.compare",
    "fleet.growth",
    "fleet.kills",
    "fleet.shares",
    "fleet.synthetic",
    "fleet.train",
    "fleet.workers",
    "hot_swaps",
    "many",
    "merge",
    "methods",
    "peers.__main__",
    "pattern_engines",
    "quantiser",
    "rate_distortion",
    "serving_vllm",
    "shaped_adapter",
    "shared_bank",
    "shared_frames",
    "smollm2",
    "speed",
    "starts",
    "students",
    "trains",
    "work_check",
)


def parts(*rows: tuple[float, int, int]) -> Components:
    energy, out, width = np.array(rows, dtype=np.float64).T
    return Components(energy, out, width)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PEFT folder of two modules with falling spectra, and a head."""
    folder = tmp_path_factory.mktemp("adapters") / "tiny"
    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, (out, width) in {"q_proj": (96, 64), "v_proj": (64, 64)}.items():
        prefix = f"base_model.model.layers.0.{name}"
        fall = torch.tensor([4.0, 2.0, 1.0, 0.5])
        tensors[f"{prefix}.lora_A.weight"] = torch.randn(4, width, generator=generator)
        tensors[f"{prefix}.lora_B.weight"] = torch.randn(out, 4, generator=generator) * fall
    tensors["base_model.model.classifier.weight"] = torch.randn(3, 64, generator=generator)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(config | {"modules_to_save": ["classifier"]}))
    return folder


def test_bound_of_one_square_component() -> None:
    # By symmetry Du = Dv = D with (1 - D)^2 = 1 - e^2, at 1000 * log2(1 / D) bits.
    distortion = 1 - sqrt(1 - 0.2**2)
    assert least_bytes(parts((7.0, 1000, 1000)), 0.2) == pytest.approx(1000 * log2(1 / distortion) / 8, rel=1e-6)


def test_bound_of_one_long_component_is_the_best_of_all_splits() -> None:
    u = np.linspace(1e-4, 0.0399, 200_000)
    v = 1 - (1 - 0.2**2) / (1 - u)
    bits = -(3000 * np.log2(u) + 500 * np.log2(v)) / 2
    assert least_bytes(parts((1.0, 3000, 500)), 0.2) == pytest.approx(bits.min() / 8, rel=1e-6)


def test_bound_fills_water_over_components() -> None:
    two = parts((1.0, 400, 400), (0.25, 400, 400))
    bits, error = allot(two, price_at(two, 0.01))
    assert error[0] == pytest.approx(error[1], rel=1e-3)
    assert bits[0] - bits[1] == pytest.approx(400 * log2(4), rel=1e-3)


@pytest.mark.parametrize("outside", [0.002, 0.3, 1.0])
@pytest.mark.parametrize(("out", "width", "frame"), [(300, 500, 8), (900, 200, 64), (100, 100, 100)])
@pytest.mark.parametrize("price", [3000.0, 3e5])
def test_bound_with_known_directions_is_the_best_of_all_splits(
    outside: float, out: int, width: int, frame: int, price: float
) -> None:
    known = replace(parts((1.0, out, width)), frame=np.array([float(frame)]), outside=np.array([outside]))
    u = np.exp(np.linspace(np.log(1e-6), 0, 700))[:, None]
    parts_of_v = [(outside, width)] + ([(1 - outside, frame)] if outside < 1 else [])
    level = np.exp(np.linspace(np.log(1e-9), 0, 700))[None]
    v = sum(np.minimum(share, count * level) for share, count in parts_of_v)
    bits = sum(count / 2 * np.log2(np.maximum(share / (count * level), 1)) for share, count in parts_of_v)
    cost = bits - out / 2 * np.log2(u) + price * (1 - (1 - u) * (1 - v))
    spent, error = spend(known, price)
    least = min(cost.min(), price)
    assert least + 1e-9 >= spent + price * error >= least * (1 - 5e-3)


def test_bound_with_known_directions_is_the_plain_one_where_they_tell_nothing() -> None:
    plain = parts(*((1 / k**2, 300 + k, 200) for k in range(1, 30)))
    known = replace(plain, frame=np.full(29, 8.0), outside=np.ones(29))
    assert least_bytes(known, 0.2) == pytest.approx(least_bytes(plain, 0.2), rel=1e-9)
    assert least_bytes(replace(known, outside=np.full(29, 0.1)), 0.2) < 0.8 * least_bytes(plain, 0.2)
    assert least_bytes(replace(known, outside=np.full(29, 0.1)).unknown, 0.2) == least_bytes(plain, 0.2)


def test_bound_drops_what_is_not_worth_its_bits() -> None:
    two = parts((1.0, 400, 400), (0.01, 400, 400))
    bits, error = allot(two, price_at(two, 0.2))
    assert bits[1] == 0
    assert error[1] == 0.01
    assert error.sum() == pytest.approx(0.04 * 1.01, rel=1e-9)


def test_bound_meets_the_error_and_spends_more_for_less() -> None:
    many = parts(*((1 / k**2, 300 + k, 200) for k in range(1, 30)))
    sizes = [least_bytes(many, error) for error in (0.5, 0.3, 0.1)]
    assert sizes == sorted(sizes)
    for error in (0.5, 0.3, 0.1):
        assert spend(many, price_at(many, error))[1] <= error**2 * many.energy.sum() * (1 + 1e-9)


def test_components_are_those_of_the_update(adapter: Path) -> None:
    loaded = adaptzip.read(adapter)
    found = components(loaded)
    squares = sum(float(m.delta().double().square().sum()) for m in loaded.modules.values())
    assert len(found.energy) == 8
    assert found.energy.sum() == pytest.approx(squares, rel=1e-5)
    assert set(found.out.tolist()) == {96, 64}


def test_files_against_the_bound(
    adapter: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rate_distortion, "ERRORS", (0.3,))
    code = rate_distortion.main([str(adapter.parent), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert [row["asked"] for row in found["bound"]] == [0.3]
    for row in found["bound"]:
        assert row["error"] <= row["asked"]
        assert row["ratio"] == pytest.approx(row["bytes"] / row["bound"])
    (int4,) = found["int4"]
    assert int4["error"] <= int4["int4_error"]
    assert int4["share"] == pytest.approx(int4["bytes"] / int4["int4_bytes"])
    # Two tiny modules are less than a header, so the bars cannot be met.
    assert code == 1
    assert not found["summary"][0]["met"]


def test_extras_are_not_counted(adapter: Path, tmp_path: Path) -> None:
    (real,) = find([adapter])
    path = tmp_path / "a.adz"
    adaptzip.compress(adapter, path, lossless=True)
    # A float32 head of random numbers packs into little less than its size.
    assert ours.lossless_bytes(real) <= path.stat().st_size - 3 * 64 * 3


def test_bars() -> None:
    rows = [rate_distortion.BoundRow("a", 0.1, 0.1, round(100 * ratio), 100.0, ratio) for ratio in (1.0, 1.1, 1.25)]
    int4 = [rate_distortion.Int4Row("a", "symmetric", 0.1, 10, 0.1, 4, share) for share in (0.4, 1.1)]
    found = {s.name: s for s in rate_distortion.summarise(rows, int4)}
    assert found["error 0.1 / bound"] == rate_distortion.Summary("error 0.1 / bound", 1.1, 1.25, True)
    assert not found["int4's error / int4"].met


def test_adapters_that_cannot_be_measured_are_named(
    adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    zero = tmp_path / "zero"
    zero.mkdir()
    loaded = adaptzip.read(adapter)
    adaptzip.export(loaded, zero / "x")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "adapter_model.safetensors").write_bytes(b"")
    assert [real.name for real in find([adapter.parent, tmp_path])] == ["tiny"]
    assert "left out broken" in capsys.readouterr().err


def test_int4_counts_codes_and_scales(adapter: Path) -> None:
    loaded = adaptzip.read(adapter)
    numbers = loaded.parameters
    plain = storage.integers(loaded, 4, symmetric=True)
    shifted = storage.integers(loaded, 4, symmetric=False)
    assert plain.bytes == numbers / 2 + numbers / 64 * 2
    assert shifted.bytes == numbers / 2 + numbers / 64 * 2.5
    assert 0.02 < shifted.relative_error < 0.2
    assert storage.integers(loaded, 8, symmetric=True).relative_error < plain.relative_error / 10


def test_int4_keeps_what_it_can_hold() -> None:
    codes = torch.arange(-8, 8).repeat(4).float().reshape(1, 64)
    module = adaptzip.LoraFactors(codes * 0.5, torch.full((64, 1), -2.0))
    stored = storage.integers(adaptzip.Adapter({"m": module}), 4, symmetric=True)
    assert stored.relative_error == 0


def test_zstd_of_byte_planes_is_smaller(adapter: Path) -> None:
    loaded = adaptzip.read(adapter)
    assert storage.zstd(loaded, shuffled=True).bytes < storage.zstd(loaded).bytes < 4.2 * loaded.parameters
    assert storage.zstd(loaded).relative_error == 0 < storage.zstd(loaded, as_half=True).relative_error < 1e-3


def test_truncation_keeps_the_strongest(adapter: Path) -> None:
    loaded = adaptzip.read(adapter)
    found = components(loaded)
    half = storage.uniform_rank(loaded, 2 * loaded.parameters / 2)
    assert half is not None
    assert half.bytes == loaded.parameters
    lost = sum(sum(sorted(found.energy[side].tolist())[:2]) for side in (slice(0, 4), slice(4, 8)))
    assert half.relative_error == pytest.approx(sqrt(lost / found.energy.sum()), rel=1e-2)
    assert storage.uniform_rank(loaded, 10) is None
    assert storage.global_rank_int4(loaded, 300).bytes <= 300


def test_a_table_goes_between_its_comments(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text("a\n<!-- benchmark: one -->\nold\n<!-- end benchmark -->\nb\n")
    page.put("one", page.table(["x", "y"], [["1", "2"]]), path)
    assert "old" not in path.read_text()
    assert "| 1 | 2 |" in path.read_text()
    assert path.read_text().endswith("<!-- end benchmark -->\nb\n")
    with pytest.raises(ValueError, match="0 places"):
        page.put("two", "", path)


@pytest.mark.parametrize(
    "name",
    [
        "rate_distortion",
        "smollm2",
        "speed",
        "speed-sdxl",
        "many",
        "quantiser",
        "fleet-shares",
        "fleet-minilm",
        "fleet-stories",
        "fleet-synthetic",
        "fleet-growth",
        "fleet-kills",
        "fleet-workers",
        "shared-frames",
    ],
)
def test_the_page_has_a_place_for_every_table(name: str) -> None:
    assert page.PAGE.read_text(encoding="utf-8").count(f"<!-- benchmark: {name} -->\n") == 1


@pytest.mark.parametrize("states", PARITY_CHECKS)
def test_a_trellis_path_is_one_that_a_decoder_follows(states: int) -> None:
    h0, h1 = PARITY_CHECKS[states]
    rows = 3 * torch.randn(2, 128, generator=torch.Generator().manual_seed(0))
    chosen = Quantiser(states, 0.3)
    (levels,) = quantise([rows], [torch.zeros(2, dtype=torch.long)], chosen, torch.ones(1, 2, 256))
    # 256 numbers are two lanes: element e is in lane e % 2.
    for lane in (0, 1):
        state = 0
        for level, which in zip(levels.level.reshape(-1)[lane::2], levels.quantiser.reshape(-1)[lane::2], strict=True):
            assert int(which) == state & 1
            state = (state >> 1) ^ (state & 1) * (h0 >> 1) ^ (int(level) & 1) * (h1 >> 1)
    assert float((levels.values() - rows).square().mean()) < 1 / 3


def test_configurations_meet_the_error(adapter: Path) -> None:
    (real,) = find([adapter])
    configuration = quantiser.Configuration("plain", Quantiser(1, 0.0), shapes=(2.0,))
    family = fit_family(configuration.quantiser, configuration.shapes)
    problem = quantiser.Problem.of(real, 0.2)
    coded = quantiser.solve(problem, configuration, family)
    assert coded.error == pytest.approx(0.2, rel=1e-3)
    assert 1 < coded.bits / 8 / least_bytes(real.parts.unknown, 0.2) < 1.5
    # Gaussian rows have no context that helps.
    assert all(0 <= saving(coded.rows, family, context) < 0.02 for context in CONTEXTS)


@pytest.mark.parametrize(("count", "numbers", "seed"), [(40, 7, 0), (64, 16, 42), (5, 9, 3)])
def test_places_are_those_of_peft(count: int, numbers: int, seed: int) -> None:
    from peft.tuners.unilora.model import UniLoraModel

    assert torch.equal(places(count, numbers, seed), UniLoraModel.generate_index(count, numbers, seed))


@pytest.mark.parametrize("shares_a", [True, False])
def test_a_shared_vector_keeps_its_length(shares_a: bool) -> None:
    sites = {name: Named(out, 8, name=name) for name, out in (("a", 6), ("b", 11))}
    numbers = 17
    made = spread(sites, numbers, None if shares_a else signs(sites), signed=True)
    method, vector = Shared(made), torch.randn(1, numbers, generator=torch.Generator().manual_seed(0))
    factors = [method.reconstruct({"vector": vector}, site, Config(numbers)) for site in sites.values()]
    length = sum(float(B.square().sum()) + shares_a * float(A.square().sum()) for A, B in factors)
    assert length == pytest.approx(float(vector.square().sum()), rel=1e-5)
    assert all(
        A.shape == (4, 8) and B.shape == (site.out, 4) for (A, B), site in zip(factors, sites.values(), strict=True)
    )
    if not shares_a:
        assert all(torch.allclose(A.norm(dim=1), torch.ones(4)) for A, _ in factors)


def test_a_fleet_shares_as_much_as_it_says() -> None:
    fleet = shared_frames.Fleet(0.8, width=96, shared=12, modules=2, rank=4)
    first, again = (list(fleet.adapters(3)) for _ in range(2))
    assert all(same_bits(a.modules[n].A, b.modules[n].A) for a, b in zip(first, again, strict=True) for n in a.modules)
    basis = build_basis(list(fleet.adapters(40)), 12)
    shares = captured_energy(first[0].modules, basis).modules.values()
    assert 0.7 < sum(shares) / 2 < 0.88
    assert shared_frames.taken(first[:1], 0.05, to="lora-sb", basis=basis) is None
    assert shared_frames.taken(first, 0.5, basis=None) == pytest.approx(
        sum(adaptzip.compress(adapter, max_error=0.5).bytes for adapter in first) / 3, abs=1
    )


@pytest.mark.parametrize("spectrum", directions.SPECTRA)
def test_ways_to_directions_agree(spectrum: str) -> None:
    case = directions.measure((96, 64), spectrum, directions.SPECTRA[spectrum](96, 64))
    assert case.values < directions.VALUES
    assert case.directions < directions.DIRECTIONS
    assert case.residual < 1e-10
    assert directions.row(case)[0] == f"96 x 64, {spectrum}"
    cases = [replace(case, shape=shape, seconds=3.0, partial=30.0) for shape in directions.LAYER]
    assert directions.whole_model(cases) == [[spectrum, "5.6", "56"]]
    assert not directions.whole_model([case])


@pytest.mark.parametrize("program", PROGRAMS)
def test_help(program: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", [program, "--help"])
    with pytest.raises(SystemExit) as stopped:
        importlib.import_module(f"benchmarks.{program}").main()
    assert stopped.value.code == 0
    assert "usage:" in capsys.readouterr().out
