"""Modules that kernels decode side by side are those that are decoded one by one; what is damaged is left to that."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import adaptzip
from adaptzip.adz.coding import entropy
from adaptzip.adz.coding.classes import choose_classes
from adaptzip.adz.coding.decoding import decode_many, decode_ranked
from adaptzip.adz.coding.lanes import decode_together
from adaptzip.adz.coding.levels import Levels
from adaptzip.adz.coding.modules import _trellis
from adaptzip.adz.coding.trellis import Quantised
from adaptzip.core import compiled
from adaptzip.core.compressed import TensorSpec
from adaptzip.errors import FormatError
from adaptzip.methods import _svd_rows
from adaptzip.restoring.reconstruction import coder_of
from adaptzip.testing.adapters import adapter

MAX_RANK = 9
SHAPES = st.lists(st.tuples(st.integers(0, 4), st.integers(1, 70)), min_size=1, max_size=3)
"""Rows and width of each tensor of a module."""
NOTHING = -40
"""A power of 2 for rows whose levels are all 0."""


@pytest.fixture(autouse=True)
def _compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "_WORTHWHILE", 0)


def specs_of(shapes: Sequence[tuple[int, int]]) -> list[TensorSpec]:
    return [TensorSpec(str(i), rows, width) for i, (rows, width) in enumerate(shapes)]


def layout_of(shapes: Sequence[tuple[int, int]]) -> Callable[[int], list[TensorSpec]]:
    return lambda _: specs_of(shapes)


def coded(shapes: Sequence[tuple[int, int]], rng: np.random.Generator, outlier: int) -> bytes:
    """A module's block, with rows of zeros, of raw bits and of far numbers among the others."""
    tensors = []
    for rows, width in shapes:
        exponents = rng.choice([NOTHING, -2, 0, 2, 5, 9, 14], size=(rows, 1))
        numbers = rng.standard_normal((rows, width)) * 2.0**exponents
        if numbers.size:
            numbers[-1, -1] += outlier
        tensors.append(torch.from_numpy(numbers).float())
    stored = [x for x in tensors if x.numel()]
    quantised, scales = _trellis(stored, 1.0)
    made = iter([Levels(q, choose_classes(q, scale)) for q, scale in zip(quantised, scales, strict=True)])
    empty = Levels(Quantised(np.zeros((0, 1), np.int32), np.zeros((0, 1), np.uint8)), ())
    rank = int(rng.integers(1, MAX_RANK + 1))
    blocks = [next(made) if x.numel() else empty for x in tensors]
    assert entropy._encode_alone(rank, MAX_RANK, blocks) == entropy.encode_interpreted(rank, MAX_RANK, blocks)
    return entropy.encode(rank, MAX_RANK, blocks)


def alone(chunk: bytes, shapes: Sequence[tuple[int, int]]) -> tuple[int, list[entropy.Block]]:
    """The rank and the tensors of a module that is decoded by itself."""
    ranks: list[int] = []

    def layout(rank: int) -> list[TensorSpec]:
        ranks.append(rank)
        return specs_of(shapes)

    blocks = entropy.decode(chunk, MAX_RANK, layout, "m")
    return ranks[0], blocks


@settings(max_examples=60, deadline=None)
@given(
    modules=st.lists(SHAPES, min_size=1, max_size=6), outlier=st.sampled_from([0, 100, 2**19]), seed=st.integers(0, 99)
)
def test_modules_side_by_side(modules: list[list[tuple[int, int]]], outlier: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    modules = [shapes for shapes in modules if any(rows for rows, _ in shapes)]
    chunks = [coded(shapes, rng, outlier) for shapes in modules]
    found = decode_together(chunks, MAX_RANK, [layout_of(shapes) for shapes in modules])
    for shapes, chunk, module in zip(modules, chunks, found, strict=True):
        assert module is not None
        rank, blocks = alone(chunk, shapes)
        assert module.rank == rank
        for one, block in zip(module.tensors, blocks, strict=True):
            assert isinstance(block, Levels)
            assert np.array_equal(one, block.quantised.values())


@settings(max_examples=150, deadline=None)
@given(noise=st.lists(st.binary(min_size=1, max_size=60), min_size=1, max_size=5), shapes=SHAPES)
def test_noise(noise: list[bytes], shapes: list[tuple[int, int]]) -> None:
    found = decode_together(noise, MAX_RANK, [layout_of(shapes)] * len(noise))
    for chunk, module in zip(noise, found, strict=True):
        if module is None:
            continue
        for one, block in zip(module.tensors, alone(chunk, shapes)[1], strict=True):
            assert isinstance(block, Levels)
            assert np.array_equal(one, block.quantised.values())


@settings(max_examples=60, deadline=None)
@given(shapes=SHAPES, place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), seed=st.integers(0, 99))
def test_damage_is_told_as_by_one_module_alone(
    shapes: list[tuple[int, int]], place: float, bit: int, seed: int
) -> None:
    shapes = [*shapes, (2, 30)]
    chunk = bytearray(coded(shapes, np.random.default_rng(seed), 0))
    chunk[int(place * len(chunk))] ^= 1 << bit
    (module,) = decode_together([bytes(chunk)], MAX_RANK, [layout_of(shapes)])
    try:
        entropy.decode(bytes(chunk), MAX_RANK, layout_of(shapes), "m")
    except FormatError:
        assert module is None
    else:
        assert module is not None


@pytest.mark.parametrize("method", ["svd", "loretta", "vblora"])
def test_tensors_of_a_file(method: str) -> None:
    compressed = adaptzip.compress(adapter([(48, 32, 4), (70, 40, 3), (48, 32, 4)]), to=method, max_error=0.3)
    coder = coder_of(compressed)
    chunks = dict(zip(compressed.sites, compressed.chunks, strict=True))
    found = decode_many(coder, chunks, compressed.step)
    assert found.keys() == chunks.keys()
    for name, chunk in chunks.items():
        rank, tensors = decode_ranked(coder, chunk, compressed.step, name)
        assert found[name][0] == rank
        assert found[name][1].keys() == tensors.keys()
        assert all(torch.equal(tensor, found[name][1][role]) for role, tensor in tensors.items())


@pytest.mark.parametrize("shape", [(1, 1), (3, 700), (16, 256), (2, 0)])
def test_unit_columns(shape: tuple[int, int]) -> None:
    U = torch.randint(-90, 90, shape, generator=torch.Generator().manual_seed(0)).float()
    U[0] = 0
    assert torch.equal(_svd_rows.unit_columns(U), _svd_rows.interpreted(U))
