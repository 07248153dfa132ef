"""LyCORIS's products are the updates that we read of its files; its functions, as its modules take alpha twice."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import adaptzip

functional = pytest.importorskip("lycoris.functional", reason="LyCORIS is in the environment of the oracles")
pytestmark = pytest.mark.oracle

R = torch.randn
ALPHA = 3.0


def locon(p: Mapping[str, Tensor]) -> Tensor:
    down = p["lora_down.weight"]
    made = functional.locon.diff_weight(
        down, p["lora_up.weight"], p.get("lora_mid.weight"), gamma=ALPHA / down.shape[0], backend="torch"
    )
    return torch.as_tensor(made)


def loha(p: Mapping[str, Tensor]) -> Tensor:
    scale = torch.tensor(ALPHA / p["hada_w1_b"].shape[0])
    parts = [p.get(f"hada_{name}") for name in ("w1_b", "w1_a", "w2_b", "w2_a", "t1", "t2")]
    return torch.as_tensor(functional.loha.diff_weight(*parts, gamma=scale, backend="torch"))


def lokr(p: Mapping[str, Tensor]) -> Tensor:
    """Its function divides by the rank itself; without one there is no scale."""
    names = ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")
    ranked = "lokr_w2_b" in p or "lokr_w1_b" in p
    parts = [p.get(f"lokr_{name}") for name in names]
    return torch.as_tensor(functional.lokr.diff_weight(*parts, gamma=ALPHA if ranked else 1, backend="torch"))


CASES = {
    "locon": (locon, {"lora_up.weight": R(16, 4, 1, 1), "lora_down.weight": R(4, 6, 3, 3)}),
    "locon with a middle": (
        locon,
        {"lora_up.weight": R(16, 4, 1, 1), "lora_down.weight": R(4, 6, 1, 1), "lora_mid.weight": R(4, 4, 3, 3)},
    ),
    "loha": (loha, {f"hada_w{n}_{x}": R(*s) for n in (1, 2) for x, s in (("a", (16, 4)), ("b", (4, 24)))}),
    "loha with cores": (
        loha,
        {
            f"hada_{name}": R(*shape)
            for n in (1, 2)
            for name, shape in ((f"w{n}_a", (4, 16)), (f"w{n}_b", (4, 6)), (f"t{n}", (4, 4, 3, 3)))
        },
    ),
    "lokr": (lokr, {"lokr_w1": R(4, 3), "lokr_w2_a": R(8, 2), "lokr_w2_b": R(2, 4)}),
    "lokr of products": (
        lokr,
        {"lokr_w1_a": R(4, 2), "lokr_w1_b": R(2, 3), "lokr_w2_a": R(8, 2), "lokr_w2_b": R(2, 4)},
    ),
    "lokr of whole matrices": (lokr, {"lokr_w1": R(4, 3), "lokr_w2": R(8, 4)}),
    "lokr of a convolution": (lokr, {"lokr_w1": R(4, 2), "lokr_w2_a": R(8, 2), "lokr_w2_b": R(2, 3, 3, 3)}),
}


@pytest.mark.parametrize("kind", CASES)
def test_an_update_is_what_lycoris_makes_of_it(kind: str, tmp_path: Path) -> None:
    make, parts = CASES[kind]
    stem = "lora_unet_down_blocks_0_resnets_0_conv1"
    tensors = {f"{stem}.{part}": tensor for part, tensor in parts.items()}
    save_file(tensors | {f"{stem}.alpha": torch.tensor(ALPHA)}, tmp_path / "x.safetensors")

    (found,) = adaptzip.read(tmp_path / "x.safetensors").modules.values()

    wanted = make(parts)
    assert torch.allclose(found.weight_delta().flatten(), wanted.flatten(), atol=1e-4, rtol=1e-4)
