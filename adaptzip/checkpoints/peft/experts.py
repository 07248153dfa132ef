"""LoRA on whole parameters: PEFT's `target_parameters`, as mixture-of-experts layers need it.

PEFT wraps the module once per parameter, the first declared parameter innermost, so the number of
`.base_layer` in a file's key says only at which depth a parameter stands. Here every expert is a module of its own,
named `<parameter path>[e]`; a parameter of two dimensions counts as one expert.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from adaptzip.checkpoints._config import DIFFERENT
from adaptzip.checkpoints._plain_names import ends
from adaptzip.checkpoints._targets import Targets
from adaptzip.core.adapter import LoraFactors
from adaptzip.errors import CheckpointError, RefusedError

# The order in which expert modules of the transformers library declare their parameters.
_DECLARED = ("gate_up_proj", "gate_up_proj_bias", "gate_proj", "up_proj", "down_proj", "down_proj_bias")
_WRAPPER = ".base_layer"
_EXPERT_MODULE = re.compile(r"\.experts\.\d+\.")
_EXPERT = re.compile(r"(?P<parameter>.+)\[(?P<expert>0|[1-9][0-9]{0,5})\]", re.DOTALL)


def parameter_paths(names: Iterable[str], raw: Mapping[str, Any], where: object) -> dict[str, str]:
    """The parameter's path in the base model, for each module name that stands for a wrapped parameter.

    Raises:
        RefusedError: if the file does not say which parameter a wrapper adapts.
    """
    wanted = _Wanted(raw)
    depths: dict[str, dict[int, str]] = {}
    for name in names:
        path, depth = _unwrap(name)
        depths.setdefault(path, {})[depth] = name
    found: dict[str, str] = {}
    for path, by_depth in depths.items():
        parameters = wanted.parameters_of(path)
        if parameters:
            found |= _assign(path, by_depth, parameters, where)
        elif set(by_depth) != {0}:
            raise CheckpointError(
                f"{where}: {path} has nested LoRA factors, but target_parameters in "
                "adapter_config.json names none of its parameters",
                hint=DIFFERENT,
            )
    return found


def _unwrap(name: str) -> tuple[str, int]:
    """(module path, number of wrappers around it)."""
    depth = 0
    while name.endswith(_WRAPPER):
        name, depth = name.removesuffix(_WRAPPER), depth + 1
    return name, depth


class _Wanted:
    """The parameters that a configuration targets, by what the path of their module ends with."""

    def __init__(self, raw: Mapping[str, Any]) -> None:
        self._targets = Targets(raw)
        self._named: dict[str, set[str]] = {}
        self._bare: set[str] = set()
        for target in raw.get("target_parameters") or []:
            module, dot, parameter = str(target).rpartition(".")
            (self._named.setdefault(module, set()) if dot else self._bare).add(parameter)

    def parameters_of(self, path: str) -> list[str]:
        """The names of the parameters of the module at `path` that the configuration targets."""
        named = {parameter for end in ends(path) for parameter in self._named.get(end, ())}
        if not named and self._bare and not self._targets.choose(path):
            named = self._bare
        return sorted(named)


def _assign(path: str, by_depth: Mapping[int, str], parameters: Sequence[str], where: object) -> dict[str, str]:
    """Match wrappers, innermost first, with parameters in the order of their declaration."""
    known = len(parameters) == 1 or all(parameter in _DECLARED for parameter in parameters)
    if len(by_depth) != len(parameters) or set(by_depth) != set(range(len(by_depth))) or not known:
        raise RefusedError(
            f"{where}: cannot tell which of the parameters {', '.join(parameters)} of {path} its "
            f"{len(by_depth)} nested LoRA factors belong to",
            hint="merge it with PEFT, which sees the base model's order of declaration",
        )
    ordered = sorted(parameters, key=_DECLARED.index) if len(parameters) > 1 else parameters
    return {
        by_depth[depth]: f"{path}.{parameter}"
        for depth, parameter in zip(sorted(by_depth, reverse=True), ordered, strict=True)
    }


def parameter_of(name: str, factors: LoraFactors) -> tuple[str, int] | None:
    """(parameter path, expert number) of an expert's module name, else None."""
    match = _EXPERT.fullmatch(name) if factors.layout.startswith("expert") else None
    return (match["parameter"], int(match["expert"])) if match else None


def group_experts(modules: Mapping[str, LoraFactors]) -> dict[str, list[LoraFactors]]:
    """The experts' factors in order, by parameter path.

    Raises:
        CheckpointError: if an expert is missing or has no number, or experts of one parameter differ in shape.
    """
    groups: dict[str, dict[int, LoraFactors]] = {}
    for name, factors in modules.items():
        found = parameter_of(name, factors)
        if found is not None:
            groups.setdefault(found[0], {})[found[1]] = factors
        elif factors.layout.startswith("expert"):
            raise CheckpointError(f"the expert {name!r} is not named PARAMETER[NUMBER]")
    for path, experts in groups.items():
        missing = set(range(len(experts))) - set(experts)
        if missing:
            raise CheckpointError(f"{path}: expert {min(missing)} is missing between others, expected every expert")
        kinds = {(factors.shape, factors.layout) for factors in experts.values()}
        if len(kinds) > 1:
            told = " and ".join(f"{list(shape)} {layout}" for shape, layout in sorted(kinds)[:2])
            raise CheckpointError(f"{path}: its experts are {told}, expected one shape and layout")
    return {path: [experts[e] for e in range(len(experts))] for path, experts in groups.items()}


def one_rank(modules: Mapping[str, LoraFactors]) -> frozenset[str]:
    """The names of the modules that must share the configuration's default rank and scale.

    These are whole parameters, whose experts share a tensor and for which PEFT warns about patterns, and the
    modules of older files with a module per expert, which PEFT stacks into whole parameters on loading.
    """
    parameters = {name for name, factors in modules.items() if factors.layout.startswith("expert")}
    homes = tuple({name[: match.start()] + "." for name in modules if (match := _EXPERT_MODULE.search(name))})
    return frozenset(parameters | {name for name in modules if name.startswith(homes)})


def stack_a(experts: Sequence[LoraFactors]) -> Tensor:
    """(experts * rank, in), experts slowest."""
    return torch.cat([e.A for e in experts])


def stack_b(experts: Sequence[LoraFactors]) -> Tensor:
    """(out, rank * experts), experts fastest."""
    return torch.stack([e.B for e in experts], dim=2).flatten(1)


def wrapper_names(paths: Iterable[str]) -> dict[str, str]:
    """The module name under which PEFT keeps the factors of each parameter, by parameter path.

    Raises:
        RefusedError: if the order in which a module declares its parameters is unknown.
    """
    by_module: dict[str, list[str]] = {}
    for path in paths:
        module, _, parameter = path.rpartition(".")
        by_module.setdefault(module, []).append(parameter)
    names: dict[str, str] = {}
    for module, parameters in by_module.items():
        if len(parameters) > len(_DECLARED):
            raise RefusedError(
                f"{module}: cannot tell the order of its {len(parameters)} parameters with experts, which PEFT wants",
                hint="merge the adapter into its base model instead",
            )
        depths = {depth: module + _WRAPPER * depth for depth in range(len(parameters))}
        assigned = _assign(module, depths, parameters, module)
        names |= {path: name for name, path in assigned.items()}
    return names
