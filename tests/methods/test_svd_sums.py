"""Least squares for coded rows, of which some may depend on others."""

from __future__ import annotations

import pytest
import torch

from adaptzip.methods._svd_sums import least_squares_rows, left_out


@pytest.fixture
def update() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    U, S, Vt = torch.linalg.svd(torch.randn(12, 9, generator=draw), full_matrices=False)
    return U[:, :4], S[:4], Vt[:4].T


def test_rows_that_are_coded_alike_share_what_they_stand_for(
    update: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
) -> None:
    U, S, V = update
    coded = (U * S).T.contiguous()
    coded[2] = 3 * coded[1]
    rows = least_squares_rows(U, S, V, coded)
    unit = coded / coded.norm(dim=1, keepdim=True)
    whole = (U * S) @ V.T
    # The nearest update within the span of the rows, by projection in float64.
    span = torch.linalg.qr(unit[[0, 1, 3]].T.double()).Q
    expected = span @ (span.T @ whole.double())
    torch.testing.assert_close((unit.T @ rows).double(), expected, rtol=1e-5, atol=1e-5)
    left = left_out(U, S, coded).squared_error(torch.zeros(4, 9))
    assert float(left) == pytest.approx(float((whole.double() - expected).square().sum()), rel=1e-4)


def test_rows_of_zeros_stand_for_nothing(update: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> None:
    U, S, V = update
    coded = (U * S).T.contiguous()
    coded[1:] = 0
    rows = least_squares_rows(U, S, V, coded)
    torch.testing.assert_close(rows[0], S[0] * V[:, 0], rtol=1e-5, atol=1e-6)
    assert not bool(rows[1:].any())
