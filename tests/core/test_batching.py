"""How modules are cut into batches: by numbers for many cores, by bytes for one shape at a time."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch

from adaptzip.core.adapter import LoraFactors
from adaptzip.core.batching import WORKING_BYTES, batches, group_by_shape, over_batches

CPU, OTHER = torch.device("cpu"), torch.device("meta")


def of_size(numbers: int) -> LoraFactors:
    """Factors that count `numbers` and take no memory."""
    return LoraFactors(torch.zeros(1, 1).expand(1, numbers - 1), torch.zeros(1, 1))


def modules_of(count: int, numbers: int) -> Mapping[str, LoraFactors]:
    return {f"m{i:04}": of_size(numbers) for i in range(count)}


def test_a_batch_is_filled_up_to_the_most_and_no_further() -> None:
    modules = {"a": of_size(40), "b": of_size(60), "c": of_size(41), "d": of_size(60), "e": of_size(200)}
    assert list(batches(list(modules), modules, 100)) == [["a", "b"], ["c"], ["d"], ["e"]]
    assert list(batches(list(modules), modules, 101)) == [["a", "b"], ["c", "d"], ["e"]]
    assert list(batches(list(modules), modules, 461)) == [["a", "b", "c", "d", "e"]]
    assert list(batches([], modules, 100)) == []


def test_only_the_names_asked_for_are_batched_in_their_order() -> None:
    modules = modules_of(5, 100)
    assert list(batches(["m0003", "m0001"], modules, 1000)) == [["m0003", "m0001"]]


@pytest.mark.parametrize(
    ("count", "numbers", "expected"),
    [
        (8, 1000, 4),  # small adapters: four parts
        (64, 2**16, 16),  # at most 2^18 numbers in a small one's batch
        (256, 250_000, 64),  # large ones: 64 parts
        (300, 500_000, 100),  # at most a million and a half in any batch
    ],
)
def test_an_adapter_is_cut_for_many_cores(count: int, numbers: int, expected: int) -> None:
    modules = modules_of(count, numbers)
    found = list(over_batches(lambda names: names, list(modules), modules, CPU))
    assert [name for names in found for name in names] == list(modules)
    assert len(found) == expected
    assert len({len(names) for names in found}) == 1


def test_a_part_of_a_large_adapter_is_rounded_up() -> None:
    """A 64th of all numbers is 999 999 and a bit: four modules of 250 000 go together."""
    modules = {**modules_of(255, 250_000), "z": of_size(249_960)}
    found = list(over_batches(len, list(modules), modules, CPU))
    assert found == [4] * 64


def test_elsewhere_a_batch_is_three_million_numbers_whatever_the_adapter() -> None:
    modules = modules_of(7, 1_000_000)
    found = list(over_batches(lambda names: len(names), list(modules), modules, OTHER))
    assert found == [3, 3, 1]


def test_groups_count_four_bytes_for_each_number_of_both_factors() -> None:
    """rank 2 of 10 x 20 is 2 (10 + 20) numbers, 240 bytes."""
    modules = {name: LoraFactors(torch.zeros(2, 20), torch.zeros(10, 2)) for name in "abcde"}
    assert [len(names) for names in group_by_shape(modules, working_bytes=480)] == [2, 2, 1]
    assert [len(names) for names in group_by_shape(modules, working_bytes=479)] == [1] * 5
    assert [len(names) for names in group_by_shape(modules, working_bytes=240 * 5)] == [5]


def test_modules_of_rank_zero_share_a_group() -> None:
    modules = {name: LoraFactors(torch.zeros(0, 20), torch.zeros(10, 0)) for name in "abc"}
    assert group_by_shape(modules) == [["a", "b", "c"]]


def test_the_working_set_is_32_mebibytes() -> None:
    assert WORKING_BYTES == 33_554_432
