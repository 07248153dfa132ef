"""What a method says of itself: its names, options and the tensors that it stores."""

from __future__ import annotations

import dataclasses

import torch

from adaptzip.core.comparing import same_bits
from adaptzip.core.compressed import Site
from adaptzip.core.method import Method
from adaptzip.core.trainable import Trainable
from adaptzip.testing._case import MethodCase, base_role, fitted, one


class LayoutTests(MethodCase):
    """Names, options, roles and layouts."""

    def test_it_says_what_it_is(self) -> None:
        method = self.method
        assert method.version >= 1
        assert method.summary
        assert "\n" not in method.summary
        assert method.paper
        assert method.roles or method.shared_roles
        assert len({*method.roles, *method.shared_roles}) == len(method.roles) + len(method.shared_roles)
        assert method.needs_basis == bool(method.default_basis)

    def test_its_options_are_a_frozen_dataclass_with_defaults(self) -> None:
        config_type = self.method.config_type
        config = config_type()
        assert config.__dataclass_params__.frozen
        assert config_type(**dataclasses.asdict(config)) == config
        assert hash(config) == hash(config_type())

    def test_it_says_whether_it_spans_modules(self) -> None:
        own = type(self.method)
        if own.candidates is not Method.candidates or own.prepare is not Method.prepare or self.method.shared_roles:
            assert self.method.spans_modules

    def test_it_keeps_nothing_on_itself(self) -> None:
        fitted(self.method)
        assert not vars(self.method)

    def test_its_layout_is_of_its_roles_and_grows_with_the_rank(self) -> None:
        method, config = self.method, fitted(self.method).config
        for site in fitted(method).sites.values():
            before = 0
            for rank in range(1, min(method.max_rank(site, config), 12) + 1):
                specs = method.layout(site, rank, config)
                roles = tuple(dict.fromkeys(base_role(spec.role) for spec in specs))
                # A tensor that is empty at a small rank is left out.
                assert roles == tuple(role for role in method.roles if role in roles)
                assert bool(roles) == bool(method.roles)
                assert len({spec.role for spec in specs}) == len(specs)
                numbers = sum(spec.numbers for spec in specs)
                # A chain of tensors may be as large as its shape allows before the others are.
                assert numbers >= before
                before = numbers
            assert bool(before) == bool(method.roles)

    def test_what_its_layouts_say_is_possible(self) -> None:
        method, config = self.method, fitted(self.method).config
        shared = method.shared_layout(config)
        assert tuple(spec.role for spec in shared) == method.shared_roles
        own = [spec for site in fitted(method).sites.values() for spec in method.layout(site, 1, config)]
        for spec in [*shared, *own]:
            assert spec.rows > 0
            # A mixture of one stores no weight.
            assert spec.width > 0 or (spec.width == 0 and spec.kind == "simplex")
            assert spec.kind == "real" or not spec.directions
            assert (spec.bound == 0) if spec.kind == "real" else (1 <= spec.bound <= 2**20)

    def test_layouts_hold_for_shapes_that_no_adapter_has(self) -> None:
        """A reader asks for layouts of any shape, before it knows that a file is sound."""
        method, config = self.method, fitted(self.method).config
        for site in (Site(1, 1), Site(1, 97), Site(4096, 3)):
            for rank in {1, method.max_rank(site, config)} - {0}:
                specs = method.layout(site, rank, config)
                assert all(spec.rows > 0 and spec.width >= 0 for spec in specs)

    def test_stored_tensors_have_the_layout(self) -> None:
        module, method = one(self.method), self.method
        specs = method.layout(module.site, module.rank, module.coder.config)
        stored = {role: tuple(tensor.shape) for role, tensor in module.own.items()}
        assert {spec.role: (spec.rows, spec.width) for spec in specs} == stored
        assert module.coded.numbers == sum(spec.numbers for spec in specs)
        for spec in specs:
            tensor = module.own[spec.role]
            assert tensor.dtype == (torch.int64 if spec.kind == "index" else torch.float32)
            if spec.kind == "index":
                assert bool((tensor < spec.bound).all())
            if spec.kind == "simplex" and spec.width:
                last = 1 - tensor.sum(1)
                assert bool((last >= tensor.amax(1)).all())

    def test_shared_tensors_are_decoded_as_the_modules_were_fitted_to_them(self) -> None:
        module = one(self.method)
        for spec in self.method.shared_layout(module.coder.config):
            found = module.tensors[spec.role]
            assert tuple(found.shape) == (spec.rows, spec.width)
            if not spec.directions:
                assert same_bits(found, module.shared.tensors[spec.role])

    def test_a_unit_that_is_grown_changes_nothing(self) -> None:
        method, found = self.method, one(self.method)
        full = fitted(method).profiles["a"].scores
        if not (isinstance(method, Trainable) and method.grows) or found.rank + 1 > len(full):
            return
        config = found.coder.config
        zero = {
            spec.role: torch.randn(spec.rows, spec.width) for spec in method.layout(found.site, found.rank + 1, config)
        }
        grown = method.grown(found.own, zero, found.site, found.rank, config)
        assert {role: tuple(tensor.shape) for role, tensor in grown.items()} == {
            role: tuple(tensor.shape) for role, tensor in zero.items()
        }
        A, B = found.factors({**found.tensors, **grown})
        torch.testing.assert_close(B.double() @ A.double(), found.delta(), atol=1e-6, rtol=1e-5)

    def test_what_is_made_soft_hardens_to_what_it_was(self) -> None:
        method, found = self.method, one(self.method)
        if not (isinstance(method, Trainable) and method.soft_roles):
            return
        config = found.coder.config
        soft = method.soften(found.tensors, found.site, config)
        assert set(soft) == set(method.soft_roles)
        hard = method.harden(soft, found.site, config)
        A, B = found.factors({**found.tensors, **hard})
        torch.testing.assert_close(B.double() @ A.double(), found.delta(), atol=1e-6, rtol=1e-5)
        relaxed = method.relaxed({role: t.requires_grad_() for role, t in soft.items()}, found.site, config)
        assert relaxed.keys() <= found.own.keys()
        assert any(tensor.requires_grad for tensor in relaxed.values())
