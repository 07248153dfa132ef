"""Budgets: what every unit stands for, read and through `compress`."""

from __future__ import annotations

from typing import Any

import pytest

import adaptzip
from adaptzip import Budget
from adaptzip.adz.container import writer
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
    ("text", "share"), [("2%", 0.02), ("100%", 1.0), ("0.5 %", 0.005), ("100x", 0.01), ("1x", 1.0)]
)
def test_shares_are_of_the_source(text: str, share: float) -> None:
    found = Budget.parse(text)
    assert found.unit == "fraction"
    assert found.amount == pytest.approx(share, rel=1e-12)


@pytest.mark.parametrize("text", ["", "k", "-3", "0", "0%", "0.0MB", "1e3", "1,5k", "2 3", "much", "nan", "inf"])
def test_what_is_no_positive_amount_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not a positive amount") as caught:
        Budget.parse(text)
    assert "64KiB" in str(caught.value.hint)


@pytest.mark.parametrize("given", [50_000, 0.5])
def test_a_bare_number_has_no_unit(given: Any) -> None:
    with pytest.raises(UsageError, match="expected text or a Budget") as caught:
        adaptzip.compress(SOURCE, budget=given)
    assert "64KiB" in str(caught.value.hint)


@pytest.mark.parametrize("text", ["101%", "0.5x", "3 bytes", "3T", "3TB", "3X", "3PiB"])
def test_what_has_no_meaning_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="has no meaning here"):
        Budget.parse(text)


def test_a_budget_is_parsed_once() -> None:
    budget = Budget.parse("50k")
    assert Budget.of("50k") == budget
    assert Budget.of(budget) is budget
    assert Budget.of(None) is None


@pytest.mark.parametrize("given", [5, 0.5, True, b"50k", ["50k"]])
def test_what_is_no_text_has_no_unit(given: Any) -> None:
    with pytest.raises(UsageError, match=r"^budget .* is (int|float|bool|bytes|list), expected text or a Budget$"):
        Budget.of(given)


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
