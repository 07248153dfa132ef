"""Merging into quantised bases: what is written, what rounding leaves of the update, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.errors import RefusedError, UsageError
from adaptzip.models.folder import BaseModel
from adaptzip.reports.merged import check
from adaptzip.restoring.merging import merge
from adaptzip.restoring.merging.rounding import Rounding
from tests.cases.base_folders import MODULE, adapter, write_config, write_index, write_llama
from tests.cases.quantised_weights import CASES, write_quantised

WEIGHT = f"{MODULE}.weight"
OPTIONS: dict[str, dict[str, Any]] = {"dequantise": {"dequantise": True}, "requantise": {"requantise": True}}
KINDS = [name for name in CASES if name not in ("gptq 3", "gptq 4, one group", "packed 3, a scale a row")]
"""Those that a weight of 16 by 16 can have."""
FLOAT8 = [name for name, case in CASES.items() if case.float8]


def small(module: str = MODULE) -> Adapter:
    """An update about as large as the last place of bfloat16, of which rounding loses much."""
    factors = adapter(module).modules[module]
    return Adapter({module: LoraFactors(factors.A, factors.B, 1e-4)})


def summed(weight: Tensor, given: Adapter, module: str = MODULE) -> Tensor:
    """float32 weight and update, by the definition."""
    factors = given.modules[module]
    return weight + factors.scaling * (factors.B @ factors.A)


def kept(weight: Tensor, exact: Tensor, written: Tensor) -> float:
    one, wrong = exact.double() - weight.double(), written.double() - exact.double()
    return 1 - float((wrong**2).sum() / (one**2).sum())


def bytes_of(tensor: Tensor) -> list[int]:
    values: list[int] = tensor.reshape(-1).view(torch.uint8).tolist()
    return values


@pytest.mark.parametrize("name", KINDS)
def test_dequantised(name: str, tmp_path: Path) -> None:
    weight = write_quantised(tmp_path / "base", CASES[name])
    report = merge(small(), tmp_path / "base", tmp_path / "merged", dequantise=True)
    written = load_file(tmp_path / "merged" / "model.safetensors")
    exact = summed(weight, small())
    assert torch.equal(written[WEIGHT], exact.to(torch.bfloat16))
    assert not [key for key in written if not key.endswith(".weight")]
    assert all(torch.equal(t, torch.full_like(t, 0.5)) for key, t in written.items() if key != WEIGHT)
    config = json.loads((tmp_path / "merged" / "config.json").read_text())
    assert "quantization_config" not in config
    assert config["dtype"] == "bfloat16"
    found = report.rounding
    assert found is not None
    assert found.kept is not None
    assert (found.how, found.worst) == ("dequantised", MODULE)
    assert found.kept == pytest.approx(kept(weight, exact, written[WEIGHT].float()), rel=1e-3, abs=1e-6)
    assert found.kept == found.worst_kept
    assert found.kept < 0.9999
    assert check(tmp_path / "merged", tmp_path / "base", small()).verdict == "exact"


@pytest.mark.parametrize("name", KINDS[::5])
def test_untouched_weights_are_dequantised_too(name: str, tmp_path: Path) -> None:
    weight = write_quantised(tmp_path / "base", CASES[name])
    other = "model.layers.0.self_attn.k_proj"
    report = merge(adapter(other), tmp_path / "base", tmp_path / "merged", dequantise=True)
    written = load_file(tmp_path / "merged" / "model.safetensors")
    assert torch.equal(written[WEIGHT], weight.to(torch.bfloat16))
    assert written[f"{other}.weight"].dtype == torch.float32
    assert report.rounding is not None
    assert report.rounding.kept == 1.0


@pytest.mark.parametrize("name", FLOAT8)
def test_requantised(name: str, tmp_path: Path) -> None:
    weight = write_quantised(tmp_path / "base", CASES[name])
    report = merge(adapter(), tmp_path / "base", tmp_path / "merged", requantise=True)
    before, after = (load_file(tmp_path / place / "model.safetensors") for place in ("base", "merged"))
    assert {k: (t.dtype, t.shape) for k, t in after.items()} == {k: (t.dtype, t.shape) for k, t in before.items()}
    changed = {key for key in before if bytes_of(before[key]) != bytes_of(after[key])}
    assert changed == {key for key in before if key.startswith(MODULE)}
    assert (tmp_path / "base" / "config.json").read_bytes() == (tmp_path / "merged" / "config.json").read_bytes()
    exact = summed(weight, adapter())
    made = BaseModel.open(tmp_path / "merged", quantised="decoded").read(WEIGHT)
    assert float((made - exact).abs().max() / exact.abs().max()) < 0.07
    assert after[WEIGHT].float().abs().max() == 448
    assert report.rounding is not None
    assert report.rounding.kept == pytest.approx(kept(weight, exact, made), abs=1e-6)
    assert 0.99 < float(report.rounding.kept or 0) < 1


def test_scales_of_requantised_weights_are_the_largest_numbers(tmp_path: Path) -> None:
    weight = write_quantised(tmp_path / "base", CASES["blocks"])
    merge(adapter(), tmp_path / "base", tmp_path / "merged", requantise=True)
    exact = summed(weight, adapter())
    scales = load_file(tmp_path / "merged" / "model.safetensors")[f"{MODULE}.weight_scale_inv"]
    largest = [[exact[12 * i : 12 * i + 12, 12 * j : 12 * j + 12].abs().max() for j in range(2)] for i in range(2)]
    assert torch.allclose(scales * 448, torch.tensor(largest), rtol=1e-6, atol=0)


@pytest.mark.parametrize("magnitude", [torch.linspace(0.5, 2, 16), torch.linspace(0.5, 2, 16).reshape(1, 16)])
@pytest.mark.parametrize("name", ["blocks", "fbgemm", "modelopt"])
def test_magnitudes_of_rows_and_of_inputs(name: str, magnitude: Tensor, tmp_path: Path) -> None:
    write_quantised(tmp_path / "base", CASES[name])
    factors = replace(adapter().modules[MODULE], magnitude=magnitude)
    given = Adapter({MODULE: factors})
    merge(given, tmp_path / "base", tmp_path / "wide", dequantise=True)
    merge(given, tmp_path / "base", tmp_path / "short", requantise=True)
    wide = BaseModel.open(tmp_path / "wide").read(WEIGHT).float()
    short = BaseModel.open(tmp_path / "short", quantised="decoded").read(WEIGHT)
    assert float((wide - short).abs().max() / wide.abs().max()) < 0.07
    norms = wide.norm(dim=1) if magnitude.ndim == 1 else wide.norm(dim=0)
    assert torch.allclose(norms, magnitude.flatten(), rtol=0.01)


def test_bands_of_a_requantised_weight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("blocks", "fbgemm", "modelopt"):
        write_quantised(tmp_path / name, CASES[name])
        one = merge(adapter(), tmp_path / name, tmp_path / f"{name}-1", requantise=True)
        with monkeypatch.context() as patch:
            patch.setattr("adaptzip.restoring.merging.requantising._BAND", 16)
            patch.setattr("adaptzip.restoring.merging.requantising._LEAST_ROWS", 4)
            other = merge(adapter(), tmp_path / name, tmp_path / f"{name}-2", requantise=True)
        files = [(tmp_path / f"{name}-{n}" / "model.safetensors").read_bytes() for n in (1, 2)]
        assert files[0] == files[1]
        assert one.rounding is not None
        assert other.rounding is not None
        assert one.rounding.kept == pytest.approx(other.rounding.kept, rel=1e-12)


def sharded(folder: Path, name: str) -> Tensor:
    """A base whose scales lie in other files than their numbers."""
    weight = write_quantised(folder, CASES[name])
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    write_index(folder / "model.safetensors.index.json", tensors, "a.safetensors", "b.safetensors", "c.safetensors")
    return weight


def test_companions_in_other_files(tmp_path: Path) -> None:
    weight = sharded(tmp_path / "base", "blocks")
    merge(small(), tmp_path / "base", tmp_path / "merged", dequantise=True)
    index = json.loads((tmp_path / "merged" / "model.safetensors.index.json").read_text())
    assert f"{MODULE}.weight_scale_inv" not in index["weight_map"]
    merged = BaseModel.open(tmp_path / "merged")
    assert torch.equal(merged.read(WEIGHT), summed(weight, small()).to(torch.bfloat16))
    assert index["metadata"]["total_size"] == sum(merged.stored(n).bytes for n in merged.tensors)
    merge(adapter(), tmp_path / "base", tmp_path / "again", requantise=True)
    again = BaseModel.open(tmp_path / "again", quantised="stored")
    base = BaseModel.open(tmp_path / "base", quantised="stored")
    assert {n: s.path.name for n, s in again.tensors.items()} == {n: s.path.name for n, s in base.tensors.items()}


@pytest.mark.parametrize("option", OPTIONS)
def test_what_is_said(option: str, tmp_path: Path) -> None:
    write_quantised(tmp_path / "base", CASES["fbgemm"])
    (tmp_path / "base" / "hf_quant_config.json").write_text("{}")
    report = merge(small(), tmp_path / "base", tmp_path / "merged", **OPTIONS[option])
    told = json.loads((tmp_path / "merged" / "adaptzip_merge.json").read_text())
    assert report.rounding is not None
    assert told["rounding"] == report.as_dict()["rounding"] == report.rounding.as_dict()
    assert report.rounding.told() in (tmp_path / "merged" / "README.md").read_text()
    assert ("hf_quant_config.json" in report.files) == (option == "requantise")


@pytest.mark.parametrize(
    ("rounding", "said"),
    [
        (Rounding("dequantised", 0.99, "a.b", 0.5), "rounding keeps 99.0000% of the update, least in a.b: 50.0000%"),
        (
            Rounding("dequantised", -2.0, "a.b", -3.0),
            "rounding changes the weights more than the update does: it keeps",
        ),
        (Rounding("requantised", None), "requantised: there was no update for rounding to keep"),
    ],
)
def test_words(rounding: Rounding, said: str) -> None:
    assert said in rounding.told()


def test_an_update_of_nothing(tmp_path: Path) -> None:
    write_quantised(tmp_path / "base", CASES["nf4"])
    report = merge(adapter(), tmp_path / "base", tmp_path / "merged", scale=0.0, dequantise=True)
    assert report.rounding is not None
    assert (report.rounding.kept, report.rounding.worst) == (None, None)
    assert "no update" in report.rounding.told()


def test_the_sums_do_not_depend_on_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_quantised(tmp_path / "base", CASES["nf4"])
    whole = merge(small(), tmp_path / "base", tmp_path / "one", dequantise=True)
    monkeypatch.setattr("adaptzip.restoring.merging.weights.BLOCK", 64)
    monkeypatch.setattr("adaptzip.models.adding.LEAST_ROWS", 4)
    in_parts = [merge(small(), tmp_path / "base", tmp_path / f"{n}", dequantise=True) for n in range(2)]
    assert in_parts[0].rounding == in_parts[1].rounding
    assert in_parts[0].rounding is not None
    assert whole.rounding is not None
    assert in_parts[0].rounding.kept == pytest.approx(whole.rounding.kept, rel=1e-12)
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "0", "1")]
    assert files[0] == files[1] == files[2]


def test_a_quantised_base_is_refused_with_the_way_out(tmp_path: Path) -> None:
    write_quantised(tmp_path / "base", CASES["nf4"])
    with pytest.raises(RefusedError, match="is quantised .bitsandbytes.") as error:
        merge(small(), tmp_path / "base", tmp_path / "merged")
    assert "`dequantise=True`" in str(error.value.hint)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"dequantise": True, "requantise": True}, "dequantised or requantised, not both"),
        ({"dequantise": True, "safe_merge": True}, "with safe_merge updates are rounded"),
        ({"requantise": True, "safe_merge": True}, "with safe_merge updates are rounded"),
    ],
)
def test_options_that_do_not_go_together(options: dict[str, Any], said: str, tmp_path: Path) -> None:
    write_quantised(tmp_path / "base", CASES["blocks"])
    with pytest.raises(UsageError, match=said):
        merge(small(), tmp_path / "base", tmp_path / "merged", **options)


@pytest.mark.parametrize("option", OPTIONS)
def test_nothing_to_dequantise(option: str, tmp_path: Path) -> None:
    write_llama(tmp_path / "base")
    with pytest.raises(UsageError, match="is not quantised") as error:
        merge(small(), tmp_path / "base", tmp_path / "merged", **OPTIONS[option])
    assert str(error.value.hint) == f"leave `{option}=True` out"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nf4", f"{WEIGHT} is quantised .bitsandbytes."),
        ("gptq 8", "is quantised .gptq."),
        ("integers", "is quantised .compressed-tensors."),
        ("float8 without scales", "is quantised .float8 without scales."),
    ],
)
def test_what_is_not_requantised(name: str, said: str, tmp_path: Path) -> None:
    write_quantised(tmp_path / "base", CASES[name])
    with pytest.raises(RefusedError, match=said) as error:
        merge(small(), tmp_path / "base", tmp_path / "merged", requantise=True)
    assert "`dequantise=True`" in str(error.value.hint)
    assert not (tmp_path / "merged").exists()


def test_scales_that_are_powers_of_two(tmp_path: Path) -> None:
    write_quantised(tmp_path / "base", CASES["blocks"])
    write_config(tmp_path / "base", quantization_config={**(CASES["blocks"].settings or {}), "scale_fmt": "ue8m0"})
    with pytest.raises(RefusedError, match="scale_fmt ue8m0"):
        merge(small(), tmp_path / "base", tmp_path / "merged", requantise=True)


def test_check_tells_a_base_that_was_rounded_first(tmp_path: Path) -> None:
    weight = write_quantised(tmp_path / "base", CASES["nf4"])
    merge(adapter(), tmp_path / "base", tmp_path / "merged", dequantise=True)
    tensors = load_file(tmp_path / "merged" / "model.safetensors")
    tensors[WEIGHT] = summed(weight.to(torch.bfloat16).float(), adapter()).to(torch.bfloat16)
    save_file(tensors, tmp_path / "merged" / "model.safetensors", metadata={"format": "pt"})
    report = check(tmp_path / "merged", tmp_path / "base", adapter())
    assert (report.verdict, report.rule) == ("exact", "default, rounded base")


def test_check_refuses_a_requantised_model(tmp_path: Path) -> None:
    write_quantised(tmp_path / "base", CASES["blocks"])
    merge(adapter(), tmp_path / "base", tmp_path / "merged", requantise=True)
    with pytest.raises(RefusedError, match="is quantised .fp8."):
        check(tmp_path / "merged", tmp_path / "base", adapter())


def test_a_weight_that_is_there_twice(tmp_path: Path) -> None:
    write_quantised(tmp_path / "base", CASES["gptq 4, ordered"])
    file = tmp_path / "base" / "model.safetensors"
    save_file(load_file(file) | {WEIGHT: torch.ones(16, 16)}, file)
    with pytest.raises(RefusedError, match=f"{WEIGHT} is there as floats, and quantised as {MODULE}.qweight"):
        merge(small(), tmp_path / "base", tmp_path / "merged", dequantise=True)
