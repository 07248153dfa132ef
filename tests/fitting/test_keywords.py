"""What is given by name: parameters, options of one method, and names that are neither."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import adaptzip
from adaptzip.errors import UsageError
from adaptzip.fitting.requests import AUTO
from adaptzip.methods import fittable
from adaptzip.testing.adapters import adapter

SOURCE = adapter([(12, 16, 3)] * 2)


def compress(**given: Any) -> object:
    return adaptzip.compress(SOURCE, device="cpu", **given)


def plan(to: str = "svd", **given: Any) -> object:
    return adaptzip.plan(SOURCE, methods=None if to == AUTO else [to], device="cpu", **given)


def distill(**given: Any) -> object:
    return adaptzip.distill(teacher=SOURCE, base="base", data="self", device="cpu", **given)


every = pytest.mark.parametrize("function", [compress, plan, distill])


@every
def test_the_nearest_parameter_is_named(function: Callable[..., object]) -> None:
    with pytest.raises(UsageError) as caught:
        function(bugdet="5x")
    told = f"{function.__name__} has no parameter 'bugdet', and method 'svd' has no option 'bugdet'"
    assert (str(caught.value), caught.value.hint) == (told, "did you mean 'budget'?")


@every
def test_the_nearest_option_is_named(function: Callable[..., object]) -> None:
    with pytest.raises(UsageError, match="method 'vblora' has no option 'vector'") as caught:
        function(to="vblora", vector=3)
    assert caught.value.hint == "did you mean 'vectors'?"


@every
def test_the_methods_options_are_told_where_none_is_near(function: Callable[..., object]) -> None:
    with pytest.raises(UsageError, match="has no parameter 'zzz'") as caught:
        function(to="loretta", zzz=3)
    assert str(caught.value.hint).startswith("its options: ")
    with pytest.raises(UsageError, match="has no parameter 'zzz'") as caught:
        function(zzz=3)
    assert caught.value.hint == "its options: sides"


@pytest.mark.parametrize("function", [compress, plan])
def test_an_option_needs_one_method(function: Callable[..., object]) -> None:
    with pytest.raises(UsageError, match=f"'vectors' is an option of one method, and {len(fittable())} are") as caught:
        function(to=AUTO, vectors=3)
    assert caught.value.hint == "name one method"
    with pytest.raises(UsageError, match=rf"^{function.__name__} has no parameter 'bugdet'$") as caught:
        function(to=AUTO, bugdet="5x")
    assert caught.value.hint == "did you mean 'budget'?"
    with pytest.raises(UsageError, match="has no parameter 'zzz'") as caught:
        function(to=AUTO, zzz=3)
    assert str(caught.value.hint).startswith("its parameters: source, ")


def test_plan_and_compress_take_the_same_options() -> None:
    report = adaptzip.plan(SOURCE, methods=["loretta"], max_error=0.9, device="cpu", rank=1)
    assert all(forecast.options["rank"] == 1 for forecast in report.forecasts)
    assert adaptzip.compress(SOURCE, to="loretta", max_error=0.9, device="cpu", rank=1).config["rank"] == 1


def test_unknown_methods_are_told_as_such() -> None:
    with pytest.raises(UsageError, match="'magic' is unknown"):
        compress(to="magic", bugdet="5x")


def test_one_name_is_no_list_of_methods() -> None:
    with pytest.raises(UsageError, match="methods is 'svd', expected a list of names") as caught:
        adaptzip.plan(SOURCE, methods="svd")
    assert caught.value.hint == "methods=['svd']"
