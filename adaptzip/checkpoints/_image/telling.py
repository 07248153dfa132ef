"""Which family of models an adapter is of, told by the paths of its layers and their shapes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction

from adaptzip.checkpoints._image.families import FAMILIES, PREFERRED
from adaptzip.checkpoints._image.rules import Family, Rule, numbered
from adaptzip.core.adapter import LoraFactors
from adaptzip.errors import RefusedError

Modules = Mapping[str, LoraFactors]
_OF_BLOCKS = re.compile(r"attn\d?\.to_[qkv]$|\.ff(_context)?\.net\.0\.proj$|\.norm1(_context)?\.linear$")
"""Layers of diffusers' transformers whose inputs are as wide as the model's blocks."""


def original_family(modules: Modules) -> Family | None:
    """The family of an adapter with original paths; None where no path is one of a family.

    Raises:
        RefusedError: if several would call its layers otherwise in diffusers.
    """

    def fits(family: Family, path: str) -> Rule | None:
        return family.originals.get(numbered(path)[0]) or family.originals.get(path)

    def answer(family: Family) -> list[object]:
        rules = [fits(family, path) for path in modules]
        return [rule and (rule.diffusers, rule.shares, rule.halves_swapped) for rule in rules]

    return _told(modules, fits, answer, _off)


def diffusers_family(modules: Modules) -> Family | None:
    """The family of an adapter with diffusers' paths, likewise."""

    def fits(family: Family, path: str) -> Rule | None:
        found = family.parts.get(numbered(path)[0]) or family.parts.get(path)
        return found and found[0]

    def answer(family: Family) -> list[object]:
        rules = [fits(family, path) for path in modules]
        return [rule and (rule.original, rule.shares, rule.halves_swapped) for rule in rules]

    return _told(modules, fits, answer, lambda rule, factors: len(rule.diffusers) == 1 and _off(rule, factors))


def _told(
    modules: Modules,
    fits: Callable[[Family, str], Rule | None],
    answer: Callable[[Family], list[object]],
    astray: Callable[[Rule, LoraFactors], bool],
) -> Family | None:
    def score(family: Family) -> tuple[int, int]:
        rules = [(rule, factors) for path, factors in modules.items() if (rule := fits(family, path)) is not None]
        return len(rules), -sum(astray(rule, factors) for rule, factors in rules)

    scores = [(score(family), family) for family in FAMILIES]
    best = max(found for found, _ in scores)
    if not best[0]:
        return None
    left = [family for found, family in scores if found == best]
    for narrowed in (_deep_enough(left, modules), _wide(left, modules)):
        left = [family for family in left if family in narrowed] or left
    titles = {family.title for family in left}
    left = [family for family in left if PREFERRED.get(family.title) not in titles]
    if any(answer(family) != answer(left[0]) for family in left):
        raise RefusedError(
            f"module {next(iter(modules))} may be of {', '.join(family.title for family in left[:-1])} or "
            f"{left[-1].title}, whose names differ in the other dialect",
            hint="write it in the dialect that it came in, which programs translate themselves",
        )
    return left[0]


def _off(rule: Rule, factors: LoraFactors) -> bool:
    """Whether a layer has not the outputs that the rule tells for its inputs."""
    return rule.ratio is not None and Fraction(*factors.shape) != rule.ratio


def _deep_enough(families: Sequence[Family], modules: Modules) -> list[Family]:
    """The families that have as many blocks as the paths tell."""
    numbers: dict[str, int] = {}
    for path in modules:
        block, _, rest = path.partition(".")
        number = rest.partition(".")[0]
        if number.isdecimal():
            numbers[block] = max(numbers.get(block, 0), int(number))
    return [f for f in families if all(number < f.depths.get(block, number + 1) for block, number in numbers.items())]


def _wide(families: Sequence[Family], modules: Modules) -> list[Family]:
    """The families whose blocks have the adapter's width."""
    widths = {factors.shape[1] for path, factors in modules.items() if _OF_BLOCKS.search(path)}
    return [family for family in families if len(widths) == 1 and widths <= family.widths]
