"""What is put into a file beside its blocks."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.core.meta import Meta
from adaptzip.fitting.assembly import factor_dtype, stored_options
from adaptzip.fitting.compression import job_of, make
from adaptzip.fitting.loading import load_source
from adaptzip.fitting.requests import AUTO, Request
from adaptzip.testing.adapters import adapter


def of(*dtypes: torch.dtype, meta: Meta | None = None) -> Adapter:
    modules = {str(i): LoraFactors(torch.ones(1, 2).to(d), torch.ones(3, 1).to(d)) for i, d in enumerate(dtypes)}
    return Adapter(modules, {}, meta or Meta())


@pytest.mark.parametrize(
    ("dtypes", "name"),
    [
        ((torch.float16,), "F16"),
        ((torch.bfloat16, torch.bfloat16), "BF16"),
        ((torch.float16, torch.bfloat16), "F32"),
        ((torch.float32, torch.float16), "F32"),
        ((torch.float64, torch.float16), "F32"),
        ((torch.float64,), "F32"),
    ],
)
def test_the_dtype_told_is_the_narrowest_that_holds_every_factor(dtypes: tuple[torch.dtype, ...], name: str) -> None:
    assert factor_dtype(of(*dtypes)) == name


def test_the_dtype_that_factors_had_before_they_were_decoded_counts() -> None:
    assert factor_dtype(of(torch.float32, meta=Meta(dtype=torch.bfloat16))) == "BF16"


@dataclass(frozen=True)
class Config:
    """Options of a method."""

    keep: float = 0.5
    width: int | None = None


def test_options_that_have_their_default_are_left_out() -> None:
    assert stored_options(Config()) == {}
    assert stored_options(Config(0.5, 3)) == {"width": 3}
    assert stored_options(Config(0.25)) == {"keep": 0.25}


def test_what_is_kept_exactly_has_no_error_and_every_rank() -> None:
    source = adapter({"a": (9, 7, 3), "b": (9, 7, 2)})
    made = make(source, Request(lossless=True, seed=4))
    assert (made.error, made.distortion, made.ranks) == (0, 0, {"a": 3, "b": 2})
    provenance = made.compressed.provenance
    assert (provenance.relative_error, provenance.parameters, provenance.seed) == (0, source.parameters, 4)
    assert made.compressed.max_rank == 3
    assert not made.compressed.renamed
    assert make(source, Request(lossless=True, base_name="a/b")).compressed.renamed


def test_a_job_is_certain_where_one_method_is_asked_for() -> None:
    source = load_source(adapter({"a": (9, 7, 3)}), Request())
    assert job_of(source, Request(lossless=True)) is None
    assert job_of(source, Request(to=AUTO)) is None
    job = job_of(source, Request(to="svd"))
    assert job is not None
    assert job.method.name == "svd"
