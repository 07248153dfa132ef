"""Whether a method keeps to budgets and errors, and comes near to them."""

from __future__ import annotations

from math import ceil
from pathlib import Path
from typing import Any

import pytest

from adaptzip.adz.container import writer
from adaptzip.core.adapter import Adapter
from adaptzip.core.budget import Budget
from adaptzip.core.compressed import Compressed
from adaptzip.errors import CheckFailedError
from adaptzip.fitting.assembly import fixed_size
from adaptzip.fitting.choosing import forecast
from adaptzip.fitting.requests import Request
from adaptzip.fitting.steps import FINEST_ERROR
from adaptzip.restoring.reconstruction import reconstruct
from adaptzip.testing._case import LARGE, SOURCE, MethodCase, large
from adaptzip.testing.adapters import relative_error
from adaptzip.testing.trials import compress, limits_of, needs_file, stored_numbers


class LimitTests(MethodCase):
    """Bytes, parameters and errors that are asked for."""

    def test_a_size_is_met_within_a_hundredth_or_it_is_said_why(self, basis_file: Path) -> None:
        for size in self._sizes(basis_file):
            compressed, messages = large(self.method, basis_file, budget=f"{size}B")
            found = writer.size(compressed)
            assert found <= size
            if size - found > max(0.01 * (size - fixed_size(compressed)), 8):
                assert [f"the file takes {found} bytes, " in message for message in messages] == [True]
            else:
                assert not messages

    def test_more_bytes_never_mean_a_larger_error(self, basis_file: Path) -> None:
        found = [large(self.method, basis_file, budget=f"{size}B")[0] for size in self._sizes(basis_file)]
        errors = [compressed.provenance.relative_error for compressed in found]
        # Bytes that would go beyond the finest error are not used.
        assert all(fine <= max(coarse, 1.1 * FINEST_ERROR) for coarse, fine in zip(errors, errors[1:], strict=False))
        assert errors[-1] < errors[0] / 2 or not self.meets_errors

    @pytest.mark.parametrize("share", [0.25, 0.7])
    def test_a_number_of_parameters_is_never_exceeded(self, share: float, basis_file: Path) -> None:
        limit = ceil(share * stored_numbers(self.method.name, LARGE))
        compressed, _ = large(self.method, basis_file, budget=str(limit))
        assert 0 < compressed.provenance.parameters <= limit
        found = relative_error(LARGE, self._restored(compressed, basis_file))
        assert found == pytest.approx(compressed.provenance.relative_error, rel=1e-3)
        assert found < 1

    def test_more_parameters_never_mean_a_larger_error(self, basis_file: Path) -> None:
        limits = [ceil(share * stored_numbers(self.method.name, LARGE)) for share in (0.25, 0.7)]
        found = [large(self.method, basis_file, budget=str(limit))[0] for limit in limits]
        errors = [compressed.provenance.relative_error for compressed in found]
        # What is kept is coded at the default error, which is met to one part in a hundred.
        assert all(fine <= 1.01 * coarse for coarse, fine in zip(errors, errors[1:], strict=False))

    @pytest.mark.parametrize("error", [0.5, 0.2, 0.05])
    def test_an_error_is_never_exceeded(self, error: float, basis_file: Path) -> None:
        if not self.meets_errors:
            with pytest.raises(CheckFailedError, match="cannot be reached"):
                large(self.method, basis_file, max_error=error)
            return
        try:
            compressed, _ = large(self.method, basis_file, max_error=error)
        except CheckFailedError as failure:
            # A method whose codes are whole numbers has a floor; it must say so, and reach a larger error.
            assert error < 0.2  # noqa: PT017
            assert "cannot be reached" in str(failure)  # noqa: PT017
            assert failure.hint  # noqa: PT017
            return
        assert compressed.provenance.relative_error <= error
        assert relative_error(LARGE, self._restored(compressed, basis_file)) <= error * (1 + 1e-5)

    def test_a_larger_error_never_means_a_larger_file(self, basis_file: Path) -> None:
        limits = [limits_of(self.method.name, LARGE, error) for error in (0.5, 0.2)]
        found = [large(self.method, basis_file, **each)[0] for each in limits]
        coarse, fine = (writer.size(compressed) for compressed in found)
        assert coarse < fine

    def test_what_cannot_be_met_is_refused(self) -> None:
        limits: list[dict[str, Any]] = [{"budget": "60B"}, {"budget": "600B", "max_error": 0.001}]
        if self.meets_errors:
            limits.append({"budget": "1"})
        for each in limits:
            with pytest.raises(CheckFailedError) as caught:
                compress(self.method.name, SOURCE, **each)
            assert caught.value.hint

    @pytest.mark.parametrize("kind", ["error", "size"])
    def test_a_plan_is_near_what_comes(self, kind: str, basis_file: Path) -> None:
        name, factor = self.method.name, self.prediction_factor
        size: dict[str, Any] = {"budget": f"{self._sizes(basis_file)[1]}B"}
        limits = size if kind == "size" else limits_of(name, LARGE, 0.2)
        budget, error = Budget.of(limits.get("budget")), limits.get("max_error")
        needed = needs_file(name, LARGE, basis_file)
        planned = forecast(LARGE, Request(name, budget, error, device="cpu", **needed))
        compressed, _ = large(self.method, basis_file, **limits)
        assert planned.method == name
        assert planned.bytes == pytest.approx(writer.size(compressed), rel=0.3)
        assert 1 / factor < planned.relative_error / compressed.provenance.relative_error < factor

    def _restored(self, compressed: Compressed, basis_file: Path) -> Adapter:
        return reconstruct(compressed, basis=basis_file if self.method.needs_basis else None)

    def _sizes(self, basis_file: Path) -> list[int]:
        """Sizes from that of a poor file, relative error 0.6, to one with five more bits for each number of the
        update."""
        poor, _ = large(self.method, basis_file, **limits_of(self.method.name, LARGE, 0.6))
        numbers = stored_numbers(self.method.name, LARGE)
        return [writer.size(poor) + ceil(numbers * bits / 8) for bits in (1, 2.5, 5)]
