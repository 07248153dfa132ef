"""What of an adapter a dialect's files have no room for: told before anything is written, and never lost silently."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.errors import RefusedError

Part = Literal["extra", "bias", "magnitude", "module"]


@dataclass(frozen=True)
class Loss:
    """Parts of an adapter, of one kind, that a dialect cannot hold.

    Attributes:
        what: what messages call them, in the plural.
        part: what leaving them out takes away: extras, the LoRA bias or DoRA magnitude of modules, or whole modules.
        names: keys of extras, or names of modules; one at least.
    """

    what: str
    part: Part
    names: tuple[str, ...]

    def __str__(self) -> str:
        there = self.names[0] if len(self.names) == 1 else f"{len(self.names)}, such as {self.names[0]}"
        return f"{self.what} ({there})"


def losses(
    adapter: Adapter, cannot: Callable[[str, LoraFactors], str | None], *, magnitudes: bool = False
) -> tuple[Loss, ...]:
    """What a dialect of low-rank updates alone would lose: extras, biases, magnitudes, and modules of some kinds.

    Args:
        adapter: what is to be written.
        cannot: what messages call modules such as this one, by its name and factors, in the plural; None for one that
            can be held.
        magnitudes: whether DoRA's magnitudes can be held.
    """
    kinds: dict[tuple[str, Part], list[str]] = {}
    if adapter.extras:
        kinds["tensors beside the factors", "extra"] = list(adapter.extras)
    for name, factors in adapter.modules.items():
        what = cannot(name, factors)
        if what is not None:
            kinds.setdefault((what, "module"), []).append(name)
            continue
        if factors.bias is not None:
            kinds.setdefault(("LoRA biases", "bias"), []).append(name)
        if factors.magnitude is not None and not magnitudes:
            kinds.setdefault(("DoRA magnitudes", "magnitude"), []).append(name)
    return tuple(Loss(what, part, tuple(names)) for (what, part), names in kinds.items())


def losses_of(*kinds: tuple[str, Part, Sequence[str]]) -> tuple[Loss, ...]:
    """The losses of these kinds that there are: what messages call them, their part, and their names."""
    return tuple(Loss(what, part, tuple(names)) for what, part, names in kinds if names)


def beside_products(adapter: Adapter) -> tuple[Loss, ...]:
    """What modules have besides their factors: biases and DoRA magnitudes."""
    modules = adapter.modules.items()
    biased = [name for name, factors in modules if factors.bias is not None]
    scaled = [name for name, factors in modules if factors.magnitude is not None]
    return losses_of(("LoRA biases", "bias", biased), ("DoRA magnitudes", "magnitude", scaled))


def held(adapter: Adapter, lost: Sequence[Loss], holder: str, drop: bool) -> Adapter:
    """The adapter without what cannot be held.

    Args:
        adapter: what is to be written.
        lost: what cannot be held.
        holder: what messages call the dialect or profile.
        drop: whether the losses are accepted.

    Raises:
        RefusedError: naming all of it, unless `drop`; or if no module is left.
    """
    if lost and not drop:
        raise RefusedError(
            f"{holder} cannot hold {', '.join(map(str, lost))}",
            hint="leave this out with `drop_extras=True`, write it in another dialect, or merge the adapter into its "
            "base",
        )
    left = _without(adapter, lost) if lost else adapter
    if not left.modules:
        what = f": {', '.join(map(str, lost))}" if lost else ""
        raise RefusedError(
            f"the adapter has no modules that {holder} could hold{what}", hint="merge the adapter into its base"
        )
    return left


def _without(adapter: Adapter, lost: Iterable[Loss]) -> Adapter:
    gone: dict[Part, set[str]] = {"extra": set(), "bias": set(), "magnitude": set(), "module": set()}
    for loss in lost:
        gone[loss.part].update(loss.names)
    modules = {
        name: replace(
            factors,
            bias=None if name in gone["bias"] else factors.bias,
            magnitude=None if name in gone["magnitude"] else factors.magnitude,
        )
        for name, factors in adapter.modules.items()
        if name not in gone["module"]
    }
    extras = {key: tensor for key, tensor in adapter.extras.items() if key not in gone["extra"]}
    return replace(adapter, modules=modules, extras=extras)
