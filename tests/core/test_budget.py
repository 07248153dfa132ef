"""Budgets: what every unit stands for, read and through `compress`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import adaptzip
from adaptzip import Budget
from adaptzip.adz.container import writer
from adaptzip.core.budget import Counted
from adaptzip.errors import UsageError
from adaptzip.testing.adapters import adapter

SOURCE = adapter([(48, 64, 6)] * 4)
BYTES = 4 * SOURCE.parameters


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("7", 7), ("2k", 2_000), ("2K", 2_000), ("2m", 2_000_000), ("2M", 2_000_000), ("2g", 2_000_000_000),
        ("2G", 2_000_000_000), ("1.5k", 1_500), (".5M", 500_000), (" 3 k ", 3_000),
    ],
)  # fmt: skip
def test_numbers_are_parameters(text: str, amount: int) -> None:
    assert Budget.parse(text) == Budget(amount, "parameters")


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("7B", 7), ("7b", 7), ("2kB", 2_000), ("2KB", 2_000), ("2MB", 2_000_000), ("2GB", 2_000_000_000),
        ("2KiB", 2_048), ("2kib", 2_048), ("2MiB", 2_097_152), ("2GiB", 2_147_483_648), ("1.5KiB", 1_536),
        ("0.5MB", 500_000), ("0.25MiB", 262_144), ("0.5GB", 500_000_000), ("0.25GiB", 268_435_456),
    ],
)  # fmt: skip
def test_bytes_are_decimal_or_binary(text: str, amount: int) -> None:
    assert Budget.parse(text) == Budget(amount, "bytes")


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("2%", 0.02), ("100%", 1.0), ("0.5 %", 0.005), ("100x", 0.01), ("20X", 0.05), ("1x", 1.0), ("0.05", 0.05),
        (".5", 0.5), ("1.0", 1.0),
    ],
)  # fmt: skip
def test_shares_are_of_the_source(text: str, share: float) -> None:
    found = Budget.parse(text)
    assert found.unit == "fraction"
    assert found.amount == pytest.approx(share, rel=1e-12)


@pytest.mark.parametrize("text", ["", "k", "-3", "0", "0%", "0.0MB", "1e3", "1,5k", "2 3", "much", "nan", "inf"])
def test_what_is_no_positive_amount_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not a positive amount") as caught:
        Budget.parse(text)
    assert "64KiB" in str(caught.value.hint)


@pytest.mark.parametrize("text", ["101%", "0.5x", "3 bytes", "3T", "3TB", "3PiB", "1.5", "0.0001k", "0.3B", "50000.0"])
def test_what_has_no_meaning_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="has no meaning here"):
        Budget.parse(text)


def test_a_budget_is_parsed_once() -> None:
    budget = Budget.parse("50k")
    assert Budget.of("50k") == budget
    assert Budget.of(budget) is budget
    assert Budget.of(None) is None


@pytest.mark.parametrize(
    ("given", "budget"),
    [
        (50_000, Budget(50_000, "parameters")),
        (np.int64(7), Budget(7, "parameters")),
        (0.05, Budget(0.05, "fraction")),
        (1.0, Budget(1.0, "fraction")),
        (np.float64(0.5), Budget(0.5, "fraction")),
    ],
)
def test_numbers_are_parameters_or_shares(given: float, budget: Budget) -> None:
    assert Budget.of(given) == budget


@pytest.mark.parametrize("given", [0, -5, 0.0, -0.5, 1.5, 50_000.0, float("nan"), float("inf")])
def test_numbers_out_of_range_are_refused(given: float) -> None:
    with pytest.raises(UsageError, match="is not a (positive number of parameters|share of the source)") as caught:
        Budget.of(given)
    assert "64KiB" in str(caught.value.hint)


@pytest.mark.parametrize("given", [True, b"50k", ["50k"], 1j])
def test_what_is_no_number_is_refused(given: Any) -> None:
    with pytest.raises(UsageError, match=r"^budget .* is (bool|bytes|list|complex), expected text, a number or a Budg"):
        Budget.of(given)


@pytest.mark.parametrize(
    ("text", "unit", "budget"),
    [
        ("50k", "parameters", Budget(50_000, "parameters")),
        ("1.001k", "parameters", Budget(1_001, "parameters")),
        ("50000", "bytes", Budget(50_000, "bytes")),
        ("64KiB", "bytes", Budget(65_536, "bytes")),
        ("64k", "bytes", Budget(64_000, "bytes")),
    ],
)
def test_the_unit_may_be_said_elsewhere(text: str, unit: Counted, budget: Budget) -> None:
    assert Budget.parse(text, unit) == budget


@pytest.mark.parametrize(
    ("text", "unit", "why"),
    [
        ("64KiB", "parameters", "it does not count parameters"),
        ("2%", "parameters", "'%' is no unit"),
        ("100x", "bytes", "'x' is no unit"),
        ("0.5", "bytes", "it is less than one"),
        ("0.05", None, None),
    ],
)
def test_another_unit_is_refused(text: str, unit: Counted | None, why: str | None) -> None:
    if why is None:
        assert Budget.parse(text, unit).unit == "fraction"
        return
    with pytest.raises(UsageError, match=why):
        Budget.parse(text, unit)


@pytest.mark.parametrize(
    ("budget", "told"),
    [("50k", "50,000 stored parameters"), ("64KiB", "65,536 bytes on disk"), ("30x", "3.33 % of the source")],
)
def test_a_budget_is_told_in_words(budget: str, told: str) -> None:
    assert Budget.parse(budget).told == told


@pytest.mark.parametrize("given", [600, 0.35])
def test_compress_takes_numbers(given: float) -> None:
    found = adaptzip.compress(SOURCE, budget=given, device="cpu")
    assert found.provenance.parameters <= 600 if given == 600 else found.bytes <= 0.35 * BYTES


def test_bytes_of_a_source() -> None:
    assert Budget.parse("3k").bytes_for(10_000) is None
    assert Budget.parse("3kB").bytes_for(10_000) == 3_000
    assert Budget.parse("3%").bytes_for(10_000) == 300
    assert Budget.parse("30x").bytes_for(10_000) == 333


@pytest.mark.parametrize("budget", ["600", "0.6k", "0.6K", "0.0006M", "0.0006m", "0.0000006G", "0.0000006g"])
def test_compress_keeps_to_parameters(budget: str) -> None:
    assert 500 < adaptzip.compress(SOURCE, budget=budget, device="cpu").provenance.parameters <= 600


@pytest.mark.parametrize(
    ("budget", "limit"),
    [
        ("4000B", 4000), ("4kB", 4000), ("0.004MB", 4000), ("0.000004GB", 4000), ("3.90625KiB", 4000),
        ("0.003814697265625MiB", 4000), ("0.0000037252902984619140625GiB", 4000),
        ("35%", int(0.35 * BYTES)), ("3x", BYTES // 3),
    ],
)  # fmt: skip
def test_compress_fills_bytes(budget: str, limit: int) -> None:
    # Decimal and binary units are more than 2 % apart.
    assert 0.98 * limit < writer.size(adaptzip.compress(SOURCE, budget=budget, device="cpu")) <= limit
