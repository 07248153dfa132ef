"""Bringing an adapter into the shape that one PEFT configuration can describe, with the same update."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from adaptzip.checkpoints._losses import Loss, losses
from adaptzip.checkpoints._rescaling import fold, pad
from adaptzip.checkpoints.peft.experts import one_rank
from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.core.limits import current
from adaptzip.errors import RefusedError

_PADDED = 16
"""How many times as many numbers as an adapter may have it may get by one rank for all its modules."""


def loadable(adapter: Adapter) -> Adapter:
    """The same update in modules that PEFT can hold.

    Modules of rank 0 get rank 1 with zeros, as PEFT has no rank 0, and experts get one rank and one scale.

    Raises:
        RefusedError: if that makes far more numbers of them.
    """
    modules = {name: pad(factors, max(factors.rank, 1)) for name, factors in adapter.modules.items()}
    experts = {name: modules[name] for name in one_rank(modules)}
    rank = max((factors.rank for factors in experts.values()), default=1)
    _check_padded(experts, rank)
    folded = len({factors.scaling for factors in experts.values()}) > 1
    modules |= {name: pad(fold(factors) if folded else factors, rank) for name, factors in experts.items()}
    return replace(adapter, modules=modules)


def losses_of_portable(adapter: Adapter) -> tuple[Loss, ...]:
    """What the portable profile cannot hold, but for modules, without which the rest means something else."""
    return losses(adapter, lambda name, factors: None)


def portable(adapter: Adapter) -> Adapter:
    """The same update as every inference engine reads it: one rank for all modules, and the scale inside B.

    Raises:
        RefusedError: if modules lie where the profile has none, or one rank makes far more numbers of them.
    """
    experts = sorted(name for name, factors in adapter.modules.items() if factors.layout.startswith("expert"))
    if experts:
        raise RefusedError(
            f"the portable profile cannot hold LoRA on whole parameters, such as {experts[0]}",
            hint="leave `portable=True` out, or merge the adapter into its base model",
        )
    if adapter.meta.config.get("layer_replication"):
        raise RefusedError("the portable profile cannot hold layer_replication", hint="leave `portable=True` out")
    rank = max([1, *(factors.rank for factors in adapter.modules.values())])
    _check_padded(adapter.modules, rank)
    modules = {name: pad(fold(factors), rank) for name, factors in adapter.modules.items()}
    return Adapter(modules, {}, replace(adapter.meta, header=None, config_text=None))


def _check_padded(modules: Mapping[str, LoraFactors], rank: int) -> None:
    """Raises: RefusedError: if one rank for all modules makes far more numbers of them than a small file may have."""
    widths = {name: sum(factors.shape) for name, factors in modules.items()}
    held = sum(factors.rank * widths[name] for name, factors in modules.items())
    padded, most = rank * sum(widths.values()), _PADDED * max(current().numbers, held)
    if padded > most:
        raise RefusedError(
            f"one rank for all modules, {rank}, makes {padded:,} numbers of {held:,}, more than {most:,}",
            hint="lift the limits with `limits=` if you trust the file (docs/security.md)",
        )
