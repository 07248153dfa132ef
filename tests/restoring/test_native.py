"""A method's own tensors, from the file to the program that loads them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import adaptzip
from adaptzip.core.comparing import same_bits
from adaptzip.errors import RefusedError
from adaptzip.methods import load
from adaptzip.restoring.native import native
from adaptzip.restoring.reconstruction import reconstruct
from adaptzip.testing.adapters import adapter
from tests.cases.tiny_peft import gpt2, llama, merged_by_peft, train

SETTINGS: dict[str, Any] = {"rank": 4, "length": 8, "vectors": 20}


_LLAMA = {"target_modules": ["q_proj", "k_proj"]}
_GPT2 = {"target_modules": ["c_attn"], "fan_in_fan_out": True}


@pytest.mark.parametrize(
    ("model", "config", "top_k"), [(llama, _LLAMA, 1), (llama, _LLAMA, 2), (gpt2, _GPT2, 3), (gpt2, _GPT2, 4)]
)
def test_compressed_exported_and_loaded_by_peft(
    model: Callable[[], Any], config: dict[str, Any], top_k: int, tmp_path: Path
) -> None:
    train(model(), tmp_path / "lora", r=4, **config)
    file = tmp_path / "small.adz"
    made = adaptzip.compress(tmp_path / "lora", file, to="vblora", top_k=top_k, max_error=0.99, **SETTINGS)
    report = adaptzip.export(file, tmp_path / "vb", as_="peft-vblora")
    assert report.modules == len(made.sites)
    written = json.loads((tmp_path / "vb" / "adapter_config.json").read_text())
    assert (written["peft_type"], written["topk"]) == ("VBLORA", top_k)
    model().save_pretrained(tmp_path / "base")
    adaptzip.merge(file, tmp_path / "base", tmp_path / "merged")
    theirs, before = merged_by_peft(model(), tmp_path / "vb"), model().state_dict()
    ours = load_file(tmp_path / "merged" / "model.safetensors")
    for name, tensor in ours.items():
        assert float((theirs[name] - tensor).abs().max()) <= 1e-6 * float(tensor.abs().max())
    changed = {name for name in ours if not torch.equal(ours[name], before[name])}
    # At so large an error modules may come to nothing.
    kept = {name for name, module in adaptzip.reconstruct(made).modules.items() if bool(module.delta().any())}
    assert changed == {f"{name}.weight" for name in kept} != set()


def test_the_tensors_make_the_factors() -> None:
    """Any method's: A and B are what it reconstructs, A times the gain."""
    source = adapter([(16, 24, 4), (12, 8, 3)])
    made = adaptzip.compress(source, to="svd", max_error=0.1)
    found = native(made, "some-dialect", ("svd",))
    method, whole = load("svd"), reconstruct(made)
    assert list(found.modules) == ["m.0", "m.1"]
    for name, module in found.modules.items():
        A, B = method.reconstruct(module.tensors, made.sites[name], method.config_type(**made.config))
        assert same_bits(A * module.gain, module.A)
        assert same_bits(B.contiguous(), module.B)
        assert (module.out, module.width) == (made.sites[name].out, made.sites[name].width)
        for part in "AB":
            assert same_bits(getattr(whole.modules[name], part), getattr(module, part))
            assert same_bits(getattr(found.adapter.modules[name], part), getattr(module, part))


def test_gains_are_told() -> None:
    made = adaptzip.compress(adapter([(16, 24, 4), (12, 8, 3)]), to="svd", max_error=0.1)
    plain, gained = (native(m, "some-dialect", ("svd",)) for m in (made, replace(made, gains=(4, 0))))
    assert {name: module.gain for name, module in gained.modules.items()} == {"m.0": 0.5, "m.1": 1.0}
    assert same_bits(gained.modules["m.0"].A, plain.modules["m.0"].A / 2)
    assert same_bits(gained.modules["m.1"].A, plain.modules["m.1"].A)


def test_zero_updates_have_no_tensors() -> None:
    source = adapter([(16, 24, 4), (12, 8, 3)])
    modules = {**source.modules, "m.1": replace(source.modules["m.1"], B=torch.zeros(12, 3))}
    found = native(adaptzip.compress(replace(source, modules=modules), to="svd"), "some-dialect", ("svd",))
    assert found.modules["m.1"].tensors == {}
    assert (found.modules["m.1"].A.shape, found.modules["m.1"].B.shape) == ((0, 8), (12, 0))


def test_sources_of_another_kind_are_refused(tmp_path: Path) -> None:
    source = adapter([(16, 24, 4)])
    train(llama(), tmp_path / "lora", r=2, target_modules=["q_proj"])
    other = adaptzip.compress(source, tmp_path / "other.adz", to="svd")
    exact = adaptzip.compress(source, tmp_path / "exact.adz", lossless=True)
    for given, said in (
        (tmp_path / "lora", r"lora: is no \.adz file, and peft-vblora holds the tensors of vblora alone"),
        (source, r"the adapter: is no \.adz file"),
        (other, "the adapter: is a file of method 'svd'"),
        (tmp_path / "other.adz", r"other\.adz: is a file of method 'svd'"),
        (exact, "is a lossless file of method"),
    ):
        with pytest.raises(RefusedError, match=said) as caught:
            adaptzip.export(given, tmp_path / "vb", as_="peft-vblora")
        assert "`adaptzip compress SRC --to vblora`" in str(caught.value.hint)
    assert not (tmp_path / "vb").exists()


def test_the_memory_that_loading_takes_is_reported(tmp_path: Path) -> None:
    made = adaptzip.compress(adapter([(16, 24, 4), (8, 8, 3)]), to="vblora", top_k=1, max_error=0.99, **SETTINGS)
    report = adaptzip.export(made, tmp_path / "vb", as_="peft-vblora")
    assert report.loading_bytes == 4 * (40 + 16) // 8 * 20 * 4
    assert adaptzip.export(made, tmp_path / "lora").loading_bytes is None


def test_what_peft_cannot_hold_names_the_setting_that_works(tmp_path: Path) -> None:
    """And compressed again with that setting, it is exported."""
    source = adapter([(12, 24, 4), (18, 12, 4)])
    settings: dict[str, Any] = {**SETTINGS, "top_k": 1, "max_error": 0.99}
    with pytest.raises(RefusedError, match="m.0 is 12 x 24") as caught:
        adaptzip.export(adaptzip.compress(source, to="vblora", **settings), tmp_path / "vb", as_="peft-vblora")
    assert "`options={'length': 6}`," in str(caught.value.hint)
    again = adaptzip.compress(source, to="vblora", **{**settings, "length": 6})
    adaptzip.export(again, tmp_path / "vb", as_="peft-vblora")
