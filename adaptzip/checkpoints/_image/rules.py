"""What a layer of a model is called in its original implementation and in diffusers, as rules of a family of models."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property


@dataclass(frozen=True)
class Rule:
    """One layer: its original name, and diffusers' names of the layers that it is.

    Attributes:
        original: the path, with # for a number.
        diffusers: the paths in the order of the rows, with # for the same number.
        shares: how many shares of the rows each of these has.
        halves_swapped: whether the two halves of the rows change places.
        swapped_ratio: outputs for an input of the only layers whose halves do so; None where all of them do.
        ratio: outputs for an input, where that tells models with the same names apart; None where it is not known.
    """

    original: str
    diffusers: tuple[str, ...]
    shares: tuple[int, ...] = (1,)
    halves_swapped: bool = False
    ratio: Fraction | None = None
    swapped_ratio: Fraction | None = None

    def swaps(self, shape: tuple[int, int]) -> bool:
        """Whether the halves of a layer's rows change places, by its (out, in)."""
        return self.halves_swapped and self.swapped_ratio in (None, Fraction(*shape))

    def ratio_of(self, place: int) -> Fraction | None:
        """Outputs for an input of one of diffusers' layers."""
        return None if self.ratio is None else self.ratio * self.shares[place] / sum(self.shares)


@dataclass(frozen=True)
class Family:
    """A kind of model. All are transformers.

    Attributes:
        title: its name, for messages.
        rules: its layers.
        widths: of its blocks, in all sizes that are known.
        depths: how many blocks there are at most, by what their paths begin with in either implementation.
    """

    title: str
    rules: tuple[Rule, ...]
    widths: frozenset[int] = frozenset()
    depths: Mapping[str, int] = field(default_factory=dict)

    @cached_property
    def originals(self) -> Mapping[str, Rule]:
        """The rules by original path."""
        return {rule.original: rule for rule in self.rules}

    @cached_property
    def parts(self) -> Mapping[str, tuple[Rule, int]]:
        """The rule, and the place among its layers, by diffusers' path."""
        return {name: (rule, place) for rule in self.rules for place, name in enumerate(rule.diffusers)}

    def of_original(self, path: str) -> Rule | None:
        """The rule of a layer by its original path; None where the family has no such layer."""
        return self.originals.get(numbered(path)[0]) or self.originals.get(path)

    def of_diffusers(self, path: str) -> tuple[Rule, int] | None:
        """The rule of a layer by diffusers' path, and its place among the rule's; None likewise."""
        return self.parts.get(numbered(path)[0]) or self.parts.get(path)


_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


def numbered(path: str) -> tuple[str, str]:
    """A path with # for the first number within it, and the number; "" where there is none."""
    found = _NUMBER.search(path)
    return (path, "") if found is None else (f"{path[: found.start()]}#{path[found.end() :]}", found[0])
