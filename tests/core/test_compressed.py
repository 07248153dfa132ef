"""What training reports say is kept, and the small sums of a compressed adapter."""

from __future__ import annotations

import pytest

from adaptzip.core.compressed import Compressed, Provenance, Site, TensorSpec
from adaptzip.core.training_report import TrainingReport, share_kept


def report(metric: str | None, none: float, teacher: float, fitted: float, distilled: float | None) -> TrainingReport:
    rows = ((None, None, value) for value in (none, teacher, fitted, distilled))
    return TrainingReport(100, 10, 3, 5, metric, *rows)


def test_the_share_kept_of_a_metric_that_grows() -> None:
    assert share_kept("accuracy", 0.5, 0.9, 0.8) == pytest.approx(0.75)
    assert share_kept("accuracy", 0.5, 0.9, 0.4) == pytest.approx(-0.25)
    assert share_kept("F1", 0.0, 0.5, 0.5) == 1


@pytest.mark.parametrize("metric", ["loss", "squared error"])
def test_the_share_kept_of_a_metric_that_falls(metric: str) -> None:
    assert share_kept(metric, 3.0, 1.0, 1.5) == pytest.approx(0.75)
    assert share_kept(metric, 1.0, 3.0, 1.5) is None


def test_nothing_is_kept_of_no_improvement() -> None:
    assert share_kept("accuracy", 0.5, 0.5, 0.5) is None
    assert share_kept("accuracy", 0.9, 0.5, 0.5) is None


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_nothing_is_said_where_a_figure_is_missing(missing: int) -> None:
    figures: list[float | None] = [0.5, 0.9, 0.8]
    figures[missing] = None
    assert share_kept("accuracy", *figures) is None


def test_no_improvement_kept_is_a_plain_zero() -> None:
    assert str(share_kept("loss", 3.0, 1.0, 3.0)) == "0.0"


def test_a_report_tells_gains_by_its_metric_from_the_last_figure() -> None:
    found = report("loss", 3.0, 1.0, 2.0, 1.5)
    assert found.gain("none") == 0
    assert found.gain("teacher") == 1
    assert found.gain("fitted") == pytest.approx(0.5)
    assert found.gain("distilled") == pytest.approx(0.75)
    assert report("loss", 3.0, 1.0, 2.0, None).gain("distilled") is None
    assert report(None, 3.0, 1.0, 2.0, 1.5).gain("distilled") is None


def test_a_tensor_counts_rows_times_width() -> None:
    assert TensorSpec("U", 3, 7).numbers == 21
    assert TensorSpec("U", 0, 7).numbers == 0


def compressed(**options: object) -> Compressed:
    sites = {"a": Site(4, 5), "b": Site(6, 7)}
    return Compressed("svd", 1, options, sites, 2, [b"abc", b""], 0.5, Provenance("x", 100, None, 0.1, 9), shared=b"de")


def test_a_compressed_adapter_counts_blocks_and_what_they_share() -> None:
    assert compressed().payload_bytes == 5
    assert compressed().modules == ("a", "b")


def test_lossless_is_what_the_config_says() -> None:
    assert compressed(lossless=True).lossless is True
    assert compressed(lossless=False).lossless is False
    assert compressed().lossless is False
