"""Every method on adapters of odd shapes: whatever they are, a file comes back as what was compressed."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import adaptzip
from adaptzip import Adapter, LoraFactors, methods
from adaptzip.adz.container import writer
from adaptzip.errors import AdaptzipWarning, CheckFailedError, CheckpointError, RefusedError
from tests.cases.any_method import EVERY, compress, same_factors
from tests.cases.plugging import installed
from tests.cases.small_adapters import adapter, factors, relative_error

SIDES = st.sampled_from([1, 2, 3, 5, 7, 13, 17, 31])
SHAPES = st.lists(st.tuples(SIDES, SIDES, st.integers(1, 5)), min_size=1, max_size=3)
COUNT = 2000


@pytest.fixture(autouse=True, scope="module")
def _outside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with installed(tmp_path_factory.mktemp("toys")):
        yield


def goes_round(name: str, source: Adapter, file: Path, **limits: object) -> None:
    """Compress into a file and back; the error is what the file says, and shapes are kept."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AdaptzipWarning)
        compressed = compress(name, source, file, force=True, **limits)
    assert writer.size(compressed) == file.stat().st_size
    after = adaptzip.reconstruct(file)
    assert same_factors(after, adaptzip.reconstruct(compressed))
    assert list(after.modules) == sorted(source.modules)
    for key, module in source.modules.items():
        assert after.modules[key].shape == module.shape
        assert torch.isfinite(after.modules[key].delta()).all()
    stated = compressed.provenance.relative_error
    assert relative_error(source, after) == pytest.approx(stated, rel=2e-3, abs=2e-6)


@pytest.mark.parametrize("name", EVERY)
@settings(max_examples=4, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(shapes=SHAPES, zeros=st.integers(0, 2), seed=st.integers(0, 99))
def test_any_shapes(
    name: str, shapes: list[tuple[int, int, int]], zeros: int, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    modules = dict(adapter(shapes, seed=seed).modules)
    modules |= {f"z.{i}": LoraFactors(torch.randn(2, 5), torch.zeros(3, 2)) for i in range(zeros)}
    goes_round(name, Adapter(modules), tmp_path_factory.getbasetemp() / f"{name}.adz")


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (1, 31, 1), (31, 1, 1), (17, 13, 1), (3, 4, 8)], ids=lambda shape: "x".join(map(str, shape))
)
def test_one_module(name: str, shape: tuple[int, int, int], tmp_path: Path) -> None:
    goes_round(name, adapter([shape], seed=3), tmp_path / "x.adz")


@pytest.mark.parametrize("name", EVERY)
def test_an_error_that_is_asked_for(name: str, tmp_path: Path) -> None:
    source = adapter([(17, 13, 3), (5, 31, 2), (1, 7, 1)], seed=2)
    compressed = compress(name, source, max_error=0.4)
    assert compressed.provenance.relative_error <= 0.4
    goes_round(name, source, tmp_path / "x.adz", max_error=0.4)


@pytest.mark.parametrize("name", EVERY)
def test_scales_far_from_one(name: str) -> None:
    """Updates are equal up to a power of two, so their files are equal but for the step."""
    modules = adapter([(17, 13, 3), (9, 15, 2)], seed=2).modules
    errors = []
    for power in (-18, 0, 12):
        scaled = Adapter({n: LoraFactors(m.A, m.B, 2.0**power) for n, m in modules.items()})
        compressed = compress(name, scaled, max_error=0.3)
        errors.append(compressed.provenance.relative_error)
        assert relative_error(scaled, adaptzip.reconstruct(compressed)) <= 0.3 * (1 + 1e-5)
    if name != "sixth":  # its coordinates are roots of the update's
        assert errors == [pytest.approx(errors[1], rel=0.05)] * 3


@pytest.mark.parametrize("name", EVERY)
def test_a_module_much_weaker_than_another(name: str, tmp_path: Path) -> None:
    strong, weak = factors(20, 14, 3), factors(14, 20, 3, seed=1, scaling=1e-6)
    goes_round(name, Adapter({"strong": strong, "weak": weak}), tmp_path / "x.adz")


@pytest.mark.parametrize("name", EVERY)
def test_nothing_but_zeros(name: str, tmp_path: Path) -> None:
    """A zero update is stored; a basis made of one has no directions, which is refused."""
    source = Adapter({n: LoraFactors(torch.randn(2, 6), torch.zeros(4, 2)) for n in ("a", "b")})
    if methods.load(name).needs_basis:
        with pytest.raises(RefusedError, match="zero"):
            compress(name, source)
        return
    compressed = compress(name, source, tmp_path / "x.adz")
    assert compressed.provenance.relative_error == 0
    assert compressed.provenance.parameters == 0
    after = adaptzip.reconstruct(tmp_path / "x.adz")
    assert {key: module.shape for key, module in after.modules.items()} == {"a": (4, 6), "b": (4, 6)}
    assert not any(module.delta().any() for module in after.modules.values())


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_that_are_none_are_refused(name: str, bad: float) -> None:
    modules = dict(adapter([(9, 7, 2), (7, 9, 2)]).modules)
    modules["m.1"].B[3, 0] = bad
    with pytest.raises(CheckpointError, match=r"'m.1': B has numbers that are not finite") as caught:
        adaptzip.compress(Adapter(modules), to=name, device="cpu")
    assert caught.value.hint


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY)
def test_thousands_of_modules(name: str, tmp_path: Path) -> None:
    """2000 modules of four shapes within four minutes on a busy core; on a quiet one a quarter of that."""
    shapes = [(12, 8), (8, 12), (16, 8), (8, 8)]
    source = adapter({f"l.{i:04}": (*shapes[i % 4], 1 + i % 3) for i in range(COUNT)})
    began = time.perf_counter()
    try:
        compressed = compress(name, source, tmp_path / "x.adz")
    except CheckFailedError as failure:
        pytest.fail(str(failure))
    assert time.perf_counter() - began < 240
    assert len(compressed.chunks) == COUNT
    after = adaptzip.reconstruct(tmp_path / "x.adz")
    assert relative_error(source, after) == pytest.approx(compressed.provenance.relative_error, rel=2e-3)
