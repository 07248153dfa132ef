"""Bytes at equal gain of a language model, from what `benchmarks.smollm2` measured and docs/benchmarks.md shows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, log
from pathlib import Path

from scipy.interpolate import PchipInterpolator

from benchmarks import page
from benchmarks.peers.rates import Point, bytes_at

GAINS = (0.5, 0.8, 0.9, 0.95)
DIVERGENCES = (0.1, 0.01, 0.001)
"""In nats."""
OWN = "adaptzip"
"""The label of ours that no data is given to, and the beginning of the labels of all of ours."""


@dataclass(frozen=True)
class Kept:
    """A method at one size: its bytes, the share of the gain, and the divergence from the adapter."""

    method: str
    bytes: int
    gain: float
    kl: float


def recorded(path: Path = page.PAGE) -> list[Kept]:
    """The rows of the table of `benchmarks.smollm2` that have bytes."""
    text = path.read_text(encoding="utf-8")
    (table,) = re.findall(r"<!-- benchmark: smollm2 -->\n(.*?)<!-- end benchmark -->", text, flags=re.DOTALL)
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in table.splitlines() if "|" in line]
    head, lines = rows[0], [row for row in rows[2:] if row[1] and row[0] != "the adapter"]
    places = [head.index(name) for name in ("method", "bytes", "gain", "KL")]
    found = []
    for line in lines:
        method, size, gain, kl = (line[place] for place in places)
        found.append(Kept(method, int(size.replace(",", "")), float(gain.removesuffix(" %")) / 100, float(kl)))
    return found


def bytes_at_gain(rows: Sequence[Kept], gain: float) -> float | None:
    """Log bytes as a monotone cubic of gain between what was measured, less what more bytes made no better."""
    curve: list[Kept] = []
    for row in sorted(rows, key=lambda row: (row.bytes, -row.gain)):
        if not curve or row.gain > curve[-1].gain:
            curve.append(row)
    if len(curve) < 2 or not curve[0].gain <= gain <= curve[-1].gain:
        return None
    return exp(float(PchipInterpolator([row.gain for row in curve], [log(row.bytes) for row in curve])(gain)))


def bytes_at_divergence(rows: Sequence[Kept], kl: float) -> float | None:
    return bytes_at([Point("", row.bytes, row.kl) for row in rows], kl)


def table(rows: Sequence[Kept]) -> str:
    """Bytes at each gain and divergence, in brackets their ratio to ours without data; bold where a peer's is less."""
    by_method = {row.method: [one for one in rows if one.method == row.method] for row in rows}
    found = {
        method: [bytes_at_gain(curve, gain) for gain in GAINS] + [bytes_at_divergence(curve, kl) for kl in DIVERGENCES]
        for method, curve in by_method.items()
        if len(curve) > 1
    }
    head = ["method", *(f"gain {100 * gain:g} %" for gain in GAINS), *(f"KL {kl:g}" for kl in DIVERGENCES)]
    lines = [
        [method, *(_cell(size, own, method) for size, own in zip(sizes, found[OWN], strict=True))]
        for method, sizes in found.items()
    ]
    return page.table(head, lines)


def _cell(size: float | None, own: float | None, method: str) -> str:
    if size is None:
        return "-"
    text = f"{size:,.0f}" if own is None else f"{size:,.0f} ({size / own:.2f})"
    return f"**{text}**" if own is not None and size < own and not method.startswith(OWN) else text
