"""Make adaptzip/adz/coding/tables.bin: run the quantiser over random rows of every class and count its levels.

usage: python formats/make_tables.py OUTPUT

The tables are part of the format: a new file is a new format version. Quantiser and tables depend on each other, so
the counting is repeated until they agree. Where a level is rare the count is filled up from the distribution itself.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import gamma
from scipy.stats import gennorm

from adaptzip.adz.coding import search, tables, trellis
from adaptzip.core.workers import parallel_map

ROUNDS = 4
ROWS, WIDTH = 64, 4096
PRIOR = 40.0
"""Weight of the distribution itself, in counted levels."""


def deviation(scale: int) -> float:
    return float(tables.SMALLEST_SCALE * 2 ** (scale / tables.STEPS_PER_OCTAVE))


def prior(shape: float, sigma: float) -> NDArray[np.float64]:
    """(2, LEVELS + 2) probability of |k| (one sign) under plain rounding, and of an escape."""
    spread = sigma / np.sqrt(gamma(3 / shape) / gamma(1 / shape))
    level = np.arange(tables.LEVELS + 1)
    result = np.empty((2, tables.LEVELS + 2))
    for q in (0, 1):
        value = 2.0 * level - q * (level > 0)
        middle = (value[1:] + value[:-1]) / 2
        edges = np.concatenate([middle, [value[-1] + 1]])
        tail = gennorm.sf(edges, shape, scale=spread)
        result[q, 0] = 1 - 2 * tail[0]
        result[q, 1:-1] = tail[:-1] - tail[1:]
        result[q, -1] = 2 * tail[-1]
    return result


def count(samples: list[torch.Tensor], rates: NDArray[np.float64]) -> NDArray[np.float64]:
    """(classes, 2, LEVELS + 2) mean counts of |k| per sign and of escapes."""
    counts = np.zeros_like(rates)
    prices = torch.from_numpy(rates).float()

    def quantise(index: int) -> trellis.Quantised:
        return search.quantise([samples[index]], [torch.full((ROWS,), index)], prices, 1.0)[0]

    for index, result in enumerate(parallel_map(quantise, range(len(samples)))):
        size = np.minimum(np.abs(result.levels), tables.LEVELS + 1)
        for q in (0, 1):
            counts[index, q] = np.bincount(size[result.quantiser == q], minlength=tables.LEVELS + 2)
    counts[:, :, 1:-1] /= 2
    return counts


def normalise(counts: NDArray[np.float64], priors: NDArray[np.float64]) -> NDArray[np.float64]:
    weights = counts + PRIOR * priors
    total = weights[..., :1] + 2 * weights[..., 1:-1].sum(-1, keepdims=True) + weights[..., -1:]
    probability: NDArray[np.float64] = weights / total
    return probability


def to_integers(probability: NDArray[np.float64]) -> NDArray[np.uint16]:
    """Frequencies of at least 1 that sum to TOTAL; level 0 takes the remainder."""
    frequency = np.maximum(1, np.round(probability * tables.TOTAL)).astype(np.int64)
    rest = 2 * frequency[..., 1:-1].sum(-1) + frequency[..., -1]
    frequency[..., 0] = tables.TOTAL - rest
    assert (frequency[..., 0] >= 1).all()
    return frequency.astype("<u2")


def main(output: Path) -> None:
    torch.manual_seed(0)
    generator = np.random.default_rng(0)
    samples, priors = [], []
    for shape in tables.SHAPES:
        unit = gennorm.rvs(shape, size=(ROWS, WIDTH), random_state=generator)
        unit /= np.sqrt(gamma(3 / shape) / gamma(1 / shape))
        for scale in range(tables.SCALES):
            samples.append(torch.from_numpy(unit * deviation(scale)).float())
            priors.append(prior(shape, deviation(scale)))
    prior_table = np.array(priors)
    frequency = to_integers(normalise(np.zeros_like(prior_table), prior_table))
    for _ in range(ROUNDS):
        rates = -np.log2(frequency.astype(np.float64) / tables.TOTAL)
        frequency = to_integers(normalise(count(samples, rates), prior_table))
    output.write_bytes(frequency.tobytes())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
