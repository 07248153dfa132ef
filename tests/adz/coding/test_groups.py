"""Groups: any modules in one bit string come back, from adaptzip's decoder and from the independent one."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptzip.adz.coding import entropy, tables
from adaptzip.adz.coding.entropy import Coded, Place, Whole, size_of
from adaptzip.adz.coding.levels import Levels
from adaptzip.adz.coding.tables import NOTHING, Class
from adaptzip.adz.coding.trellis import Quantised
from adaptzip.core.compressed import TensorSpec
from adaptzip.errors import FormatError
from formats import decoder
from tests.adz.coding.test_entropy import block, numbers, quantisers, same

SITES = [(3, 5), (40, 7), (5, 3)]
KINDS = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 4)), min_size=1, max_size=8)


def layout(site: tuple[int, int], whole: int, rank: int) -> list[TensorSpec]:
    """Tensors of a module, of which some are of whole numbers."""
    real = [TensorSpec("U", rank, site[0]), TensorSpec("C", rank, 2), TensorSpec("V", rank, site[1])]
    return [*real[:whole], TensorSpec("i", rank, 2, "index", bound=9), *real[whole:]]


def coded(rng: np.random.Generator, specs: Sequence[TensorSpec]) -> list[entropy.Block]:
    """Random numbers, with rows of zeros among them."""
    found: list[entropy.Block] = []
    for spec in specs:
        if spec.kind != "real":
            size = size_of(spec)
            found.append(Whole(rng.integers(0, size, (spec.rows, spec.width)).astype(np.int32), size))
            continue
        made = block(rng, spec.rows, spec.width, [0] * spec.rows, 0)
        zero = rng.random(spec.rows) < 0.3
        levels = np.where(zero[:, None], 0, made.quantised.levels)
        classes = tuple(Class(NOTHING, 0) if z else c for z, c in zip(zero, made.classes, strict=True))
        found.append(Levels(_quantised(levels), classes))
    return found


def _quantised(levels: np.ndarray) -> Quantised:
    return Quantised(levels, quantisers(levels))


def places(kinds: Sequence[int], whole: int) -> list[Place]:
    return [Place(f"m{i}", SITES[kind], partial(layout, SITES[kind], whole)) for i, kind in enumerate(kinds)]


def independently(group: bytes, max_rank: int, asked: Sequence[Place]) -> list[list[np.ndarray]]:
    def specs(place: Place) -> Callable[[int], list[decoder.Spec]]:
        return lambda rank: [decoder.Spec(s.rows, s.width, s.kind, s.bound) for s in place.layout(rank)]

    def site(kind: Hashable) -> tuple[int, int]:
        assert isinstance(kind, tuple)
        return kind

    found = decoder.decode_group(group, max_rank, [(site(place.kind), specs(place)) for place in asked])
    return [tensors or [] for tensors in found]


@settings(max_examples=50, deadline=None)
@given(modules=KINDS, whole=st.integers(0, 3), slack=st.integers(0, 3), seed=st.integers(0, 2**32))
def test_groups_come_back(modules: list[tuple[int, int]], whole: int, slack: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    asked = places([kind for kind, _ in modules], whole)
    held = [Coded(rank, coded(rng, layout(SITES[kind], whole, rank)) if rank else ()) for kind, rank in modules]
    most = max(max(module.rank for module in held), 1) + slack
    group = entropy.encode_group([(place.kind, module) for place, module in zip(asked, held, strict=True)], most)
    assert group is not None
    if not group:
        assert not any(module.rank for module in held)
        return
    again = entropy.decode_group(group, most, asked)
    assert [module.rank for module in again] == [module.rank for module in held]
    for before, after in zip(held, again, strict=True):
        assert all(same(*pair) for pair in zip(before.blocks, after.blocks, strict=True))
    for before, tensors in zip(held, independently(group, most, asked), strict=True):
        assert all(np.array_equal(numbers(b), t) for b, t in zip(before.blocks, tensors, strict=True))


@settings(max_examples=100, deadline=None)
@given(noise=st.binary(min_size=1, max_size=80), kinds=st.lists(st.integers(0, 2), max_size=6), most=st.integers(1, 9))
def test_noise_is_decoded_or_refused(noise: bytes, kinds: list[int], most: int) -> None:
    asked = places(kinds, 1)
    try:
        found = entropy.decode_group(noise, most, asked)
    except FormatError:
        with pytest.raises(decoder.Broken):
            independently(noise, most, asked)
        return
    for module, tensors in zip(found, independently(noise, most, asked), strict=True):
        assert all(np.array_equal(numbers(b), t) for b, t in zip(module.blocks, tensors, strict=True))


def zeros(width: int, rows: int = 1) -> Levels:
    levels = np.zeros((rows, width), dtype=np.int32)
    return Levels(Quantised(levels, np.zeros(levels.shape, dtype=np.uint8)), (Class(NOTHING, 0),) * rows)


def test_modules_without_numbers_take_next_to_nothing() -> None:
    """Of a hundred, one of which is zero; in blocks of their own they would take a guard each."""
    held = [Coded(int(i != 40)) for i in range(100)]
    group = entropy.encode_group([((48, 48), module) for module in held], 1)
    assert group is not None
    assert len(group) <= 8 < len(entropy.encode(1, 1, ())) * 4
    asked = [Place(str(i), (48, 48), lambda _: []) for i in range(100)]
    assert [module.rank for module in entropy.decode_group(group, 1, asked)] == [module.rank for module in held]
    nothing: Callable[[int], list[decoder.Spec]] = lambda _: []  # noqa: E731
    found = decoder.decode_group(group, 1, [((48, 48, 0), nothing)] * 100)
    assert [tensors is not None for tensors in found] == [bool(module.rank) for module in held]


def some(width: int, seed: int) -> Levels:
    """Rows as they are in small files: about a bit a number."""
    return block(np.random.default_rng(seed), 1, width, [0], 0)


@pytest.mark.parametrize("width", [384, 4096])
def test_a_row_of_zeros_takes_next_to_nothing(width: int) -> None:
    """Of a hundred, the first ones teach the model what to expect."""
    first = some(width, 0)
    alone = entropy.encode_group([(0, Coded(1, (first, some(8, 1))))] * 100, 1)
    beside = entropy.encode_group([(0, Coded(1, (first, some(8, 1), zeros(width))))] * 100, 1)
    assert alone is not None
    assert beside is not None
    assert len(beside) - len(alone) < 100 / 8


def test_a_row_of_zeros_is_a_class_in_a_block_too() -> None:
    levels = np.zeros((8, 64), dtype=np.int32)
    levels[:4] = 1
    made = Levels(_quantised(levels), (*(Class(3, 20),) * 4, *(Class(NOTHING, 0),) * 4))
    chunk = entropy.encode(8, 8, [made])
    (again,) = entropy.decode(chunk, 8, lambda rank: [TensorSpec("U", rank, 64)], "m")
    assert same(made, again)


def test_rows_of_zeros_are_coded_where_a_block_would_hold_too_many_numbers() -> None:
    width = 2**21
    chunk = entropy.encode(1, 1, [zeros(width)])
    (again,) = entropy.decode(chunk, 1, lambda _: [TensorSpec("U", 1, width)], "m")
    assert isinstance(again, Levels)
    assert not again.quantised.levels.any()
    assert again.classes == (tables.surest(),)
    assert width / 16384 - 64 < len(chunk) < 0.0026 * width / 8


def test_a_group_of_more_numbers_than_it_may_hold_is_not_made_or_read() -> None:
    module = Coded(1, (zeros(2**16),))
    many = [(0, module)] * 40
    assert entropy.encode_group(many, 1) is None
    group = entropy.encode_group(many[:12], 1)
    assert group is not None
    wider = [Place(str(i), 0, lambda _: [TensorSpec("U", 1, 2**20)]) for i in range(12)]
    with pytest.raises(FormatError, match=r"module '1': \d+ bytes cannot hold the tensors up to here"):
        entropy.decode_group(group, 1, wider)


def test_alike_modules_take_less_in_a_group() -> None:
    rng = np.random.default_rng(0)
    levels = [np.rint(rng.normal(size=(2, 96))).astype(np.int32) for _ in range(20)]
    modules = [Coded(2, (Levels(_quantised(found), (Class(3, 18),) * 2),)) for found in levels]
    apart = sum(len(entropy.encode(2, 16, module.blocks)) for module in modules)
    group = entropy.encode_group([((96, 96), module) for module in modules], 16)
    assert group is not None
    assert len(group) < apart - 20 * 3
