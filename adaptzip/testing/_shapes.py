"""A method on adapters of odd shapes, scales and contents."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adaptzip.adz.container import writer
from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.core.comparing import same_bits
from adaptzip.errors import AdaptzipWarning, CheckpointError, RefusedError
from adaptzip.fitting.compression import compress as compress_any
from adaptzip.restoring.reconstruction import reconstruct
from adaptzip.testing._case import MethodCase
from adaptzip.testing.adapters import Shape, adapter, adapters, factors, relative_error, same_factors, shapes
from adaptzip.testing.trials import compress, limits_of

_DRAWN = settings(
    max_examples=4,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
)


def goes_round(name: str, source: Adapter, file: Path, **limits: object) -> None:
    """Compress into a file and back; the error is what the file says, and shapes and extras are kept."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AdaptzipWarning)
        compressed = compress(name, source, file, force=True, **limits)
    assert writer.size(compressed) == file.stat().st_size
    after = reconstruct(file)
    assert same_factors(after, reconstruct(compressed))
    assert list(after.modules) == sorted(source.modules)
    for key, module in source.modules.items():
        other = after.modules[key]
        assert (other.shape, other.layout, other.kernel) == (module.shape, module.layout, module.kernel)
        assert torch.isfinite(other.delta()).all()
    assert after.extras.keys() == source.extras.keys()
    assert all(same_bits(after.extras[key], extra) for key, extra in source.extras.items())
    stated = compressed.provenance.relative_error
    assert relative_error(source, after) == pytest.approx(stated, rel=2e-3, abs=2e-6)


class ShapeTests(MethodCase):
    """Round trips of whatever an adapter may be."""

    @_DRAWN
    @given(several=st.lists(shapes(), min_size=1, max_size=3), zeros=st.integers(0, 2), seed=st.integers(0, 99))
    def test_any_shapes(
        self, several: list[Shape], zeros: int, seed: int, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        modules = dict(adapter(several, seed=seed).modules)
        modules |= {f"z.{i}": LoraFactors(torch.randn(2, 5), torch.zeros(3, 2)) for i in range(zeros)}
        goes_round(self.method.name, Adapter(modules), tmp_path_factory.getbasetemp() / f"{self.method.name}.adz")

    @_DRAWN
    @given(source=adapters())
    def test_any_adapter(self, source: Adapter, tmp_path_factory: pytest.TempPathFactory) -> None:
        goes_round(self.method.name, source, tmp_path_factory.getbasetemp() / f"{self.method.name}.adz")

    @pytest.mark.parametrize(
        "shape",
        [(1, 1, 1), (1, 31, 1), (31, 1, 1), (17, 13, 1), (3, 4, 8)],
        ids=lambda shape: "x".join(map(str, shape)),
    )
    def test_one_module(self, shape: Shape, tmp_path: Path) -> None:
        goes_round(self.method.name, adapter([shape], seed=3), tmp_path / "x.adz")

    def test_an_error_that_is_asked_for(self, tmp_path: Path) -> None:
        if not self.meets_errors:
            pytest.skip("its fits keep little")
        source = adapter([(17, 13, 3), (5, 31, 2), (1, 7, 1)], seed=2)
        compressed = compress(self.method.name, source, max_error=0.4)
        assert compressed.provenance.relative_error <= 0.4
        goes_round(self.method.name, source, tmp_path / "x.adz", max_error=0.4)

    def test_scales_far_from_one(self) -> None:
        """Updates are equal up to a power of two, so their files are equal but for the step."""
        modules = adapter([(17, 13, 3), (9, 15, 2)], seed=2).modules
        errors = []
        for power in (-18, 0, 12):
            scaled = Adapter({n: LoraFactors(m.A, m.B, 2.0**power) for n, m in modules.items()})
            compressed = compress(self.method.name, scaled, **limits_of(self.method.name, scaled, 0.3))
            errors.append(compressed.provenance.relative_error)
            found = relative_error(scaled, reconstruct(compressed))
            assert found <= (0.3 if self.meets_errors else 1.0) * (1 + 1e-5)
        if self.scale_free:
            assert errors == [pytest.approx(errors[1], rel=0.05)] * 3

    def test_a_module_much_weaker_than_another(self, tmp_path: Path) -> None:
        strong, weak = factors(20, 14, 3), factors(14, 20, 3, seed=1, scaling=1e-6)
        goes_round(self.method.name, Adapter({"strong": strong, "weak": weak}), tmp_path / "x.adz")

    def test_nothing_but_zeros(self, tmp_path: Path) -> None:
        """A zero update is stored; a basis made of one has no directions, which is refused."""
        source = Adapter({n: LoraFactors(torch.randn(2, 6), torch.zeros(4, 2)) for n in ("a", "b")})
        if self.method.needs_basis:
            with pytest.raises(RefusedError, match="zero"):
                compress(self.method.name, source)
            return
        compressed = compress(self.method.name, source, tmp_path / "x.adz")
        assert compressed.provenance.relative_error == 0
        assert compressed.provenance.parameters == 0
        after = reconstruct(tmp_path / "x.adz")
        assert {key: module.shape for key, module in after.modules.items()} == {"a": (4, 6), "b": (4, 6)}
        assert not any(module.delta().any() for module in after.modules.values())

    @pytest.mark.parametrize("bad", [float("nan"), float("inf")])
    def test_numbers_that_are_none_are_refused(self, bad: float) -> None:
        modules = dict(adapter([(9, 7, 2), (7, 9, 2)]).modules)
        modules["m.1"].B[3, 0] = bad
        with pytest.raises(CheckpointError, match=r"'m.1': B has numbers that are not finite") as caught:
            compress_any(Adapter(modules), to=self.method.name, device="cpu")
        assert caught.value.hint
