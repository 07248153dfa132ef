"""Requests, and the jobs that are made of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import adaptzip
from adaptzip import Adapter, LoraFactors
from adaptzip.bases.artefact import write_basis
from adaptzip.bases.updates import build_basis
from adaptzip.core.budget import Budget
from adaptzip.core.sensitivity import Sensitivity
from adaptzip.errors import CheckpointError, RefusedError, UsageError
from adaptzip.files.digest import file_digest
from adaptzip.fitting import loading
from adaptzip.fitting.loading import load_source
from adaptzip.fitting.requests import Request, prepare_job, said_options
from adaptzip.testing.adapters import adapter, factors
from adaptzip.testing.trials import job_of, needs
from tests.cases import sixth_method
from tests.cases.plugging import installed

SOURCE = adapter({"a": (12, 9, 3), "b": (9, 12, 2)}, extras={"head": torch.ones(5)})


@pytest.fixture(autouse=True, scope="module")
def _outside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with installed(tmp_path_factory.mktemp("toys")):
        yield


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"extras": "int4"}, "extras mode 'int4' is unknown"),
        ({"max_error": 0.0}, "not between 0 and 1"),
        ({"max_error": float("nan")}, "not between 0 and 1"),
        ({"max_error": 1.0}, "not between 0 and 1"),
        ({"max_error": -0.1}, "not between 0 and 1"),
        ({"max_error": 2.0}, "not between 0 and 1"),
        ({"max_error": float("inf")}, "not between 0 and 1"),
        ({"seed": -1}, "seed -1 is out of range"),
        ({"seed": 2**63}, "seed 9223372036854775808 is out of range"),
        ({"seed": 2**63 + 1}, "seed 9223372036854775809 is out of range"),
        ({"seed": 2**64}, "is out of range"),
        ({"calibration": "texts.jsonl"}, "calibration needs the base model"),
        ({"text_field": "text"}, "the field 'text' is named, and no texts"),
        ({"pair_field": "pair"}, "the field 'pair' is named, and no texts"),
        ({"completion_field": "answer"}, "the field 'answer' is named, and no texts"),
        ({"allocate": "uniform"}, "allocating ranks needs a budget or an error"),
        ({"allocate": "even", "max_error": 0.1}, "allocation 'even' is unknown"),
        ({"base_name": " "}, "is no name"),
        ({"max_error": "0.1"}, "max_error is '0.1', expected a number"),
        ({"seed": 1.5}, "seed is 1.5, expected a whole number"),
        ({"ranks": [1, 2]}, "ranks is .*, expected a mapping"),
        ({"device": 0}, "device is 0, expected text"),
    ],
)
def test_senseless_requests_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Request(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"max_error": 0.999},
        {"max_error": 1e-9},
        {"seed": 0},
        {"seed": 2**63 - 1},
        {"allocate": "uniform", "max_error": 0.1},
        {"allocate": "energy", "budget": Budget(9, "bytes")},
        {"calibration": "texts.jsonl", "base": "base", "text_field": "text"},
        {"lossless": True, "base": "base"},
    ],
)
def test_requests_at_the_edge_of_sense(options: dict[str, Any]) -> None:
    request = Request(**options)
    assert all(getattr(request, name) == value for name, value in options.items())


def test_a_lossless_request_leaves_nothing_to_choose() -> None:
    assert Request(lossless=True, base_name="org/base", alpha=2.0).lossless
    given: dict[str, Any] = {
        "budget": Budget.parse("1k"), "max_error": 0.1, "extras": "int8", "basis": "x.basis", "ranks": {"a": 1},
        "options": {"keep": 0.5},
    }  # fmt: skip
    for name, value in given.items():
        with pytest.raises(UsageError, match="lossless leaves nothing to choose"):
            Request(lossless=True, **{name: value})


def test_an_adapter_in_memory_has_a_size_and_no_hash() -> None:
    source = load_source(SOURCE, Request())
    assert source.bytes == 4 * (SOURCE.parameters + 5)
    assert source.hash is None
    assert [entry.name for entry in source.extras.entries] == ["head"]


def test_an_adapter_on_disk_has_its_files_size_and_hash(tmp_path: Path) -> None:
    adaptzip.export(Adapter(SOURCE.modules), tmp_path / "peft")
    file = tmp_path / "peft" / "adapter_model.safetensors"
    source = load_source(tmp_path / "peft", Request())
    assert (source.bytes, source.hash) == (file.stat().st_size, file_digest(file))


def test_an_adapter_without_modules_is_refused() -> None:
    with pytest.raises(RefusedError, match="no low-rank module") as caught:
        load_source(Adapter({}, {"head": torch.ones(3)}), Request())
    assert caught.value.hint


@pytest.mark.parametrize("factor", ["A", "B"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_that_are_none_are_refused_by_module_and_factor(factor: str, bad: float) -> None:
    module = LoraFactors(torch.ones(2, 4), torch.ones(3, 2))
    getattr(module, factor)[1, 1] = bad
    source = Adapter({"good": LoraFactors(torch.ones(2, 4), torch.ones(3, 2)), "odd": module})
    for lossless in (False, True):
        with pytest.raises(CheckpointError, match=f"'odd': {factor} has") as caught:
            load_source(source, Request(lossless=lossless))
        assert "earlier save" in str(caught.value.hint)


def test_options_are_the_methods_own() -> None:
    assert job_of("sixth", SOURCE, options={"keep": 0.5}).config == sixth_method.Config(keep=0.5)
    with pytest.raises(UsageError, match="'sixth' has no option 'hold'") as caught:
        job_of("sixth", SOURCE, options={"hold": 0.5})
    assert caught.value.hint == "its options: keep"
    with pytest.raises(UsageError, match="'svd' has no option 'keep'") as caught:
        job_of("svd", SOURCE, options={"keep": 0.5})
    assert caught.value.hint == "its options: sides"
    assert said_options([]) == "it has no options"


def test_adapters_are_surveyed_for_methods_that_ask() -> None:
    assert job_of("svd", SOURCE).survey is None
    survey = job_of("seventh", SOURCE).survey
    assert survey is not None
    assert list(survey.sites) == ["a", "b"]


def test_only_methods_that_need_a_basis_get_one(tmp_path: Path) -> None:
    assert job_of("svd", SOURCE, basis=build_basis([SOURCE])).context.basis is None
    embedded = job_of("seventh", SOURCE).context.basis
    assert embedded is not None
    assert embedded.reference.source == "embedded"
    write_basis(needs("seventh", SOURCE)["basis"], tmp_path / "x.basis")
    for given in (tmp_path / "x.basis", str(tmp_path / "x.basis")):
        found = job_of("seventh", SOURCE, basis=given, embed_basis=False).context.basis
        assert found is not None
        assert found.reference.source == "file"


def test_seeds_and_ranks_reach_the_method() -> None:
    context = job_of("svd", SOURCE, seed=7, ranks={"a": 2}).context
    assert context.seed == 7
    assert context.ranks == {"a": 2}


def test_calibration_is_asked_with_what_the_request_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models are run for calibration alone, and what it finds goes into the job."""
    asked: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    weights = {"a": Sensitivity(4.0)}

    def calibrate(*args: Any, **options: Any) -> SimpleNamespace:
        asked.append((args, options))
        return SimpleNamespace(sensitivities=weights, importance={"a": 1.0})

    monkeypatch.setattr(loading, "calibrate", calibrate)
    load_source(SOURCE, Request(base="base"))
    assert not asked
    request = Request(base="base", calibration="texts.jsonl", seed=3)
    source = load_source(SOURCE, request)
    (args, options) = asked[0]
    assert (args[0], args[2]) == (Path("base"), Path("texts.jsonl"))
    assert args[1].modules is SOURCE.modules
    assert options["seed"] == 3
    assert source.sensitivities == weights
    assert source.importance == {"a": 1.0}
    assert prepare_job(source, request).context.sensitivities == weights


def test_updates_that_float32_cannot_square_are_refused() -> None:
    huge = factors(4, 4, 2, scaling=1e29)
    with pytest.raises(RefusedError, match="module 'm': its update may be as large as"):
        prepare_job(load_source(Adapter({"m": huge}), Request()), Request())
