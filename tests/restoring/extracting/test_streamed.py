"""Matrices that are read by rows, because they are large, are extracted as those in memory are."""

from __future__ import annotations

import importlib
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

import adaptzip
from adaptzip.errors import BaseModelError
from adaptzip.restoring.extracting import differences, extraction
from tests.cases.tuned_models import write_pair

module = importlib.import_module("adaptzip.restoring.extracting.extraction")
WEIGHTS = {
    "model.embed_tokens.weight": (150, 90),
    "model.layers.0.self_attn.q_proj.weight": (100, 120),
    "model.layers.0.self_attn.k_proj.weight": (100, 120),
    "model.patch.weight": (100, 12, 3, 3),
}


def noise(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def few(*shape: int, seed: int) -> Tensor:
    """A few falling directions under a little noise."""
    flat = (shape[0], torch.Size(shape[1:]).numel())
    directions = noise(flat[0], 6, seed=seed) / torch.arange(1, 7) @ noise(6, flat[1], seed=seed + 1)
    return (directions + 0.01 * noise(*flat, seed=seed + 2)).reshape(shape)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """A base and a tuned model, in which `k_proj` is the base's."""
    before = {name: noise(*shape, seed=number) for number, (name, shape) in enumerate(WEIGHTS.items())}
    changed = {name: w + few(*w.shape, seed=9) for name, w in before.items() if "k_proj" not in name}
    return write_pair(tmp_path, before, before | changed)


@pytest.fixture
def by_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_STREAMED", 0)
    monkeypatch.setattr(differences, "_READ", 7 * 120)


def taken(base: Path, tuned: Path, monkeypatch: pytest.MonkeyPatch) -> adaptzip.Adapter:
    """What is extracted where no matrix may be in memory as a whole."""

    def none(*_: object) -> Tensor:
        raise AssertionError("a whole matrix was read")

    with monkeypatch.context() as patch:
        patch.setattr(module, "difference", none)
        return extraction(base, tuned, rank=3).adapter


def test_they_are_the_same(pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = extraction(*pair, rank=3)
    monkeypatch.setattr(module, "_STREAMED", 0)
    monkeypatch.setattr(differences, "_READ", 7 * 120)
    found = taken(*pair, monkeypatch)
    assert (
        found.modules.keys()
        == whole.adapter.modules.keys()
        == {name.removesuffix(".weight") for name in WEIGHTS if "k_proj" not in name}
    )
    for name, factors in found.modules.items():
        other = whole.adapter.modules[name]
        assert (factors.layout, factors.kernel, factors.shape) == (other.layout, other.kernel, other.shape)
        distance = float((factors.delta() - other.delta()).norm() / other.delta().norm())
        assert distance < 1e-4
    assert extraction(*pair, rank=3).error == pytest.approx(whole.error, rel=1e-4)


@pytest.mark.usefixtures("by_rows")
@pytest.mark.parametrize("where", [0, 1])
def test_what_is_not_finite_is_named(where: int, tmp_path: Path) -> None:
    before, after = ({name: noise(*shape, seed=n) for name, shape in WEIGHTS.items()} for n in (0, 1))
    (before, after)[where]["model.layers.0.self_attn.q_proj.weight"][97, 2] = math.inf
    base, tuned = write_pair(tmp_path, before, after)
    with pytest.raises(BaseModelError, match=rf"{(base, tuned)[where].name}: .*q_proj.weight holds NaN or infinity"):
        extraction(base, tuned, rank=3)


@pytest.mark.usefixtures("by_rows")
def test_many_directions_are_those_of_an_svd_in_memory(pair: tuple[Path, Path]) -> None:
    assert extraction(*pair, rank=60).approximate == 0
