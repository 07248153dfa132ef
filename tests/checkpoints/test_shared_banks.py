"""Adapters that share a bank, in stock PEFT: each loads alone, with equal outputs."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

import adaptzip
from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.core.basis import Basis
from adaptzip.errors import RefusedError
from tests.cases.tiny_peft import llama, merged_by_peft

IDS = torch.arange(24).reshape(2, 12) % 32


def like(model: Any, seed: int, rank: int = 3) -> Adapter:
    """An adapter of the attention of a model, whose modules are of different strength."""
    generator = torch.Generator().manual_seed(seed)
    modules = {}
    for i, (name, layer) in enumerate(sorted(model.named_modules())):
        if name.endswith(("q_proj", "v_proj", "o_proj")):
            out, width = layer.weight.shape
            B = 0.3 / (1 + i) * torch.randn(out, rank, generator=generator)
            modules[name] = LoraFactors(torch.randn(rank, width, generator=generator), B)
    return Adapter(modules)


@pytest.fixture(scope="module")
def fleet() -> list[Adapter]:
    model = llama()
    return [like(model, seed) for seed in range(5)]


def outputs(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.eval()(IDS).logits
        return found


def in_peft(folder: Path) -> tuple[Any, torch.Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = PeftModel.from_pretrained(llama(), folder)
    return model, outputs(model)


def with_factors(adapter: Adapter) -> torch.Tensor:
    """Outputs of the model with dense updates added to its weights."""
    model = llama()
    for name, module in adapter.modules.items():
        model.get_submodule(name).weight.data += module.delta()
    return outputs(model)


@pytest.mark.parametrize("top_k", [1, 2])
def test_peft_gives_the_outputs_of_each_adapter(fleet: list[Adapter], top_k: int, tmp_path: Path) -> None:
    bank: Basis = adaptzip.build_bank(fleet, device="cpu", rank=3, length=4, vectors=40, top_k=top_k)
    before = outputs(llama())
    for i, adapter in enumerate(fleet[:2]):
        made = adaptzip.compress(adapter, to="vblora", basis=bank, device="cpu", max_error=0.6)
        again = adaptzip.reconstruct(made, basis=bank)
        # Ranks differ, and PEFT has one for all.
        assert len({module.rank for module in again.modules.values()}) > 1
        adaptzip.export(made, tmp_path / f"{i}", as_="peft-vblora", basis=bank)
        ours = with_factors(again)
        model, theirs = in_peft(tmp_path / f"{i}")
        assert float((theirs - ours).abs().max()) < 1e-5 * float(ours.abs().max())
        assert float((theirs - before).abs().max()) > 1e-2
        tensors = load_file(tmp_path / f"{i}" / "adapter_model.safetensors")
        assert bank.bank is not None
        assert torch.equal(tensors["base_model.vblora_vector_bank"], bank.bank.vectors)
        assert model.peft_config["default"].r == max(module.rank for module in again.modules.values())


def test_what_peft_holds_is_read_again(fleet: list[Adapter], tmp_path: Path) -> None:
    bank = adaptzip.build_bank(fleet, tmp_path / "x.bank", device="cpu", rank=3, length=4, vectors=40, top_k=2)
    made = adaptzip.compress(fleet[0], tmp_path / "x.adz", to="vblora", basis=bank, device="cpu", max_error=0.6)
    adaptzip.export(tmp_path / "x.adz", tmp_path / "vb", as_="peft-vblora", basis=tmp_path / "x.bank")
    with pytest.raises(RefusedError, match=r"x\.adz: the adapter is coded with a bank"):
        adaptzip.export(tmp_path / "x.adz", tmp_path / "other", as_="peft-vblora")
    ours, again = adaptzip.reconstruct(made, basis=bank), adaptzip.read(tmp_path / "vb")
    for name, module in again.modules.items():
        assert torch.allclose(module.delta(), ours.modules[name].delta(), atol=1e-6)


def test_merging_gives_the_weights_of_peft(fleet: list[Adapter], tmp_path: Path) -> None:
    bank = adaptzip.build_bank(fleet, tmp_path / "x.bank", device="cpu", rank=3, length=4, vectors=40, top_k=2)
    adaptzip.compress(fleet[1], tmp_path / "x.adz", to="vblora", basis=bank, device="cpu", max_error=0.6)
    llama().save_pretrained(tmp_path / "base")
    adaptzip.merge(tmp_path / "x.adz", tmp_path / "base", tmp_path / "merged", basis=tmp_path / "x.bank")
    adaptzip.export(tmp_path / "x.adz", tmp_path / "vb", as_="peft-vblora", basis=tmp_path / "x.bank")
    ours = load_file(tmp_path / "merged" / "model.safetensors")
    theirs = merged_by_peft(llama(), tmp_path / "vb")
    assert all(torch.allclose(theirs[name], tensor, atol=1e-6) for name, tensor in ours.items())
    with pytest.raises(RefusedError, match="training would change its vectors"):
        adaptzip.distill(teacher=fleet[1], base=tmp_path / "base", data="self", to="vblora", basis=bank, budget="1kB")


def test_an_embedded_bank_loads_too(fleet: list[Adapter], tmp_path: Path) -> None:
    bank = adaptzip.build_bank(fleet, device="cpu", rank=3, length=4, vectors=40, top_k=2)
    made = adaptzip.compress(fleet[0], to="vblora", basis=bank, embed_basis=True, device="cpu", max_error=0.6)
    adaptzip.export(made, tmp_path / "vb", as_="peft-vblora")
    ours = with_factors(adaptzip.reconstruct(made))
    assert float((in_peft(tmp_path / "vb")[1] - ours).abs().max()) < 1e-5 * float(ours.abs().max())
