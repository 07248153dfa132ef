"""A page's drawings by matplotlib, as SVG whose colours follow the page's."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from io import StringIO
from typing import Any

import numpy as np

from adaptzip.adz.coding.packing import ExtrasMode
from adaptzip.methods import REFERENCE
from adaptzip.reports.bench_results import Bench
from adaptzip.reports.page.subjects import Subject
from adaptzip.reports.plots import COLOURS, MARKS, draw_bench, error_axis, look, new_figure, plain

_VARIABLES = {"#000000": "var(--ink)", "#666666": "var(--soft)", "#dddddd": "var(--line)"}
_SIZE = (6.6, 4.6)
_COLUMNS = 3
"""Names side by side in a legend, which stands below, so that narrow screens show it."""
_QUANTILES = (0.1, 0.5, 0.9)
_LEAST = 1e-6
"""Singular values below this share of the update's norm are not drawn."""


def frontier(benches: Mapping[ExtrasMode, Bench], files: Mapping[str, tuple[int, float]]) -> str:
    """Error against bytes, with a mark for each file of the page.

    Args:
        benches: by how extras are kept; of those beyond the first, the reference method alone is drawn.
        files: bytes and relative error by name.
    """
    figure = new_figure(*_SIZE)
    axes = figure.add_subplot()
    (first, bench), *others = benches.items()
    draw_bench(axes, bench)
    for mode, other in others:
        points = sorted((p.bytes, p.relative_error) for p in other.points if p.method == REFERENCE)
        label = f"{REFERENCE}, extras {mode} (else {first})"
        axes.plot(*zip(*points, strict=True), color=look(REFERENCE)[0], linestyle=":", linewidth=1.6, label=label)
    for place, (name, (size, error)) in enumerate(files.items()):
        if error > 0:
            axes.plot(
                size, error, linestyle="", marker=MARKS[place % len(MARKS)], markersize=10, markeredgewidth=1.8,
                markerfacecolor="none", markeredgecolor=COLOURS[place % len(COLOURS)], label=plain(name), zorder=5,
            )  # fmt: skip
    _widen(axes, [error for _, error in files.values() if error > 0])
    figure.legend(fontsize=8.5, frameon=False, loc="outside lower center", ncols=_COLUMNS)
    return _svg(figure, "frontier", "relative error over bytes")


def _widen(axes: Any, errors: Sequence[float]) -> None:
    """Let the files of the page into the picture, wherever the curves end."""
    low, high = axes.get_ylim()
    error_axis(axes, min([low, *(0.85 * error for error in errors)]), max([high, *(1.1 * error for error in errors)]))
    axes.margins(x=0.08)


def spectra(subjects: Sequence[Subject], reference: Sequence[Sequence[float]] | None) -> str | None:
    """The singular values of all modules as shares of each update's norm: the median, and four fifths of them.

    Args:
        reference: singular values of the reference's modules.
    """
    drawn = {one.name: [story.values for story in one.modules if story.energy > 0] for one in subjects}
    drawn = {name: values for name, values in drawn.items() if values}
    if not drawn:
        return None
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    figure = new_figure(*_SIZE)
    axes = figure.add_subplot()
    if reference is not None:
        _spectrum(axes, reference, "the source", "#666666", "--")
    for place, (name, values) in enumerate(drawn.items()):
        _spectrum(axes, values, plain(name), COLOURS[place % len(COLOURS)], "-")
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("component")
    axes.set_ylabel("singular value / |dW|")
    axes.grid(visible=True, which="major", color="#dddddd", linewidth=0.6)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.legend(fontsize=8.5, frameon=False, loc="outside lower center", ncols=_COLUMNS)
    return _svg(figure, "spectra", "singular values of the modules")


def _spectrum(axes: Any, values: Sequence[Sequence[float]], name: str, colour: str, style: str) -> None:
    table = np.full((len(values), max(map(len, values))), np.nan)
    for row, found in zip(table, values, strict=True):
        norm = float(np.linalg.norm(found))
        row[: len(found)] = np.asarray(found) / norm if norm > 0 else np.nan
    table[table < _LEAST] = np.nan
    kept = table[:, ~np.isnan(table).all(axis=0)]
    low, middle, high = np.nanquantile(kept, _QUANTILES, axis=0)
    across = np.arange(1, kept.shape[1] + 1)
    axes.fill_between(across, low, high, color=colour, alpha=0.16, linewidth=0)
    axes.plot(across, middle, color=colour, linestyle=style, linewidth=1.8, marker=".", label=name)


def _svg(figure: Any, salt: str, told: str) -> str:
    """An SVG element to stand in a page."""
    from matplotlib import rc_context

    buffer = StringIO()
    undated = {"Date": None, "Creator": None, "Format": None, "Type": None}
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": f"adaptzip {salt}"}):
        figure.savefig(buffer, format="svg", metadata=undated, transparent=True)
    drawn = buffer.getvalue()
    drawn = drawn[drawn.index("<svg") :]
    for colour, variable in _VARIABLES.items():
        drawn = drawn.replace(colour, variable)
    drawn = re.sub(r' (width|height)="[\d.]+pt"', "", drawn, count=2)
    return drawn.replace("<svg ", f'<svg role="img" aria-label="{told}" ', 1)
