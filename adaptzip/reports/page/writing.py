"""The page itself, from what is told in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec

from adaptzip._version import __version__
from adaptzip.core import words
from adaptzip.core.adapter import Adapter
from adaptzip.core.linalg import factored_values
from adaptzip.errors import RefusedError
from adaptzip.reports.page import drawings
from adaptzip.reports.page.evaluations import EvaluationTable, training_table
from adaptzip.reports.page.frontiers import Frontier
from adaptzip.reports.page.heat import sections
from adaptzip.reports.page.subjects import Subject

_NEEDED = ("matplotlib", "jinja2")
MOST_LISTED = 2000
"""Modules of a file that the page lists one by one."""


@dataclass(frozen=True, eq=False)
class Content:
    """What a page tells.

    Attributes:
        title: its heading.
        subjects: the files.
        reference: the adapter that errors are from, or None.
        frontier: curves around the files, or None.
        evaluation: a table, or None.
    """

    title: str
    subjects: tuple[Subject, ...]
    reference: Adapter | None = None
    frontier: Frontier | None = None
    evaluation: EvaluationTable | None = None


def check_writable() -> None:
    """Raises: RefusedError: if what draws a page is not installed."""
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise RefusedError(
            f"a report needs {' and '.join(missing)}, not installed", hint="pip install 'adaptzip[plots]'"
        )


def written(content: Content) -> str:
    """The page as HTML; equal content gives equal pages."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("adaptzip.reports.page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"words": words, "version": __version__, "most_listed": MOST_LISTED}
    page = environment.get_template("report.html.jinja")
    return page.render(
        content=content,
        sections=sections(content.subjects),
        frontier=_frontier(content),
        spectra=drawings.spectra(content.subjects, _values(content.reference)),
        trained=[(one.name, training_table(one.trained)) for one in content.subjects if one.trained is not None],
        widest=max(one.bytes for one in content.subjects),
        part_names=list(dict.fromkeys(name for one in content.subjects for name, _ in one.parts)),
        style=environment.get_template("style.css").render(),
    )


def _frontier(content: Content) -> str | None:
    if content.frontier is None:
        return None
    benches = content.frontier.benches.items()
    drawn = {mode: bench for mode, bench in benches if any(point.relative_error > 0 for point in bench.points)}
    if not drawn:
        return None
    known = {
        one.name: (one.bytes, one.relative_error)
        for one in content.subjects
        if one.source_bytes is not None and one.relative_error is not None
    }
    return drawings.frontier(drawn, known)


def _values(reference: Adapter | None) -> Sequence[Sequence[float]] | None:
    if reference is None:
        return None
    modules = reference.modules.values()
    found = [factored_values(one.A[None], one.B[None], one.scaling)[0].tolist() for one in modules]
    return [values for values in found if sum(values) > 0] or None
