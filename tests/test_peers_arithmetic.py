"""The arithmetic beside every peer: delta rates, and the formulas of papers, against hand computation."""

from __future__ import annotations

from math import log2, sqrt

import pytest
import torch

from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.testing.adapters import adapter as made
from benchmarks.peers import papers
from benchmarks.peers.rates import Point, bytes_at, delta_rate, error_at, frontier
from benchmarks.storage import error_of


def curve(*pairs: tuple[float, float]) -> list[Point]:
    """Points of an error and bytes."""
    return [Point(f"{error:g}", size, error) for error, size in pairs]


ADAPTER = made({"l.0.q": (24, 16, 4), "l.0.v": (16, 16, 4)}, seed=1)


def test_the_delta_rate_of_two_lines_by_hand() -> None:
    # Log bytes are lines of log error; above ours by log 1 at one end and log 4 at the other, by log 2 in the mean.
    mine, theirs = curve((0.1, 1000), (0.4, 250)), curve((0.1, 1000), (0.4, 1000 - 1e-9))
    found = delta_rate(mine, theirs)
    assert found is not None
    assert found.rate == pytest.approx(1, rel=1e-6)
    assert (found.low, found.high) == (0.1, 0.4)


@pytest.mark.parametrize("factor", [0.5, 1.25, 3.0])
def test_the_delta_rate_of_a_shifted_curve_is_its_shift(factor: float) -> None:
    mine = curve((0.02, 9000), (0.05, 5200), (0.1, 4000), (0.3, 900), (0.8, 50))
    found = delta_rate(mine, [Point("", factor * point.bytes, point.error) for point in mine])
    assert found is not None
    assert found.rate == pytest.approx(factor - 1, rel=1e-9)
    back = delta_rate([Point("", factor * point.bytes, point.error) for point in mine], mine)
    assert back is not None
    assert back.rate == pytest.approx(1 / factor - 1, rel=1e-9)


def test_the_delta_rate_covers_the_errors_of_both() -> None:
    mine, theirs = curve((0.1, 400), (0.4, 100)), curve((0.2, 400), (0.8, 100))
    found = delta_rate(mine, theirs)
    assert found is not None
    assert (found.low, found.high) == (0.2, 0.4)
    assert found.rate == pytest.approx(1, rel=1e-9)
    assert delta_rate(mine, curve((0.5, 400), (0.8, 100))) is None
    assert delta_rate(mine, curve((0.2, 400))) is None
    assert delta_rate(mine, curve((0.37, 400), (0.8, 100))) is None
    assert delta_rate(mine, curve((0.35, 400), (0.8, 100))) is not None


def test_between_points_and_outside() -> None:
    points = curve((0.1, 400), (0.4, 100))
    assert bytes_at(points, 0.2) == pytest.approx(200)
    assert error_at(points, 200) == pytest.approx(0.2)
    assert bytes_at(points, 0.1) == pytest.approx(400)
    assert bytes_at(points, 0.09) is bytes_at(points, 0.5) is error_at(points, 99) is error_at(points, 401) is None


def test_what_is_beaten_in_both_is_no_part_of_a_curve() -> None:
    points = curve((0.0, 900), (0.1, 400), (0.2, 450), (0.2, 300), (0.3, 300), (1.0, 10))
    assert frontier(points) == curve((0.1, 400), (0.2, 300))


def test_compeft_by_hand() -> None:
    tensor = torch.tensor([[4.0, -3.0], [1.0, 0.0]])
    # The mean is 0.5 and the deviations are 3.5, -3.5, 0.5 and -0.5.
    assert papers.ternary(tensor, 0.5).tolist() == [[2.5, -2.5], [0.0, 0.0]]
    assert papers.ternary_bits(0.5) == 1.5
    assert papers.ternary_bits(2 / 3) == pytest.approx(log2(3))
    assert papers.ternary_bits(0.0) == 0


def test_compeft_counts_symbols_and_scalars_and_has_the_best_factor() -> None:
    point = papers.compeft(ADAPTER, 0.25)
    # 4 * (24 + 16) and 4 * (16 + 16) numbers of which a quarter are kept, in four tensors.
    bits = 288 * (0.25 * 3 + 0.75 * log2(4 / 3)) + 4 * 16
    assert point.bytes == -(-bits // 8)
    plain = {
        name: LoraFactors(papers.ternary(m.A, 0.25), papers.ternary(m.B, 0.25), m.scaling)
        for name, m in ADAPTER.modules.items()
    }
    best = papers.best_alpha(ADAPTER.modules, plain)
    for factor in (0.9, 1.1):
        other = {n: LoraFactors(factor * best * m.A, factor * best * m.B, m.scaling) for n, m in plain.items()}
        assert error_of(ADAPTER, other) > point.error


def test_compeft_keeps_what_is_ternary() -> None:
    A = torch.tensor([[3.0, -3.0, 0.0, 0.0]])
    exact = Adapter({"m": LoraFactors(A, 7 * A.T, 2.0)})
    assert papers.compeft(exact, 0.5).error == pytest.approx(0, abs=1e-6)


def test_loraquant_by_hand() -> None:
    assert papers.signed(torch.tensor([[1.0, -3.0, 2.0, -2.0]])).tolist() == [[2, -2, 2, -2]]
    levels = torch.tensor([[-1.0, 0.0, 1.0, 2.0]])
    assert torch.equal(papers.rounded(levels, 2), levels)
    assert papers.rounded(torch.tensor([[0.0, 0.4, 0.6, 3.0]]), 2).tolist() == [[0, 0, 1, 3]]
    S = torch.tensor([2.0, 1.0, 1.0])
    assert [papers.split(S, ratio) for ratio in (0.5, 0.8, 1.0)] == [1, 2, 3]


def test_loraquant_groups_have_scales_of_their_own() -> None:
    rows = torch.cat([torch.ones(1, 128), torch.full((1, 2), -5.0)], dim=1)
    assert torch.equal(papers.signed(rows), rows)


def test_loraquant_counts_bits_scales_and_zero_points() -> None:
    one = Adapter({"m": LoraFactors(torch.eye(2, 200), torch.eye(100, 2) * torch.tensor([3.0, 1.0]))})
    # A component of 100 + 200 numbers in 2 bits with 1 + 2 groups, and one in signs.
    assert papers.loraquant(one, 2, 0.9).bytes == -(-(2 * 300 + 3 * 18 + 300 + 3 * 16) // 8)


def test_resize_rules_by_hand() -> None:
    S = torch.tensor([4.0, 2.0, 1.0, 1.0])
    assert [papers.fixed(rank)(S) for rank in (1, 3, 9)] == [1, 3, 4]
    assert [papers.sv_ratio(ratio)(S) for ratio in (1.0, 2.0, 3.0, 5.0)] == [1, 1, 2, 4]
    assert [papers.cumulative(share)(S) for share in (0.1, 0.5, 0.51, 0.75, 1.0)] == [1, 1, 2, 2, 4]
    # The squares are 16, 4, 1 and 1, of 22.
    assert [papers.sv_fro(share)(S) for share in (0.8, sqrt(17 / 22), 0.96, 1.0)] == [1, 2, 3, 4]


def test_a_resized_adapter_loses_what_is_cut() -> None:
    point = papers.resized(ADAPTER, papers.fixed(2), "rank 2")
    assert point.bytes == 2 * 2 * (24 + 16 + 16 + 16)
    squares = [torch.linalg.svdvals(m.delta().double()).square() for m in ADAPTER.modules.values()]
    lost = sum(float(one[2:].sum()) for one in squares) / sum(float(one.sum()) for one in squares)
    assert point.error == pytest.approx(sqrt(lost), rel=1e-3)
