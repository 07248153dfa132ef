"""A picture of gain over bytes, one line a method, for pages with a light and with a dark ground."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adaptzip.reports.plots import check_plot

Point = tuple[int, float]
"""Bytes, and the share of the gain."""
TICKS = tuple(2**power for power in range(10, 25))


@dataclass(frozen=True)
class Style:
    colour: str
    mark: str
    line: str = "-"


@dataclass(frozen=True)
class Ground:
    """Colours of writing and grid."""

    ink: str
    grid: str


GROUNDS = {"light": Ground("#24292f", "#d8dee4"), "dark": Ground("#d1d9e0", "#30363d")}
"""Written on nothing, so that the page's own ground is seen."""


def write(stem: Path, lines: Mapping[str, Sequence[Point]], styles: Mapping[str, Style]) -> list[Path]:
    """Draw the lines, each by its label, as `STEM-light.svg` and `STEM-dark.svg`.

    Raises:
        RefusedError: if matplotlib is missing.
    """
    paths = [stem.with_name(f"{stem.name}-{ground}.svg") for ground in GROUNDS]
    for path, ground in zip(paths, GROUNDS.values(), strict=True):
        check_plot(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        _draw(path, lines, styles, ground)
    return paths


def _draw(path: Path, lines: Mapping[str, Sequence[Point]], styles: Mapping[str, Style], ground: Ground) -> None:
    import matplotlib
    from matplotlib.figure import Figure

    # The same numbers make the same file.
    with matplotlib.rc_context({"svg.hashsalt": "adaptzip", "text.color": ground.ink}):
        figure = Figure(figsize=(9, 4.4), layout="constrained")
        axes = figure.add_subplot()
        for label, points in lines.items():
            style = styles[label]
            sizes, gains = zip(*sorted(points), strict=True)
            axes.plot(
                sizes,
                [100 * gain for gain in gains],
                color=style.colour,
                marker=style.mark,
                linestyle=style.line,
                linewidth=2,
                markersize=6.5,
                label=label,
                zorder=3,
            )
        _axes(axes, lines, ground)
        figure.legend(loc="outside right center", frameon=False, fontsize=10, labelcolor=ground.ink, labelspacing=0.9)
        figure.savefig(path, transparent=True, metadata={"Date": None})


def _axes(axes: Any, lines: Mapping[str, Sequence[Point]], ground: Ground) -> None:
    """Bytes on a logarithmic axis, shares of the gain beside it, and no box."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    sizes = [size for points in lines.values() for size, _ in points]
    axes.set_xscale("log", base=2)
    axes.set_xlim(min(sizes) / 1.25, max(sizes) * 1.25)
    axes.xaxis.set_major_locator(FixedLocator(TICKS))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda size, _: f"{size / 2**10:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{share:g} %"))
    axes.set_xlabel("size, KiB", color=ground.ink)
    axes.set_ylabel("gain kept", color=ground.ink)
    axes.tick_params(colors=ground.ink, length=0)
    axes.grid(color=ground.grid, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in axes.spines.values():
        side.set_visible(False)
