"""The numbers of generators against torch's own tensors and adapters that PEFT makes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from peft import LoraConfig, get_peft_model

from adaptzip.bases.starts.generators import (
    DRAWS_EACH,
    FREE_DRAWS,
    MOST_KEYS,
    Place,
    box_muller,
    check_start,
    matrices,
    whole_numbers,
    within_limits,
)
from adaptzip.core.mersenne import Mersenne
from adaptzip.errors import FormatError


def draw(seed: int, before: int, fill: str, shape: tuple[int, ...], dtype: torch.dtype) -> NDArray[np.float64]:
    """A tensor that torch fills after so many other numbers."""
    generator = torch.Generator().manual_seed(seed)
    torch.rand(before, generator=generator)
    tensor: torch.Tensor = getattr(torch.empty(shape, dtype=dtype), fill)(generator=generator)
    return tensor.double().numpy()


@pytest.mark.parametrize("seed", [0, 42, 2**32 - 1, 2**32 + 5, 67280421310721, 2**64 - 1])
def test_uniform_numbers_are_those_of_torch(seed: int) -> None:
    expected = draw(seed, 1000, "uniform_", (5, 77), torch.float32) * 2**24 - 2**23
    assert np.array_equal(whole_numbers("uniform", seed, Place(1000, 5, 77)), expected)


@pytest.mark.parametrize("shape", [(4, 64), (1, 16), (3, 37), (1, 17)])
def test_normal_numbers_are_those_of_torch_to_their_last_unit(shape: tuple[int, int]) -> None:
    expected = draw(7, 33, "normal_", shape, torch.float32) * 2**20
    assert np.abs(whole_numbers("normal", 7, Place(33, *shape)) - expected).max() < 1.5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_rounds_the_same_uniform_numbers(dtype: torch.dtype) -> None:
    whole = whole_numbers("uniform", 3, Place(10, 8, 32)) * 2.0**-24 + 0.5
    found = draw(3, 10, "uniform_", (8, 32), dtype)
    assert np.abs(found - whole).max() <= torch.finfo(dtype).eps / 2


def test_the_largest_normal_number_is_within_bounds() -> None:
    extreme = box_muller(np.array([(1 << 24) - 1] * 8 + [k << 21 for k in range(8)]))
    assert 6_040_000 < np.abs(extreme).max() < 2**23


@pytest.mark.parametrize("fill", ["uniform", "normal"])
def test_peft_keeps_the_last_draw_of_each_module(fill: str) -> None:
    torch.manual_seed(11)
    model = torch.nn.Sequential(torch.nn.Linear(48, 24), torch.nn.Linear(24, 40))
    torch.manual_seed(42)
    adapted = get_peft_model(
        model, LoraConfig(r=4, target_modules=["0", "1"], init_lora_weights=True if fill == "uniform" else "gaussian")
    )
    made = {name: p.detach().double().numpy() for name, p in adapted.named_parameters() if "lora_A" in name}
    a, b = 4 * 48, 4 * 24
    # lora_A and lora_B as nn.Linear draws them, and lora_A once more.
    places = {"0": Place(a + b, 4, 48), "1": Place(2 * a + b + 4 * 24 + 4 * 40, 4, 24)}
    for name, whole in matrices(fill, 42, places):
        A = next(value for key, value in made.items() if f"model.{name}." in key)
        unit = 2.0**-23 / A.shape[1] ** 0.5 if fill == "uniform" else 2.0**-20 / 4
        assert np.abs(A / unit - whole).max() < 1.5


def test_many_places_are_those_one_by_one_in_the_order_of_the_stream() -> None:
    places = {"late": Place(5000, 3, 50), "a": Place(20, 4, 32), "same": Place(20, 4, 32), "slice": Place(84, 2, 32)}
    for generator in ("uniform", "normal"):
        found = dict(matrices(generator, 5, places))
        assert list(found) == ["a", "same", "slice", "late"]
        for name, place in places.items():
            assert np.array_equal(found[name], whole_numbers(generator, 5, place))
    assert np.array_equal(found["a"], found["same"])
    assert np.array_equal(dict(matrices("uniform", 5, places))["a"][2:], whole_numbers("uniform", 5, places["slice"]))


def test_keys_that_modules_share_or_pass_over_are_found_again() -> None:
    places = {"b": Place(9, 2, 30), "a": Place(2, 4, 16), "c": Place(9, 2, 30)}
    found = dict(matrices("mlx", 0, places))
    assert list(found) == ["a", "b", "c"]
    for name, place in places.items():
        assert np.array_equal(found[name], whole_numbers("mlx", 0, place))
    assert np.array_equal(found["b"], found["c"])


def test_a_stream_goes_on_where_it_was_left() -> None:
    whole = Mersenne(9).draw(3000)
    stream = Mersenne(9)
    stream.skip_to(700)
    parts = [stream.draw(1), stream.draw(1300)]
    stream.skip_to(2500)
    assert stream.position == 2500
    assert np.array_equal(np.concatenate(parts), whole[700:2001])
    assert np.array_equal(stream.draw(500), whole[2500:])


def test_places_up_to_the_limit_are_accepted_and_beyond_refused() -> None:
    most = FREE_DRAWS + DRAWS_EACH * 100
    check_start("uniform", 0, {"a": Place(most - 100, 4, 25)})
    check_start("normal", 0, {"a": Place(most - 116, 4, 25)})
    check_start("mlx", 0, {"a": Place(MOST_KEYS, 4, 25)})
    for generator, offset in (("uniform", most - 99), ("normal", most - 115), ("mlx", MOST_KEYS + 1), ("uniform", -1)):
        with pytest.raises(FormatError, match=f"module a starts at number {offset}, expected 0 to"):
            check_start(generator, 0, {"a": Place(offset, 4, 25)})


@pytest.mark.parametrize("generator", ["uniform", "normal"])
def test_places_too_far_on_are_left_out_until_the_rest_is_within_limits(generator: str) -> None:
    most = FREE_DRAWS + DRAWS_EACH * 100
    places = {"far": Place(most + DRAWS_EACH * 160, 4, 16), "edge": Place(most - 50, 4, 16), "near": Place(7, 4, 25)}
    with pytest.raises(FormatError, match="module far"):
        check_start(generator, 0, places)
    kept = within_limits(generator, places)
    assert list(kept) == ["edge", "near"]
    check_start(generator, 0, kept)
    assert list(within_limits(generator, {"edge": Place(most + 1000, 4, 16), "near": places["near"]})) == ["near"]
    assert list(within_limits("mlx", {"a": Place(MOST_KEYS, 1, 9), "b": Place(MOST_KEYS + 1, 1, 9)})) == ["a"]
    assert within_limits(generator, {"far": Place(2**40, 4, 16)}) == {}


@pytest.mark.parametrize(("rank", "width"), [(0, 4), (5, 4), (1, 2**16), (1025, 2000)])
def test_shapes_that_make_no_frame_are_refused(rank: int, width: int) -> None:
    with pytest.raises(FormatError, match=f"module a starts from {rank} x {width} numbers"):
        check_start("uniform", 0, {"a": Place(0, rank, width)})


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_seeds_beyond_64_bits_are_refused(seed: int) -> None:
    with pytest.raises(FormatError, match="a start's seed is"):
        whole_numbers("uniform", seed, Place(0, 1, 4))


def test_unknown_generators_and_too_small_tensors_are_refused() -> None:
    with pytest.raises(FormatError, match="'philox', expected one of uniform, normal, mlx"):
        whole_numbers("philox", 0, Place(0, 1, 4))
    with pytest.raises(FormatError, match="module  starts from 15 normal numbers"):
        whole_numbers("normal", 0, Place(0, 3, 5))
