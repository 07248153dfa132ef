"""Which quantiser, which tables, which contexts: the measurements behind docs/decisions/0002-quantiser.md.

Every configuration codes the same components of the same adapters (those that the Gaussian bound keeps at the error)
at the step that gives exactly the error asked for. Bytes are ideal code lengths under probability tables that were
fitted to that configuration's own quantiser, plus 10 bits a row for the choice of its table; there is no header.
What is printed is bytes over the Gaussian bound, so 1.05 is 5 % above it.

    python -m benchmarks.quantiser [FOLDER ...] [--names NAME ...] [--json] [--write]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import exp, log, sqrt
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adaptzip.core.method import FitContext
from adaptzip.methods import load_fittable
from adaptzip.reports.bounds import Components, allot, least_bytes, price_at
from benchmarks import page
from benchmarks.contexts import CONTEXTS, CodedRows, saving
from benchmarks.real_adapters import RealAdapter, add_folders, find
from benchmarks.research_quantiser import ALL_SHAPES, Family, Quantiser, fit_family, quantise

NAMES = ("gpt2-tigrinya", "minilm-trec-r8", "roberta-pt-paulo", "sd15-te-hansjohn")
ERRORS = (0.2, 0.316)
ROW_BITS = 10
GAIN_BITS = 6
"""What a gain is counted as; it is not rounded, so that its benefit is an upper limit."""
_METHOD = load_fittable("svd")
_TOLERANCE = 2e-4
_PASSES = 12


@dataclass(frozen=True)
class Configuration:
    """What is compared.

    Attributes:
        refit: whether V is fitted again to the quantised U.
        gains: whether each component has a scale of its own, fitted by least squares after quantisation.
        shapes: exponents of the generalised Gaussians that the tables are made for.
    """

    name: str
    quantiser: Quantiser
    refit: bool = True
    gains: bool = False
    shapes: tuple[float, ...] = ALL_SHAPES


CONFIGURATIONS = (
    Configuration("scalar, nearest level", Quantiser(1, 0.0)),
    Configuration("scalar, dead zone", Quantiser(1, 0.0, threshold=0.6)),
    Configuration("scalar, rate-aware", Quantiser(1, 0.15)),
    Configuration("trellis, 4 states", Quantiser(4, 0.3)),
    Configuration("trellis, 8 states", Quantiser(8, 0.3)),
    Configuration("trellis, 16 states", Quantiser(16, 0.3)),
    Configuration("trellis, 32 states", Quantiser(32, 0.3)),
    Configuration("trellis, 64 states", Quantiser(64, 0.3)),
    Configuration("trellis, 128 states", Quantiser(128, 0.3)),
    Configuration("8 states, V not refitted", Quantiser(8, 0.3), refit=False),
    Configuration("8 states, a gain per component", Quantiser(8, 0.3), gains=True),
    Configuration("8 states, Gaussian tables only", Quantiser(8, 0.3), shapes=(2.0,)),
    Configuration("8 states, Gaussian and Laplace tables", Quantiser(8, 0.3), shapes=(1.0, 2.0)),
    Configuration("8 states, bits not weighed", Quantiser(8, 0.0)),
    Configuration("8 states, bit weight 0.2", Quantiser(8, 0.2)),
    Configuration("8 states, bit weight 0.4", Quantiser(8, 0.4)),
    Configuration("8 states, bit weight 0.5", Quantiser(8, 0.5)),
    Configuration("128 states, bit weight 0.4", Quantiser(128, 0.4)),
    Configuration("128 states, bit weight 0.5", Quantiser(128, 0.5)),
)
CONTEXTS_UNDER = "trellis, 8 states"


@dataclass(frozen=True, eq=False)
class Coded:
    """An adapter's kept components at one step: ideal bits, relative error, and the rows as they were coded."""

    bits: float
    error: float
    rows: tuple[CodedRows, ...]


@dataclass(frozen=True)
class Result:
    """One configuration on one adapter; `seconds` is the processor time of its search per million numbers."""

    configuration: str
    adapter: str
    asked: float
    error: float
    bytes: float
    ratio: float
    seconds: float


@dataclass(frozen=True)
class ContextResult:
    """The share of the bits that a context saves on one adapter."""

    context: str
    adapter: str
    asked: float
    saving: float


@dataclass(frozen=True, eq=False)
class Problem:
    """An adapter's fitted modules and how many components of each the bound keeps at an error."""

    real: RealAdapter
    asked: float
    fits: dict[str, Any]
    ranks: dict[str, int]

    @classmethod
    def of(cls, real: RealAdapter, error: float) -> Problem:
        price = price_at(real.parts.unknown, error)
        fits = _METHOD.fit(real.adapter.modules, _METHOD.config_type(), None, FitContext())
        return cls(real, error, fits, {name: _components_kept(fitted, price) for name, fitted in fits.items()})

    @property
    def energy(self) -> float:
        return float(sum(f.S.double().square().sum() for f in self.fits.values()))


def _components_kept(fitted: Any, price: float) -> int:
    energy = fitted.S.double().square().numpy()
    out, width = (np.full(len(energy), float(side.shape[0])) for side in (fitted.U, fitted.V))
    return int(np.count_nonzero(allot(Components(energy, out, width), price)[0]))


def code(problem: Problem, configuration: Configuration, family: Family, step: float) -> Coded:
    """Code every kept component at one step: all modules' U side by side, then all modules' V."""
    fits = {name: fitted for name, fitted in problem.fits.items() if problem.ranks[name]}
    dropped = sum(float(f.S.double().square().sum()) for name, f in problem.fits.items() if name not in fits)
    targets = [_METHOD.target(fitted, "U", problem.ranks[name], {}) for name, fitted in fits.items()]
    left = _code_rows(targets, configuration, family, step, "U")
    done = [{"U": rows.levels.values().float() * step} for rows in left]
    targets = [
        _right(f, problem.ranks[name], d, configuration) for (name, f), d in zip(fits.items(), done, strict=True)
    ]
    right = _code_rows(targets, configuration, family, step, "V")
    error = dropped
    for fitted, tensors, rows in zip(fits.values(), done, right, strict=True):
        tensors["V"] = rows.levels.values().float() * step
        if configuration.gains:
            tensors["V"] *= _gains(fitted, tensors)
        error += _METHOD.squared_error(fitted, tensors)
    row_bits = 2 * ROW_BITS + (GAIN_BITS if configuration.gains else 0)
    bits = sum(float(rows.bits.sum()) for rows in (*left, *right)) + row_bits * sum(problem.ranks.values())
    pairs = tuple(rows for pair in zip(left, right, strict=True) for rows in pair)
    return Coded(bits, sqrt(error / problem.energy), pairs)


def _right(fitted: Any, rank: int, done: dict[str, Tensor], configuration: Configuration) -> Tensor:
    """What V is quantised from, (rank, width)."""
    if configuration.refit:
        return _METHOD.target(fitted, "V", rank, done)
    plain: Tensor = (fitted.V[:, :rank] * fitted.S[:rank]).T.contiguous()
    return plain


def _gains(fitted: Any, done: dict[str, Tensor]) -> Tensor:
    """(rank, 1): the scales of the components u_k v_k^T that bring their sum closest to the update."""
    unit = torch.nn.functional.normalize(done["U"], dim=1).double()
    right = done["V"].double()
    cross = ((unit @ fitted.U.double()) * fitted.S.double() * (right @ fitted.V.double())).sum(1)
    gram = (unit @ unit.T) * (right @ right.T)
    # Components that were rounded to nothing have a zero row here, which any gain fits.
    gains: Tensor = torch.linalg.pinv(gram, hermitian=True) @ cross
    return gains[:, None].float()


def _code_rows(
    targets: Sequence[Tensor], configuration: Configuration, family: Family, step: float, side: str
) -> list[CodedRows]:
    blocks = [target / step for target in targets]
    found = quantise(blocks, [family.nearest(rows) for rows in blocks], configuration.quantiser, family.rates)
    coded = []
    for levels in found:
        bits, tables = family.cheapest(levels)
        coded.append(CodedRows(side, levels, tables, bits))
    return coded


def solve(problem: Problem, configuration: Configuration, family: Family) -> Coded:
    """The coded adapter at the error asked for."""
    step, low, high = _first_step(problem, configuration), 0.0, float("inf")
    for _ in range(_PASSES):
        coded = code(problem, configuration, family, step)
        if abs(coded.error / problem.asked - 1) < _TOLERANCE:
            break
        low, high = (step, high) if coded.error < problem.asked else (low, step)
        guess = step * (problem.asked / coded.error) ** 1.2
        step = guess if low < guess < high else exp((log(low) + log(high)) / 2)
    return coded


def search_seconds(configuration: Configuration, family: Family) -> float:
    """Processor seconds per million numbers of choosing the levels of Gaussian rows, the best of three runs."""
    rows = 2 * torch.randn(64, 4096, generator=torch.Generator().manual_seed(0))
    tables, taken = family.nearest(rows), []
    for _ in range(3):
        start = time.process_time()
        quantise([rows], [tables], configuration.quantiser, family.rates)
        taken.append(time.process_time() - start)
    return min(taken) / rows.numel() * 1e6


def _first_step(problem: Problem, configuration: Configuration) -> float:
    """A scalar step's error is about step^2 / 12 a number; a trellis step is half as large for the same error."""
    numbers = sum(rank * sum(problem.real.adapter.modules[name].shape) for name, rank in problem.ranks.items())
    step = problem.asked * sqrt(problem.energy / numbers * 6)
    return step if configuration.quantiser.states == 1 else step / 2


def study(
    adapters: Sequence[RealAdapter], configurations: Sequence[Configuration] = CONFIGURATIONS
) -> tuple[list[Result], list[ContextResult]]:
    problems = [Problem.of(real, error) for real in adapters for error in ERRORS]
    results, contexts = [], []
    for configuration in configurations:
        family = fit_family(configuration.quantiser, configuration.shapes)
        seconds = search_seconds(configuration, family)
        for problem in problems:
            coded = solve(problem, configuration, family)
            size, name = coded.bits / 8, problem.real.name
            ratio = size / least_bytes(problem.real.parts.unknown, coded.error)
            results.append(Result(configuration.name, name, problem.asked, coded.error, size, ratio, seconds))
            print(f"{configuration.name}, {name}, error {coded.error:.4f}: {ratio:.4f}", file=sys.stderr)
            if configuration.name == CONTEXTS_UNDER:
                contexts += [
                    ContextResult(context, name, problem.asked, saving(coded.rows, family, context))
                    for context in CONTEXTS
                ]
    return results, contexts


def render(results: Sequence[Result], contexts: Sequence[ContextResult]) -> str:
    adapters = list(dict.fromkeys(row.adapter for row in results))
    places = [(adapter, error) for adapter in adapters for error in ERRORS]
    base = _mean([row.seconds for row in results if row.configuration == "trellis, 8 states"])
    rows = []
    for configuration in dict.fromkeys(row.configuration for row in results):
        found = [row for row in results if row.configuration == configuration]
        ratios = {(row.adapter, row.asked): row.ratio for row in found}
        speed = _mean([row.seconds for row in found]) / base
        rows.append(
            [
                configuration,
                *(f"{ratios[place]:.3f}" for place in places),
                f"{_mean(list(ratios.values())):.3f}",
                f"{speed:.1f}",
            ]
        )
    saved = {(row.context, row.adapter, row.asked): row.saving for row in contexts}
    context_rows = [[context, *(f"{saved[context, *place]:.2%}" for place in places)] for context in CONTEXTS]
    head = [f"{adapter}, {error:g}" for adapter, error in places]
    return "\n".join(
        [
            page.table(["bytes / bound", *head, "mean", "search time"], rows),
            page.table(["bits saved by context", *head], context_rows),
        ]
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_folders(parser)
    parser.add_argument("--names", nargs="+", default=NAMES, help="the adapters to use of those found; all: every one")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/benchmarks.md")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    adapters = find(options.folders, () if options.names == ["all"] else options.names)
    if not adapters:
        print(f"error: none of {', '.join(options.names)} was found", file=sys.stderr)
        return 2
    results, contexts = study(adapters)
    if options.json:
        print(
            json.dumps({"results": [asdict(r) for r in results], "contexts": [asdict(c) for c in contexts]}, indent=2)
        )
    else:
        print(render(results, contexts))
    if options.write:
        page.put("quantiser", render(results, contexts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
