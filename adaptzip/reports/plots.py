"""Drawing errors and scores against bytes, with matplotlib (`pip install 'adaptzip[plots]'`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptzip.core.training_report import IN_PER_CENT
from adaptzip.errors import RefusedError, UsageError
from adaptzip.files.atomic import atomic_file
from adaptzip.methods import names
from adaptzip.reports.results import NOTHING, TEACHER

if TYPE_CHECKING:
    from adaptzip.core.budget import Counted
    from adaptzip.reports.bench_results import Bench, Point
    from adaptzip.reports.evaluation import Evaluation, Score

FORMATS = ("png", "svg", "pdf")
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's, which the colour-blind tell apart."""
MARKS = "osD^vPX"
_GREY = "#666666"
_AXES = {
    "encoder": "1 − cosine with the teacher's embeddings",
    "scores": "mean squared error from the teacher's scores",
}
_SAME = 1e-9
"""A distance below it is rounding: the two say the same."""
_ERROR_TICKS = (0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.85, 1.0)
_FEW_ERROR_TICKS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
"""For errors over more than a decade, where more would run into each other."""


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
    figure = new_figure(8, 5)
    axes = figure.add_subplot()
    draw_bench(axes, bench)
    axes.set_title(plain(title), fontsize=11)
    if bench.points:
        axes.legend(*_from_above(axes), fontsize=9, frameon=False, loc="best")
    _save(figure, path, force)


def draw_bench(axes: Any, bench: Bench) -> None:
    """Draw a bench onto axes, without a title and a legend."""
    for name in dict.fromkeys(point.method for point in bench.points):
        _method(axes, [point for point in bench.points if point.method == name], bench.unit)
    if bench.unit == "bytes":
        _references(axes, bench)
    _scales(axes, bench)


def draw_evaluation(evaluation: Evaluation, path: str | Path, *, title: str = "", force: bool = False) -> None:
    """Draw an evaluation against bytes: the distance from the teacher, and beside it accuracy or loss where known.

    Each adapter whose size is known is a mark; teacher and no adapter are lines.

    Args, raises:
        As `draw`.
    """
    check_plot(path)
    from matplotlib.ticker import PercentFormatter

    figure = new_figure(8 if evaluation.metric is None else 12, 5)
    panels = figure.subplots(1, 1 if evaluation.metric is None else 2, squeeze=False)[0]
    # The teacher's own would be nothing at all, which is below any logarithmic axis.
    distances = {name: _distance(score) for name, score in evaluation.rows.items() if name != TEACHER}
    _marks(panels[0], evaluation, distances)
    _log_heights(panels[0], list(distances.values()))
    panels[0].set_ylabel(_AXES.get(evaluation.kind, "KL divergence from the teacher, nats"))
    if evaluation.metric is not None:
        _marks(panels[1], evaluation, {name: score.metric for name, score in evaluation.rows.items()})
        panels[1].set_ylabel("loss, nats a token" if evaluation.metric == "loss" else evaluation.metric)
        if evaluation.metric in IN_PER_CENT:
            panels[1].yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    for axes in panels:
        _byte_axis(axes)
    figure.suptitle(plain(title), fontsize=11)
    handles, labels = panels[-1].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=9, frameon=False, loc="outside right upper")
    _save(figure, path, force)


def _distance(score: Score) -> float:
    """`Score.distance`; rounding may leave an exact copy a little below zero."""
    return max(0.0, score.distance or 0.0)


def _marks(axes: Any, evaluation: Evaluation, heights: Mapping[str, float | None]) -> None:
    """A mark for each adapter, and lines for the rows that have no size to be drawn at."""
    for name, height in heights.items():
        size = None if name in (NOTHING, TEACHER) else evaluation.bytes[name]
        if height is None:
            continue
        if size is None:
            style = "--" if name == TEACHER else ":"
            axes.axhline(height, color=_GREY, linewidth=1.2, linestyle=style, label=plain(name), zorder=1)
            continue
        place = list(evaluation.rows).index(name)
        axes.plot(
            size,
            height,
            color=COLOURS[place % len(COLOURS)],
            marker=MARKS[(place + place // len(MARKS)) % len(MARKS)],
            markersize=7,
            linestyle="",
            label=plain(_short(name, evaluation.rows)),
            zorder=3,
        )


def _short(name: str, names: Iterable[str]) -> str:
    """The last part of a path, where no other ends so."""
    last = Path(name).name
    return last if last and sum(Path(other).name == last for other in names) == 1 else name


def plain(name: str) -> str:
    """A name as matplotlib shows it, which takes dollars for mathematics, and no label that begins with a line."""
    shown = name.replace("$", r"\$")
    return f"\u200b{shown}" if shown.startswith("_") else shown


def _log_heights(axes: Any, heights: Sequence[float]) -> None:
    """A logarithmic axis of distances; an exact copy's 0 is at its bottom."""
    positive = [height for height in heights if height > _SAME]
    if positive:
        bottom = min(positive) / 2
        axes.set_yscale("log")
        axes.set_ylim(bottom, max(positive) * 2)
        for line in axes.get_lines():
            line.set_ydata([max(float(height), bottom) for height in line.get_ydata()])
            line.set_clip_on(False)


def new_figure(width: float, height: float) -> Any:
    """A figure of so many inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Any, path: str | Path, force: bool) -> None:
    from matplotlib import rc_context

    buffer, kind = BytesIO(), Path(path).suffix.lower().lstrip(".")
    undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind, {})
    # Text stays text, and equal figures are equal files.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "adaptzip", "pdf.fonttype": 42}):
        figure.savefig(buffer, format=kind, metadata=undated)
    with atomic_file(path, force) as handle:
        handle.write(buffer.getvalue())


def _from_above(axes: Any) -> tuple[list[Any], list[str]]:
    """The legend's lines and their names, in the order in which the curves lie above each other at their left ends."""
    lines = [line for line in axes.get_lines() if not str(line.get_label()).startswith("_")]
    lines.sort(key=lambda line: -float(line.get_ydata()[list(line.get_xdata()).index(min(line.get_xdata()))]))
    return lines, [str(line.get_label()) for line in lines]


def look(method: str) -> tuple[str, str]:
    """The colour and the mark of a method, in every figure the same."""
    known = names()
    number = known.index(method) if method in known else len(known)
    return COLOURS[number % len(COLOURS)], MARKS[number % len(MARKS)]


def _method(axes: Any, points: Sequence[Point], unit: Counted) -> None:
    """A method's files as one line, the smallest first."""
    sized = [(point.bytes if unit == "bytes" else point.parameters, point.relative_error) for point in points]
    sizes, errors = zip(*sorted(sized), strict=True)
    colour, mark = look(points[0].method)
    axes.plot(
        sizes,
        errors,
        color=colour,
        marker=mark,
        markersize=5,
        linewidth=1.6,
        label=points[0].method,
        zorder=3,
    )


def _references(axes: Any, bench: Bench) -> None:
    bounds = (("Gaussian bound", "--", bench.bound), ("with the start known", "-.", bench.known_bound))
    for label, style, bound in bounds:
        if bound:
            sizes, errors = [size for _, size in bound], [error for error, _ in bound]
            axes.plot(sizes, errors, color="black", linestyle=style, linewidth=1.2, label=label, zorder=2)
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
    axes.set_yscale("log")
    errors = [point.relative_error for point in bench.points if point.relative_error > 0]
    low, high = min(errors, default=0.1) * 0.85, min(1.0, max(errors, default=1.0) * 1.1)
    error_axis(axes, low, high)
    axes.set_ylabel("relative error |dW − dW'| / |dW|")
    if bench.unit == "bytes":
        _byte_axis(axes)
    else:
        _parameter_axis(axes)


def error_axis(axes: Any, low: float, high: float) -> None:
    """Errors up a logarithmic axis, from one to another."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter

    axes.set_ylim(low, high)
    ticks = _ERROR_TICKS if high < 10 * low else _FEW_ERROR_TICKS
    axes.yaxis.set_major_locator(FixedLocator([tick for tick in ticks if low <= tick <= high]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _byte_axis(axes: Any) -> None:
    """Bytes along a logarithmic axis."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.set_xscale("log", base=2)
    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(
        LogLocator(base=2, subs=(1.0,) if high > 8 * low else (1.0, 1.5) if high > 3 * low else (1.0, 1.25, 1.5, 1.75))
    )
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _size(value)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("bytes of the file, everything counted")
    _open(axes)


def _parameter_axis(axes: Any) -> None:
    """Stored parameters along a logarithmic axis."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("stored parameters, extras not counted")
    _open(axes)


def _open(axes: Any) -> None:
    """A grid, and no box."""
    axes.grid(visible=True, which="major", color="#dddddd", linewidth=0.6)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _size(value: float) -> str:
    """`512 B`, `64 KiB`."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if value >= size:
            return f"{value / size:g} {unit}"
    return f"{value:g} B"
