"""How much of a fleet's updates is their mean, and how much lies in shared directions beside it.

Every adapter counts alike: its update is scaled to |dW| = 1. The mean and the directions are those of the members;
adapters that were left out show what they hold of others. What neither holds is private. It prints a table:

    python -m benchmarks.fleet.shares FLEET [--write]
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import sqrt
from pathlib import Path

import torch
from torch import Tensor

from adaptzip.core.adapter import Adapter, LoraFactors
from benchmarks import page
from benchmarks.fleet.entries import Entry, by_kind, load

SIZES = (16, 32, 64)
HEAD = ["adapters", "number", "mean", *(f"mean and {size}" for size in SIZES), "private, beyond the largest"]


@dataclass(frozen=True, eq=False)
class Common:
    """What one module's updates have in common.

    Attributes:
        mean: (out, in).
        U: (out, out), principal directions of the updates less their mean, the most important first.
        V: (in, in).
    """

    mean: Tensor
    U: Tensor
    V: Tensor


@dataclass(frozen=True)
class Shares:
    """Of |dW|^2, over some adapters.

    Attributes:
        mean: what is gone once the mean is taken away; negative where the mean only adds.
        shared: by the number of directions on either side, what they hold of the rest.
    """

    mean: float
    shared: Mapping[int, float]

    def private(self, size: int) -> float:
        """What neither the mean nor so many directions hold."""
        return 1 - self.mean - self.shared[size]


def normalised(adapter: Adapter) -> Adapter:
    """The adapter at |dW| = 1."""
    length = sqrt(sum(_square(module) for module in adapter.modules.values()))
    return replace(adapter, modules={n: replace(m, scaling=m.scaling / length) for n, m in adapter.modules.items()})


def common(modules: Sequence[LoraFactors]) -> Common:
    """The mean of one module's updates, and the principal directions of what they are beside it."""
    out, width = modules[0].shape
    mean, left, right = torch.zeros(out, width), torch.zeros(out, out), torch.zeros(width, width)
    for module in modules:
        A, B = module.A.float(), module.B.float() * module.scaling
        mean += B @ A
        left += B @ (A @ A.T) @ B.T
        right += A.T @ (B.T @ B) @ A
    mean /= len(modules)
    return Common(
        mean, _principal(left - len(modules) * mean @ mean.T), _principal(right - len(modules) * mean.T @ mean)
    )


def shares(found: Mapping[str, Common], adapters: Sequence[Adapter], sizes: Sequence[int] = SIZES) -> Shares:
    """What a mean and directions hold of adapters, which are normalised."""
    whole, mean, shared = 0.0, 0.0, dict.fromkeys(sizes, 0.0)
    for adapter in adapters:
        for name, module in adapter.modules.items():
            one = found[name]
            rest = module.delta() - one.mean
            energy, square = _square(module), float(rest.square().sum())
            whole, mean = whole + energy, mean + energy - square
            cores = (one.U.T @ rest @ one.V).square()
            for size in sizes:
                shared[size] += float(cores[:size, :size].sum())
    return Shares(mean / whole, {size: value / whole for size, value in shared.items()})


def _square(module: LoraFactors) -> float:
    """|dW|^2 of a module."""
    A, B = module.A.double(), module.B.double() * module.scaling
    return float(((B.T @ B) * (A @ A.T)).sum())


def _principal(gram: Tensor) -> Tensor:
    vectors: Tensor = torch.linalg.eigh(gram).eigenvectors
    return vectors.flip(1)


def of_all(adapters: Sequence[Adapter]) -> dict[str, Common]:
    """Of every module."""
    return {name: common([adapter.modules[name] for adapter in adapters]) for name in adapters[0].modules}


def rows(kind: str, entries: Sequence[Entry]) -> list[list[str]]:
    """Members with the common start, those with their own, all, and those left out."""
    adapters = {entry.name: normalised(entry.adapter()) for entry in entries}
    members = [entry for entry in entries if not entry.left_out]
    found = of_all([adapters[entry.name] for entry in members])
    same = [entry for entry in members if entry.same_start]
    groups = {
        f"{kind}, members": members,
        f"{kind}, members of one start": same,
        f"{kind}, members of other starts": [entry for entry in members if not entry.same_start] if same else [],
        f"{kind}, left out": [entry for entry in entries if entry.left_out],
    }
    return [
        _row(name, len(group), shares(found, [adapters[entry.name] for entry in group]))
        for name, group in groups.items()
        if group
    ]


def _row(name: str, count: int, found: Shares) -> list[str]:
    values = [found.mean, *(found.mean + found.shared[size] for size in SIZES), found.private(max(SIZES))]
    return [name, str(count), *(f"{100 * value:.1f} %" for value in values)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the shares of every kind of a fleet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fleet", type=Path, help="the folder of a fleet")
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks.md")
    options = parser.parse_args(arguments)
    lines = [row for kind, entries in by_kind(load(options.fleet)).items() for row in rows(kind, entries)]
    text = page.table(HEAD, lines)
    print(text)
    if options.write:
        page.put("fleet-shares", text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
