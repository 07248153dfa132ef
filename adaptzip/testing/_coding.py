"""What a method codes, against the dense update: errors, predictions and gradients."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from adaptzip.core.compressed import TensorSpec
from adaptzip.reports.verifying import AGREEMENT
from adaptzip.testing._case import SOURCE, STEP, MethodCase, fitted, one
from adaptzip.testing.adapters import dense
from adaptzip.testing.trials import OneModule, code_one


class CodingTests(MethodCase):
    """Errors, predictions and gradients of modules at a step."""

    @pytest.mark.parametrize("module", ["a", "b"])
    @pytest.mark.parametrize("step", [0.1, 0.02, 0.004])
    def test_its_own_error_is_the_true_one(self, module: str, step: float) -> None:
        fit = fitted(self.method)
        if module not in fit.ranks(step):
            pytest.skip("the module is not kept at this step")
        found = code_one(fit, module, step)
        full = dense(SOURCE, module)
        true = float((full - found.delta()).square().sum())
        assert found.coded.squared_error == pytest.approx(true, rel=1e-3, abs=1e-10 * float(full.square().sum()))

    def test_its_own_error_is_the_true_one_at_every_rank(self) -> None:
        fit = fitted(self.method)
        full = dense(SOURCE, "a")
        for rank in range(1, len(fit.profiles["a"].scores) + 1):
            found = code_one(fit, "a", STEP, rank)
            assert found.coded.squared_error == pytest.approx(float((full - found.delta()).square().sum()), rel=1e-3)

    @pytest.mark.parametrize("step", [0.05, 0.02, 0.005])
    def test_its_prediction_is_of_the_right_size(self, step: float) -> None:
        fit, factor = fitted(self.method), self.prediction_factor
        ranks, every = fit.ranks(step), list(fit.profiles)
        coded = fit.code(step, ranks, every)
        size, error = fit.predict(step, ranks)
        assert 1 / factor < size / coded.bytes < factor
        assert 1 / factor < error / fit.squared_error(coded, every) < factor

    def test_energies_and_scores_are_those_of_the_update(self) -> None:
        for module, profile in fitted(self.method).profiles.items():
            # A basis that is stored in half precision is orthonormal to three digits and a half.
            assert profile.energy == pytest.approx(float(dense(SOURCE, module).square().sum()), rel=AGREEMENT)
            scores = list(profile.scores)
            assert scores
            assert scores == sorted(scores, reverse=True)
            assert scores[-1] >= 0

    def test_a_smaller_step_means_a_smaller_error_and_more_bytes(self) -> None:
        fit = fitted(self.method)
        errors, sizes = [], []
        for step in (0.2, 0.1, 0.05, 0.02, 0.01):
            coded = fit.code(step, fit.ranks(step), list(fit.profiles))
            errors.append(fit.squared_error(coded, list(fit.profiles)))
            sizes.append(coded.bytes)
        # Where whole numbers carry most of a method's error, a step moves what is left by chance as well: one part in
        # a hundred.
        for coarse, fine in zip(errors, errors[1:], strict=False):
            assert fine <= 1.01 * coarse
        assert errors[-1] < errors[0]
        assert sizes == sorted(sizes)

    @pytest.mark.parametrize("module", ["a", "b"])
    def test_reconstruction_is_differentiable(self, module: str) -> None:
        """Checked against finite differences; factors may be rounded to float32, so differences are not tiny."""
        found = one(self.method, module)
        generator = torch.Generator().manual_seed(0)
        weight = torch.randn(found.site.out, found.site.width, generator=generator).double()
        fixed = {role: t.double() if t.is_floating_point() else t for role, t in found.tensors.items()}
        inputs = {spec.role: fixed[spec.role].requires_grad_() for spec in self._real(found)}

        def loss(values: Mapping[str, Tensor]) -> Tensor:
            A, B = found.factors({**fixed, **values})
            return ((B.double() @ A.double()) * weight).sum()

        gradients = dict(zip(inputs, torch.autograd.grad(loss(inputs), list(inputs.values())), strict=True))
        for role, tensor in inputs.items():
            # Along the gradient the slope is large, so that rounding matters little.
            direction = gradients[role] / gradients[role].norm().clamp(min=1e-30)
            # A tensor whose numbers were all quantised to zero has no size of its own.
            size = 1e-3 * (float(tensor.detach().norm()) or 1.0)
            moved = [{**inputs, role: tensor + sign * size * direction} for sign in (1, -1)]
            slope = float((loss(moved[0]) - loss(moved[1])).detach()) / (2 * size)
            assert slope == pytest.approx(float(gradients[role].norm()), rel=2e-3)
            assert slope > 0

    @pytest.mark.parametrize("module", ["a", "b"])
    def test_a_step_as_large_again_means_an_update_larger_by_its_degree(self, module: str) -> None:
        degree = self.method.degree
        if degree is None:
            pytest.skip("the method states no degree")
        found = one(self.method, module)
        grown = {spec.role for spec in self._real(found) if not spec.directions}
        A, B = found.factors({role: 1.5 * t if role in grown else t for role, t in found.tensors.items()})
        expected = 1.5**degree * found.delta()
        assert float((B @ A - expected).norm()) <= 1e-5 * float(expected.norm())

    def _real(self, found: OneModule) -> list[TensorSpec]:
        config = found.coder.config
        specs = [*self.method.shared_layout(config), *self.method.layout(found.site, found.rank, config)]
        return [spec for spec in specs if spec.kind == "real"]
