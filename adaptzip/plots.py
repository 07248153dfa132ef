"""Drawing error against bytes, with matplotlib (`pip install 'adaptzip[plots]'`)."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptzip.atomic import atomic_file
from adaptzip.errors import RefusedError, UsageError

if TYPE_CHECKING:
    from adaptzip.benching import Bench, Point

FORMATS = ("png", "svg", "pdf")
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's, which the colour-blind tell apart."""
_MARKS = "osD^vPX"
_GREY = "#666666"
_ERROR_TICKS = (0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.85, 1.0)


def check_plot(path: str | Path) -> None:
    """Refuse a plot that can't be drawn, before the work for it begins.

    Raises:
        UsageError: if the name says no known format.
        RefusedError: if matplotlib is missing.
    """
    if Path(path).suffix.lower().lstrip(".") not in FORMATS:
        raise UsageError(
            f"{path}: a plot is written as {', '.join(FORMATS)}", hint="end the name with one of these, as in out.png"
        )
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise RefusedError(
            "drawing needs matplotlib, which is not installed", hint="pip install 'adaptzip[plots]'"
        ) from error


def draw(bench: Bench, path: str | Path, *, title: str = "", force: bool = False) -> None:
    """Draw a bench: one line per method, the Gaussian bound dashed, int4 and float16 as grey lines.

    Args:
        path: what to write: .png, .svg or .pdf.
        title: what is written above.
        force: replace an existing file.

    Raises:
        UsageError, RefusedError: as `check_plot`.
        OutputError: if the file exists without `force`, or cannot be written.
    """
    check_plot(path)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for number, name in enumerate(dict.fromkeys(point.method for point in bench.points)):
        _method(axes, [point for point in bench.points if point.method == name], number)
    _references(axes, bench)
    _scales(axes, bench)
    axes.set_title(title, fontsize=11)
    if bench.points:
        axes.legend(fontsize=9, frameon=False, loc="best")
    buffer = BytesIO()
    figure.savefig(buffer, format=Path(path).suffix.lower().lstrip("."))
    with atomic_file(path, force) as handle:
        handle.write(buffer.getvalue())


def _method(axes: Any, points: Sequence[Point], number: int) -> None:
    """A method's files as one line, the smallest first."""
    ordered = sorted(points, key=lambda point: point.bytes)
    axes.plot(
        [point.bytes for point in ordered],
        [point.relative_error for point in ordered],
        color=_COLOURS[number % len(_COLOURS)],
        marker=_MARKS[number % len(_MARKS)],
        markersize=5,
        linewidth=1.6,
        label=points[0].method,
        zorder=3,
    )


def _references(axes: Any, bench: Bench) -> None:
    if bench.bound:
        sizes, errors = [size for _, size in bench.bound], [error for error, _ in bench.bound]
        axes.plot(sizes, errors, color="black", linestyle="--", linewidth=1.2, label="Gaussian bound", zorder=2)
    for row in bench.yardsticks:
        if row.relative_error:
            axes.axvline(row.bytes, color=_GREY, linewidth=1, linestyle=":", zorder=1)
            label = f"{row.name}, error {row.relative_error:.2g}"
            axes.text(
                row.bytes, 0.98, label, transform=axes.get_xaxis_transform(), rotation=90, va="top", ha="right",
                fontsize=8.5, color=_GREY,
            )  # fmt: skip


def _scales(axes: Any, bench: Bench) -> None:
    """Logarithmic axes, with sizes and errors as people write them."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.xaxis.set_major_locator(LogLocator(base=2))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _size(value)))
    axes.xaxis.set_minor_locator(NullLocator())
    errors = [point.relative_error for point in bench.points if point.relative_error > 0]
    low, high = min(errors, default=0.1) * 0.85, min(1.0, max(errors, default=1.0) * 1.1)
    axes.set_ylim(low, high)
    axes.yaxis.set_major_locator(FixedLocator([tick for tick in _ERROR_TICKS if low <= tick <= high]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("bytes of the file, everything counted")
    axes.set_ylabel("relative error |dW − dW'| / |dW|")
    axes.grid(visible=True, which="major", color="#dddddd", linewidth=0.6)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _size(value: float) -> str:
    """`512 B`, `64 KiB`."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if value >= size:
            return f"{value / size:g} {unit}"
    return f"{value:g} B"
