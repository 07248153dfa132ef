"""Which family of models an adapter is of, told by the paths of its layers and their shapes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from adaptzip.checkpoints._image.families import FAMILIES, PREFERRED
from adaptzip.checkpoints._image.rules import Family, Rule
from adaptzip.checkpoints._image.sizes import Fit, Modules, misfit
from adaptzip.errors import RefusedError, warn

_HINT = "write it in the dialect that it came in, which programs translate themselves"


def original_family(modules: Modules) -> Family | None:
    """The family of an adapter with original paths; None where no path is one of a family.

    Raises:
        RefusedError: if several would call its layers otherwise in diffusers, or the sizes of its layers are those of
            none.
    """

    def fits(family: Family, path: str) -> Fit | None:
        rule = family.of_original(path)
        return None if rule is None else Fit(rule, rule.ratio, whole=True)

    return _told(modules, fits, lambda rule: rule.diffusers)


def diffusers_family(modules: Modules) -> Family | None:
    """The family of an adapter with diffusers' paths, likewise."""

    def fits(family: Family, path: str) -> Fit | None:
        found = family.of_diffusers(path)
        if found is None:
            return None
        rule, place = found
        return Fit(rule, rule.ratio_of(place), whole=len(rule.diffusers) == 1)

    return _told(modules, fits, lambda rule: rule.original)


def _told(
    modules: Modules, fits: Callable[[Family, str], Fit | None], named: Callable[[Rule], object]
) -> Family | None:
    def answer(family: Family) -> list[object]:
        there = [(fits(family, path), factors.shape) for path, factors in modules.items()]
        return [fit and (named(fit.rule), fit.rule.shares, fit.rule.swaps(shape)) for fit, shape in there]

    known = {f.title: {path: fit for path in modules if (fit := fits(f, path)) is not None} for f in FAMILIES}
    there = [family for family in FAMILIES if known[family.title]]
    if not there:
        return None
    # Sizes exclude a family however many names it has in common.
    against = {family.title: misfit(family, known[family.title], modules) for family in there}
    left = [family for family in there if against[family.title] is None]
    if not left:
        nearest = max(there, key=lambda family: len(known[family.title]))
        raise RefusedError(
            f"{against[nearest.title]}, and only {_titles(there)} have layers of these names", hint=_HINT
        )
    most = max(len(known[family.title]) for family in left)
    left = [family for family in left if len(known[family.title]) == most]
    answers = {family.title: answer(family) for family in left}
    left = _preferred(left, answers, modules)
    if any(answers[family.title] != answers[left[0].title] for family in left):
        raise RefusedError(
            f"module {next(iter(modules))} may be of {_titles(left)}, whose names differ in the other dialect",
            hint=_HINT,
        )
    return left[0]


def _preferred(left: Sequence[Family], answers: Mapping[str, object], modules: Modules) -> list[Family]:
    """Without families that another one is taken for where nothing tells them apart, which is said."""
    by_title = {family.title: family for family in left}
    pairs = [
        (by_title[rare], by_title[PREFERRED[rare]]) for rare in PREFERRED if {rare, PREFERRED[rare]} <= by_title.keys()
    ]
    found = [family for family in left if family not in [rare for rare, _ in pairs]]
    for rare, usual in pairs:
        alone = all(answers[family.title] == answers[usual.title] for family in found)
        if alone and answers[rare.title] != answers[usual.title] and not _to_the_end(usual, modules):
            warn(
                f"module {next(iter(modules))} is taken for one of {usual.title}; {rare.title} has the same names and "
                "sizes in diffusers, and others in the original model: if it is of that, keep the dialect it came in"
            )
    return found


def _to_the_end(family: Family, modules: Modules) -> bool:
    """Whether the adapter has the last of a family's blocks, of one kind at least."""
    lasts = {f"{block}.{depth - 1}." for block, depth in family.depths.items()}
    return any(path.startswith(tuple(lasts)) for path in modules)


def _titles(families: Sequence[Family]) -> str:
    titles = [family.title for family in families]
    return titles[0] if len(titles) == 1 else f"{', '.join(titles[:-1])} or {titles[-1]}"
