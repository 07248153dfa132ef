"""The factors of all experts of a parameter, read from the two tensors that a file keeps of them.

With E experts and rank r, PEFT's A is (E*r, in) with the experts slowest and its B (out, r*E) with the experts fastest;
other programs keep A as (E, r, in) and B as (E, out, r).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from adaptzip.checkpoints._base import Checkpoint
from adaptzip.checkpoints._config import DIFFERENT, PeftConfig
from adaptzip.checkpoints._plain_names import ends
from adaptzip.checkpoints._targets import Targets
from adaptzip.checkpoints.peft.turned import NEW_LAYOUT, Evidence, is_old, is_turned
from adaptzip.core.adapter import LoraFactors
from adaptzip.errors import CheckpointError


@dataclass(frozen=True, eq=False)
class Stack:
    """The factors of all experts of one parameter.

    Attributes:
        A: (experts, rank, in).
        B: (experts, out, rank).
        scaling: what every B @ A is multiplied by.
    """

    A: Tensor
    B: Tensor
    scaling: float

    @property
    def widths(self) -> tuple[int, int]:
        """(in, out)."""
        return self.A.shape[2], self.B.shape[1]

    def turned(self) -> Stack:
        """The same with the transpose of every update."""
        return Stack(self.B.mT.contiguous(), self.A.mT.contiguous(), self.scaling)

    def factors(self, path: str) -> dict[str, LoraFactors]:
        """Every expert's own, by its module name."""
        return {
            f"{path}[{e}]": LoraFactors(self.A[e], self.B[e].contiguous(), self.scaling, "expert")
            for e in range(len(self.A))
        }


def stack_of(path: str, a: Tensor, b: Tensor, config: PeftConfig, where: object) -> Stack:
    """The experts' factors of the parameter at `path`.

    Args:
        path: the parameter's path.
        a: (experts * rank, in), experts slowest.
        b: (out, rank * experts), experts fastest.
        config: the configuration, with the rank and scale.
        where: the file, for messages.

    Raises:
        CheckpointError: if the shapes do not fit the rank.
    """
    rank = config.rank(path)
    if a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1] or a.shape[0] % rank or not a.shape[0]:
        raise CheckpointError(
            f"{where}: parameter {path} has A {list(a.shape)} and B {list(b.shape)}, "
            f"expected A (experts * {rank}, in) and B (out, {rank} * experts)",
            hint=DIFFERENT,
        )
    experts = a.shape[0] // rank
    A, B = a.reshape(experts, rank, -1), b.reshape(b.shape[0], rank, experts).permute(2, 0, 1)
    return Stack(A, B, config.scaling(path))


def are_listed(a: Tensor, b: Tensor) -> bool:
    """Whether factors have the shapes (experts, rank, in) and (experts, out, rank), and not those of a convolution."""
    if a.ndim != 3 or b.ndim != 3 or 0 in (*a.shape, *b.shape):
        return False
    convolution = b.shape[2] == 1 and a.shape[0] == b.shape[1]
    return a.shape[0] == b.shape[0] and a.shape[1] == b.shape[2] and not convolution


def stack_of_three_dims(name: str, a: Tensor, b: Tensor, config: PeftConfig, where: object) -> Stack | None:
    """Experts' factors that lie as (experts, rank, in) and (experts, out, rank), or None where they lie otherwise.

    Raises:
        CheckpointError: if they do lie so, with another rank than the configuration's.
    """
    if not are_listed(a, b):
        return None
    if a.shape[1] != config.rank(name):
        raise CheckpointError(
            f"{where}: module {name} has A {list(a.shape)} and B {list(b.shape)}, as {a.shape[0]} experts of rank "
            f"{a.shape[1]} would, but adapter_config.json says rank {config.rank(name)}",
            hint=DIFFERENT,
        )
    return Stack(a, b, config.scaling(name))


def in_new_layout(
    stacks: Mapping[str, Stack],
    listed: Collection[str],
    modules: Mapping[str, LoraFactors],
    raw: Mapping[str, Any],
    source: Checkpoint,
) -> tuple[dict[str, Stack], dict[str, Any]]:
    """The experts' factors as PEFT lays them out today, and the fields of the configuration that say so.

    Args:
        stacks: the factors by parameter path, as they lie in the file.
        listed: the paths of those that lie expert by expert, of which the configuration need not know.
        modules: the adapter's other modules.
        raw: the configuration.
        source: the checkpoint.

    Raises:
        CheckpointError: if it cannot be told how they lie.
    """
    many = {path: stack.widths for path, stack in stacks.items() if len(stack.A) > 1 and path not in listed}
    others = {name: factors.shape[::-1] for name, factors in modules.items()}
    turned = is_turned(Evidence(many, others, raw, source.model_type), source.path)
    told: dict[str, Any] = {}
    if listed or (many and (turned or is_old(raw))):
        told["peft_version"] = NEW_LAYOUT
    if listed:
        told |= _targets(raw, listed, modules)
    return {path: stack.turned() if turned and path in many else stack for path, stack in stacks.items()}, told


def _targets(raw: Mapping[str, Any], listed: Collection[str], modules: Collection[str]) -> dict[str, Any]:
    """target_parameters with the listed ones, and target_modules without them where the others need none of that."""
    told: dict[str, Any] = {"target_parameters": sorted({*(raw.get("target_parameters") or ()), *listed})}
    wanted = raw.get("target_modules")
    if isinstance(wanted, list):
        named = {end for path in listed for end in ends(path)}
        kept = [name for name in wanted if name not in named]
        if all(map(Targets({**raw, "target_modules": kept}).choose, modules)):
            told["target_modules"] = kept
    return told
