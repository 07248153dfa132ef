"""The adapters that `adaptzip.testing` draws: they are whole, and a lossless file holds any of them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings

import adaptzip
from adaptzip import Adapter
from adaptzip.core.comparing import same_bits
from adaptzip.testing.adapters import SIDES, adapter, adapters, relative_error, same_factors


@settings(max_examples=40, deadline=None, derandomize=True)
@given(adapters())
def test_a_lossless_file_holds_whatever_is_drawn(source: Adapter) -> None:
    assert any(bool(module.delta().any()) for module in source.modules.values())
    again = adaptzip.reconstruct(adaptzip.compress(source, lossless=True))
    assert again.modules.keys() == source.modules.keys()
    for name, module in source.modules.items():
        other = again.modules[name]
        assert (other.layout, other.kernel, other.shape) == (module.layout, module.kernel, module.shape)
        assert same_bits(other.A, module.A)
        assert same_bits(other.B, module.B)
        assert other.scaling == module.scaling
    assert again.extras.keys() == source.extras.keys()
    assert all(same_bits(extra, source.extras[key]) for key, extra in again.extras.items())


@settings(max_examples=20, deadline=None, derandomize=True)
@given(adapters(most_modules=1, layouts=False, zeros=False, scalings=(1.0,), with_extras=False))
def test_what_is_left_out_is_not_drawn(source: Adapter) -> None:
    (module,) = source.modules.values()
    assert (module.layout, module.kernel, module.scaling) == ("linear", (), 1.0)
    assert set(module.shape) <= set(SIDES)
    assert not source.extras


def test_errors_and_equality_are_of_the_updates() -> None:
    one, half = adapter([(9, 7, 2)]), adapter([(9, 7, 2)])
    assert same_factors(one, half)
    half.modules["m.0"].B.mul_(0.5)
    assert not same_factors(one, half)
    assert relative_error(one, half) == pytest.approx(0.5)
    assert not same_bits(torch.zeros(2), -torch.zeros(2))
