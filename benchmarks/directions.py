"""What the leading singular directions of a weight take, and how far they are from those of other ways.

The ways are a certified Krylov space, LAPACK's partial eigensolver on A^T A, and a whole singular value decomposition,
each on one core, for weights with a falling and a flat spectrum. A matrix at a time; the widest need 4 GB:

    python -m benchmarks.directions --write

Exits with 1 where values differ by more than 1e-10 of the largest, or directions by more than 1e-8.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adaptzip.bases.directions import dense_directions, lapack_directions
from adaptzip.core.linalg import canonical_signs
from adaptzip.core.workers import on_one_core
from benchmarks.page import put, table

SHAPES = ((1024, 1024), (2048, 2048), (4096, 4096), (11008, 4096))
LAYERS, CORES = 32, 2
LAYER = {(4096, 4096): 4, (11008, 4096): 3}
"""Matrices of each shape in a layer of a 7B model."""
SIZE = 16
WIDEST_WHOLE = 4096
"""Rows up to which the whole decomposition is measured."""
VALUES, DIRECTIONS = 1e-10, 1e-8

Found = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Case:
    """What was measured of one weight.

    Attributes:
        seconds, partial, whole: processor time of ours, of the partial eigensolver, of the whole decomposition (None
            where it was not run).
        values: largest difference of singular values, as a share of the largest.
        directions: largest difference of an entry of a direction.
        residual: largest |A v - s u| and |A^T u - s v|, as a share of the largest singular value.
    """

    shape: tuple[int, int]
    spectrum: str
    seconds: float
    partial: float
    whole: float | None
    values: float
    directions: float
    residual: float


def main() -> int:
    """Measure, print, and write the page if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--write", action="store_true", help="put the tables into docs/benchmarks.md")
    parser.add_argument("--widest", type=int, default=SHAPES[-1][0], help="most rows of a matrix")
    arguments = parser.parse_args()
    cases = [
        measure(shape, spectrum, make(*shape))
        for spectrum, make in SPECTRA.items()
        for shape in SHAPES
        if shape[0] <= arguments.widest
    ]
    head = ["weight", "seconds", "of partial eigh", "of whole SVD", "values", "directions", "residual"]
    text = "\n".join(
        [
            f"{SIZE} directions and one value more of a float32 weight, processor time of one core:\n",
            table(head, [row(case) for case in cases]),
            f"All weights of a 7B model, {LAYERS} layers, on {CORES} cores, from the seconds above:\n",
            table(["spectrum", "minutes", "minutes of partial eigh"], whole_model(cases)),
        ]
    )
    print(text)
    if arguments.write:
        put("directions", text)
    return 0 if all(case.values <= VALUES and case.directions <= DIRECTIONS for case in cases) else 1


def falling(out: int, width: int) -> Tensor:
    """A few outliers, then values that fall as (1 + i / 50)^-1/2, over noise: as weights of language models look."""
    drawn = torch.Generator().manual_seed(0)
    count = min(800, width // 2)
    values = 2 * (1 + torch.arange(count) / 50) ** -0.5
    values[:4] = 2 * torch.tensor([4.0, 2.5, 1.8, 1.4])
    U = torch.randn(out, count, generator=drawn) / out**0.5
    V = torch.randn(width, count, generator=drawn) / width**0.5
    found: Tensor = (U * values) @ V.T + 0.5 * flat(out, width)
    return found


def flat(out: int, width: int) -> Tensor:
    """Independent Gaussian numbers, the spectrum of Marchenko and Pastur: the hardest that a weight can have."""
    found: Tensor = torch.randn(out, width, generator=torch.Generator().manual_seed(1)) / out**0.5
    return found


SPECTRA: Mapping[str, Callable[[int, int], Tensor]] = {"falling": falling, "flat": flat}


@on_one_core()
def measure(shape: tuple[int, int], spectrum: str, weight: Tensor) -> Case:
    """All ways on one weight (out, in), out >= in."""
    (U, S, V), seconds = timed(lambda: dense_directions(weight, SIZE + 1))
    reference, partial = timed(lambda: lapack_directions(weight.double(), SIZE + 1))
    whole = None
    if shape[0] <= WIDEST_WHOLE:
        (u, s, vt), whole = timed(lambda: torch.linalg.svd(weight.double(), full_matrices=False))
        reference = u, s, vt.T
    u, vt = canonical_signs(reference[0][:, : SIZE + 1], reference[2][:, : SIZE + 1].T)
    apart = max(float((U - u)[:, :SIZE].abs().max()), float((V - vt.T)[:, :SIZE].abs().max()))
    values = float((S - reference[1][: SIZE + 1]).abs().max() / S[0])
    return Case(shape, spectrum, seconds, partial, whole, values, apart, residual(weight.double(), (U, S, V)))


def timed(work: Callable[[], Found]) -> tuple[Found, float]:
    """What it gives, and the processor time that it took."""
    begin = time.process_time()
    found = work()
    return found, time.process_time() - begin


def residual(weight: Tensor, found: Found) -> float:
    """How far pairs are from being mapped to each other."""
    U, S, V = found
    sides = (weight @ V - U * S, weight.T @ U - V * S)
    return max(float(side.norm(dim=0).max() / S[0]) for side in sides)


def row(case: Case) -> list[str]:
    """A line of the table."""
    out, width = case.shape
    shares = [case.seconds / case.partial, None if case.whole is None else case.seconds / case.whole]
    errors = (case.values, case.directions, case.residual)
    return [
        f"{out} x {width}, {case.spectrum}",
        f"{case.seconds:.2f}",
        *("" if share is None else f"1/{1 / share:.3g}" for share in shares),
        *(f"{error:.0e}" for error in errors),
    ]


def whole_model(cases: Sequence[Case]) -> list[list[str]]:
    """Minutes for all matrices of a 7B model by spectrum, where all its shapes were measured."""
    rows = []
    for spectrum in SPECTRA:
        found = {case.shape: case for case in cases if case.spectrum == spectrum}
        if LAYER.keys() <= found.keys():
            ours, partial = (
                sum(count * getattr(found[shape], what) for shape, count in LAYER.items()) * LAYERS / CORES / 60
                for what in ("seconds", "partial")
            )
            rows.append([spectrum, f"{ours:.1f}", f"{partial:.0f}"])
    return rows


if __name__ == "__main__":
    sys.exit(main())
