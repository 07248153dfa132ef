"""`FunctionMethodTests`: what every `FunctionMethod` must do, for its author to inherit."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from torch import Tensor

from adaptzip.core.compressed import Site
from adaptzip.core.function_method import AnyFunctionMethod
from adaptzip.errors import RefusedError

SITES = {"a": Site(48, 48), "b": Site(31, 31), "c": Site(96, 96)}


class FunctionMethodTests:
    """The conformance suite of a `FunctionMethod`.

    Attributes:
        method: the object that its entry point names.
    """

    method: ClassVar[AnyFunctionMethod]

    def drawn(self, rank: int) -> dict[str, dict[str, Tensor]]:
        """Tensors of the right shapes that are nothing special, float64."""
        generator = torch.Generator().manual_seed(1)
        begun = self.method.start(SITES, dict.fromkeys(SITES, rank), self.method.config_type(), 0)
        return {
            name: {role: torch.randn(t.shape, generator=generator).double() / 3 for role, t in tensors.items()}
            for name, tensors in begun.items()
        }

    def test_it_starts_as_the_identity_and_gradients_change_that(self) -> None:
        method, config = self.method, self.method.config_type()
        begun = method.start(SITES, dict.fromkeys(SITES, 3), config, 0)
        for name, site in SITES.items():
            layout = method.layout(site, 3, config)
            stored = {role: tuple(tensor.shape) for role, tensor in begun[name].items()}
            assert {spec.role: (spec.rows, spec.width) for spec in layout} == stored
            tensors = {role: tensor.requires_grad_() for role, tensor in begun[name].items()}
            x = torch.randn(5, site.out)
            y = method.apply(tensors, site, config)(x)
            assert torch.equal(y, x)
            y.square().sum().backward()  # type: ignore[no-untyped-call]
            assert any(t.grad is not None and bool(t.grad.abs().max() > 0) for t in tensors.values())

    def test_its_start_is_that_of_its_seed(self) -> None:
        method = self.method
        first, again, other = (method.start(SITES, {"a": 2}, method.config_type(), seed)["a"] for seed in (1, 1, 2))
        assert all(torch.equal(first[role], again[role]) for role in first)
        assert not all(torch.equal(first[role], other[role]) for role in first)

    def test_it_is_not_linear_and_differentiable(self) -> None:
        config, site = self.method.config_type(), SITES["a"]
        tensors = {role: tensor.requires_grad_() for role, tensor in self.drawn(2)["a"].items()}
        function = self.method.apply(tensors, site, config)
        x = torch.randn(3, site.out, dtype=torch.float64)
        assert not torch.allclose(function(2 * x), 2 * function(x))
        roles = list(tensors)

        def applied(*values: Tensor) -> Tensor:
            return self.method.apply(dict(zip(roles, values, strict=True)), site, config)(x)

        assert torch.autograd.gradcheck(applied, list(tensors.values()))

    def test_its_ranks_end_with_its_shapes(self) -> None:
        method, config, site = self.method, self.method.config_type(), SITES["a"]
        assert method.max_rank(Site(24, 40), config) == 0
        assert method.max_rank(Site(24, 24, "transposed"), config) == 0
        numbers = [sum(s.numbers for s in method.layout(site, rank, config)) for rank in (1, 2, 4)]
        assert numbers == sorted(set(numbers))
        A, _ = method.reconstruct(self.drawn(2)["a"], site, config)
        assert method.factor_rank(site, 2, config) == A.shape[0]

    def test_it_is_refused_where_no_layer_can_have_it(self) -> None:
        with pytest.raises(RefusedError):
            self.method.places({}, self.method.config_type())

    def test_it_says_that_it_has_to_be_trained(self) -> None:
        refusal = self.method.refusal()
        assert self.method.name in str(refusal)
        assert "distill" in (refusal.hint or "")
