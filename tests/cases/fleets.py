"""Fleets of small adapters whose updates lie in common directions, with a common mean and a part of their own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

WIDTH, MODULES, RANK = 32, 2, 4
_DIRECTIONS = 4


def make_fleet(
    folder: Path,
    count: int,
    *,
    mean: float = 0.25,
    own: float = 0.001,
    families: int = 1,
    base: str = "some/base",
    seed: int = 0,
) -> list[Path]:
    """PEFT folders a000, a001, ...

    Args:
        mean, own: shares of each update's energy that all have alike, and that no other has; the rest lies in
            directions that an adapter's family shares.
        families: adapters are of one after another in turn.
    """
    draw = torch.Generator().manual_seed(seed)
    shared = [[_directions(draw) for _ in range(MODULES)] for _ in range(families)]
    means = [torch.randn(WIDTH, 1, generator=draw) @ torch.randn(1, WIDTH, generator=draw) for _ in range(MODULES)]
    found = []
    for number in range(count):
        tensors: dict[str, Tensor] = {}
        for place, (U, V) in enumerate(shared[number % families]):
            core = torch.randn(_DIRECTIONS, _DIRECTIONS, generator=draw)
            rest = torch.randn(WIDTH, 2, generator=draw) @ torch.randn(2, WIDTH, generator=draw)
            update = (1 - mean - own) ** 0.5 * _unit(U @ core @ V.T) + mean**0.5 * _unit(means[place])
            tensors |= _factors(place, update + own**0.5 * _unit(rest))
        found.append(_written(folder / f"a{number:03d}", tensors, base))
    return found


def digests(store: Path, *apart: str) -> dict[str, str]:
    """Digests of all files of a store by name, but for drafts and the folders `apart`."""
    files = [file for file in sorted(store.rglob("*")) if file.is_file()]
    names = {file.relative_to(store).as_posix(): file for file in files}
    kept = {name: file for name, file in names.items() if name.split("/")[0] not in (".drafts", *apart)}
    return {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in kept.items()}


def _directions(draw: torch.Generator) -> Sequence[Tensor]:
    return [torch.linalg.qr(torch.randn(WIDTH, _DIRECTIONS, generator=draw))[0] for _ in range(2)]


def _unit(matrix: Tensor) -> Tensor:
    unit: Tensor = matrix / matrix.norm()
    return unit


def _factors(place: int, update: Tensor) -> dict[str, Tensor]:
    U, S, Vt = torch.linalg.svd(update)
    name = f"base_model.model.model.layers.{place}.self_attn.q_proj"
    rank = 2 * RANK
    roots = S[:rank].sqrt()
    return {
        f"{name}.lora_A.weight": (roots[:, None] * Vt[:rank]).contiguous(),
        f"{name}.lora_B.weight": (U[:, :rank] * roots).contiguous(),
    }


def _written(folder: Path, tensors: dict[str, Tensor], base: str) -> Path:
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    told = {"peft_type": "LORA", "r": 2 * RANK, "lora_alpha": 2 * RANK, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps({**told, "base_model_name_or_path": base}))
    return folder
