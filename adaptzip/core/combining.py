"""Several adapters as one, by the rules of PEFT's `add_weighted_adapter`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.core.combinations import BESIDE, COMBINATIONS, CUT, CUT_LATER, Combination
from adaptzip.core.effects import Effects
from adaptzip.core.linalg import factored_svd
from adaptzip.core.task_arithmetic import Majority, Rule
from adaptzip.core.workers import parallel_map
from adaptzip.errors import RefusedError, UsageError


@dataclass(frozen=True)
class Weighted:
    """An adapter and its part in a combination.

    Attributes:
        adapter: the adapter.
        weight: what its update is multiplied by; below zero it is taken away.
        name: what messages call it.
    """

    adapter: Adapter
    weight: float = 1.0
    name: str = "the adapter"


def combined(
    parts: Sequence[Weighted],
    method: Combination = BESIDE,
    *,
    rank: int | None = None,
    density: float | None = None,
    majority: Majority = "total",
    seed: int | None = None,
) -> Adapter:
    """One adapter out of several of the same base model.

    `cat` puts the factors beside each other: the update is the weighted sum, exactly, and ranks add up. `svd` cuts that
    sum to `rank`. The others do their arithmetic on the factors, which need one rank, and whose product is no sum of
    updates; with `_svd` at the end they do it on the updates, and cut the result. A module that only some adapters
    have is made of theirs.

    Args:
        parts: the adapters; extras of one of them are kept, those of several where they are the same bit for bit.
        rank: with `svd` the rank of every module; None for the largest of the adapters' there.
        density: the share of numbers that pruning keeps, where the method prunes.
        majority: whose sign wins, where the method counts signs.
        seed: of what is pruned by chance; None takes torch's own random numbers.

    Returns:
        The adapter, of the dialect of the first. Factors are float32 (float64 where any is), scales 1.

    Raises:
        UsageError: if there is no adapter or no such method, or an argument does not belong to it.
        RefusedError: if adapters do not fit together, naming the module or tensor.
    """
    if not parts:
        raise UsageError("there is nothing to combine", hint="give one adapter or more")
    for part in parts:
        if not math.isfinite(part.weight):
            raise UsageError(f"{part.name} has the weight {part.weight}, expected a finite number")
    make = _maker(method, rank, density, majority, seed)
    names = sorted({name for part in parts for name in part.adapter.modules})
    members = {
        name: _in_one_form([_Member(p, p.adapter.modules[name]) for p in parts if name in p.adapter.modules])
        for name in names
    }
    for name, found in members.items():
        _check_module(name, found)
    work = map if "dare" in method else parallel_map  # Chance is drawn in the order of modules.
    made = work(lambda name: _module(make, name, members[name]), names)
    extras, effects = _extras(parts)
    first = parts[0].adapter
    return Adapter(dict(zip(names, made, strict=True)), extras, first.meta.described, effects)


@dataclass(frozen=True, eq=False)
class _Member:
    """One adapter's update of the module at hand."""

    part: Weighted
    factors: LoraFactors


def _in_one_form(members: Sequence[_Member]) -> Sequence[_Member]:
    """A convolution of single pixels is a linear layer, as which some files have it: all as the convolution."""
    forms = {(m.factors.layout, m.factors.kernel) for m in members}
    point = next((form for form in forms if form[0] == "conv" and set(form[1]) == {1}), None)
    if point is None or forms != {point, ("linear", ())}:
        return members
    return [replace(m, factors=replace(m.factors, layout="conv", kernel=point[1])) for m in members]


_Make = Callable[[Sequence[_Member]], tuple[Tensor, Tensor]]
"""Makes the factors A and B, whose scale is 1, of one module."""


def _maker(method: str, rank: int | None, density: float | None, majority: Majority, seed: int | None) -> _Make:
    if method not in COMBINATIONS:
        raise UsageError(f"there is no way to combine called {method!r}", hint=f"known: {', '.join(COMBINATIONS)}")
    if rank is not None and method != CUT and not method.endswith(CUT_LATER):
        raise UsageError(
            f"{method} tells the rank by itself", hint=f"a rank is for {CUT} and methods that end with {CUT_LATER}"
        )
    if rank is not None and rank < 1:
        raise UsageError(f"a rank of {rank} was asked for, expected at least 1")
    if method in (BESIDE, CUT):
        Rule(density=density)  # It has none to take.
    if method == BESIDE:
        return _beside
    if method == CUT:
        return lambda members: _cut(*_thin(_beside(members)), _rank(members, rank))
    rule = _rule(method.removesuffix(CUT_LATER), density, majority)
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    if method.endswith(CUT_LATER):
        return lambda members: _of_updates(members, rule, generator, _rank(members, rank))
    return lambda members: _of_factors(members, rule, generator)


def _rule(method: str, density: float | None, majority: Majority) -> Rule:
    if method == "linear":
        return Rule(density=density)
    pruned: Literal["largest", "random"] = "random" if method.startswith("dare") else "largest"
    return Rule(pruned, method.endswith("ties"), density, majority)


def _rank(members: Sequence[_Member], rank: int | None) -> int:
    return rank or max(member.factors.rank for member in members)


def _module(make: _Make, name: str, members: Sequence[_Member]) -> LoraFactors:
    try:
        A, B = make(members)
    except RefusedError as error:
        raise RefusedError(f"module {name}: {error}", hint=error.hint) from error
    return replace(members[0].factors, A=A, B=B, scaling=1.0, bias=_bias(members))


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _beside(members: Sequence[_Member]) -> tuple[Tensor, Tensor]:
    A = [_wide(m.factors.A) * m.part.weight * m.factors.scaling for m in members]
    return torch.cat(A), torch.cat([_wide(m.factors.B) for m in members], dim=1)


def _of_factors(members: Sequence[_Member], rule: Rule, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """The rule on all A and on all B, each weighted by the root of its update's weight."""
    if len({m.factors.rank for m in members}) > 1:
        found = ", ".join(f"{m.part.name} has {m.factors.rank}" for m in members)
        raise RefusedError(
            f"the adapters' ranks differ: {found}",
            hint=f"use {BESIDE} or {CUT}, or bring them to one rank with convert `rank=`",
        )
    weights = [m.part.weight * m.factors.scaling for m in members]
    roots = [math.sqrt(abs(weight)) for weight in weights]
    signed = [math.copysign(root, weight) for root, weight in zip(roots, weights, strict=True)]
    return (
        rule.apply([_wide(m.factors.A) for m in members], signed, generator),
        rule.apply([_wide(m.factors.B) for m in members], roots, generator),
    )


def _of_updates(
    members: Sequence[_Member], rule: Rule, generator: torch.Generator | None, rank: int
) -> tuple[Tensor, Tensor]:
    dense = rule.apply([m.factors.delta() for m in members], [m.part.weight for m in members], generator)
    U, S, Vt = torch.linalg.svd(dense, full_matrices=False)
    return _cut(U, S, Vt, rank)


def _thin(factors: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    A, B = factors
    U, S, Vt = factored_svd(A[None], B[None], dtype=torch.promote_types(A.dtype, torch.float32))
    return U[0], S[0], Vt[0]


def _cut(U: Tensor, S: Tensor, Vt: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    return Vt[:rank].contiguous(), (U[:, :rank] * S[:rank]).contiguous()


def _bias(members: Sequence[_Member]) -> Tensor | None:
    """The weighted sum of the modules' own biases, which are a part of their updates."""
    found = [_wide(m.factors.bias) * (m.part.weight * m.factors.scaling) for m in members if m.factors.bias is not None]
    return torch.stack(found).sum(dim=0) if found else None


def _check_module(name: str, members: Sequence[_Member]) -> None:
    """Raises: RefusedError: if the updates are not of one weight, or are no updates alone."""
    first = members[0]
    for member in members:
        if member.factors.magnitude is not None:
            raise RefusedError(
                f"{member.part.name}: module {name} has a DoRA magnitude, which holds for its own update alone",
                hint="merge the adapters one after the other",
            )
        forms = [(m.factors.shape, m.factors.layout, m.factors.kernel) for m in (first, member)]
        if forms[0] != forms[1]:
            raise RefusedError(
                f"module {name} is {list(forms[0][0])} {forms[0][1]} in {first.part.name}, but "
                f"{list(forms[1][0])} {forms[1][1]} in {member.part.name}",
                hint="are they adapters of the same base model?",
            )


def _extras(parts: Sequence[Weighted]) -> tuple[dict[str, Tensor], Effects]:
    """All extras, and what they do.

    Raises:
        RefusedError: if two adapters have different tensors for one place.
    """
    extras: dict[str, Tensor] = {}
    owners: dict[str, str] = {}
    effects = parts[0].adapter.resolved
    for part in parts:
        told = part.adapter.resolved
        _check_effects(parts[0], part)
        for key, tensor in part.adapter.extras.items():
            if key in extras and not (extras[key].dtype == tensor.dtype and torch.equal(extras[key], tensor)):
                raise RefusedError(
                    f"{owners[key]} and {part.name} each have their own {key}, and one model has room for one",
                    hint="leave it out of one of them with `adaptzip export --drop-extras`",
                )
            extras[key] = tensor
            owners.setdefault(key, part.name)
        effects = replace(effects, extras={**effects.extras, **told.extras})
    return extras, effects


def _check_effects(first: Weighted, other: Weighted) -> None:
    """Raises: RefusedError: if the adapters are of models that are not one."""
    told: Mapping[str, object] = {w.name: w.adapter.resolved.layers for w in (first, other)}
    if len(set(told.values())) > 1:
        raise RefusedError(
            f"{first.name} and {other.name} repeat or leave out different layers of the base model",
            hint="combine adapters of one model",
        )
