"""What stands beside adaptzip for one adapter: each contender's bytes and errors at its settings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from adaptzip.core.adapter import Adapter
from benchmarks import storage
from benchmarks.peers import coders, papers
from benchmarks.peers.environments import Environments
from benchmarks.peers.rates import Point
from benchmarks.storage import Stored

Measure = Callable[[Adapter], Sequence[Point]]
DENSITIES = (0.5, 0.3, 0.2, 0.1, 0.05)
RATIOS = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99)
SHARES = (2, 4, 8, 16, 32, 64)
RANKS = (12, 8, 6, 4, 3, 2, 1)


@dataclass(frozen=True)
class Contender:
    """One row.

    Attributes:
        measure: the points of an adapter; none where it cannot hold the adapter or would take too long.
        curve: whether it has a parameter that trades bytes for error.
    """

    name: str
    measure: Measure
    curve: bool = True


def contenders(environments: Environments) -> list[Contender]:
    """All, in the order of the tables."""
    return [*_single(environments), *_curves(environments)]


def _single(environments: Environments) -> list[Contender]:
    stored: dict[str, Callable[[Adapter], Stored]] = {
        "as stored, zstd -19": storage.zstd,
        "as stored, byte planes, zstd -19": partial(storage.zstd, shuffled=True),
        "float16": storage.half,
        "float16, zstd -19": partial(storage.zstd, as_half=True),
        "float16, byte planes, zstd -19": partial(storage.zstd, as_half=True, shuffled=True),
        "int8, groups of 64": partial(storage.integers, bits=8, symmetric=True),
        "int4, groups of 64": partial(storage.integers, bits=4, symmetric=True),
        "int4, groups of 64 with zero points": partial(storage.integers, bits=4, symmetric=False),
    }
    found = [Contender(name, partial(_stored, store=store), curve=False) for name, store in stored.items()]
    asked: dict[str, Callable[[Environments, Adapter], list[Point]]] = {
        "as stored, ZipNN": coders.zipnn,
        "float16, ZipNN": partial(coders.zipnn, as_half=True),
        "NF4 (bitsandbytes)": partial(coders.nf4, doubled=False),
        "NF4, scales quantised too (bitsandbytes)": partial(coders.nf4, doubled=True),
    }
    return found + [Contender(name, partial(ask, environments), curve=False) for name, ask in asked.items()]


def _curves(environments: Environments) -> list[Contender]:
    return [
        Contender("NNCodec", partial(coders.nncodec, environments)),
        Contender("NNCodec of scaled factors", partial(coders.nncodec, environments, scaled=True)),
        Contender("EntroPack", partial(coders.entropack, environments)),
        Contender("PEFT save_as_lora", partial(coders.lower_ranks, environments)),
        Contender("ComPEFT, formula", lambda adapter: [papers.compeft(adapter, density) for density in DENSITIES]),
        Contender("LoRAQuant, formula, 2 and 1 bits", partial(_loraquant, bits=2)),
        Contender("LoRAQuant, formula, 3 and 1 bits", partial(_loraquant, bits=3)),
        *(Contender(f"resize: {name}", partial(_resized, rules=rules)) for name, rules in RULES.items()),
        Contender("global ranks, int4", _global_ranks),
    ]


RULES: dict[str, dict[str, papers.Rule]] = {
    "fixed rank": {f"rank {rank}": papers.fixed(rank) for rank in RANKS},
    "sv_ratio": {f"{ratio:g}": papers.sv_ratio(ratio) for ratio in (1.5, 2, 3, 5, 10, 20, 50)},
    "sv_fro": {f"{share:g}": papers.sv_fro(share) for share in (0.6, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995)},
    "sv_cumulative": {f"{share:g}": papers.cumulative(share) for share in (0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)},
}


def _stored(adapter: Adapter, store: Callable[[Adapter], Stored]) -> list[Point]:
    found = store(adapter)
    return [Point("", found.bytes, found.relative_error)]


def _loraquant(adapter: Adapter, bits: int) -> list[Point]:
    return [papers.loraquant(adapter, bits, ratio) for ratio in RATIOS]


def _resized(adapter: Adapter, rules: dict[str, papers.Rule]) -> list[Point]:
    """Where a rank is cut: the whole adapter in float16 is a row of its own."""
    points = [papers.resized(adapter, rule, setting) for setting, rule in rules.items()]
    return [point for point in points if point.bytes < 2 * adapter.parameters]


def _global_ranks(adapter: Adapter) -> list[Point]:
    return list(_fitting(adapter, ((share, 2 * adapter.parameters / share) for share in SHARES)))


def _fitting(adapter: Adapter, budgets: Iterable[tuple[int, float]]) -> Iterable[Point]:
    """Where a component fits."""
    for share, budget in budgets:
        found = storage.global_rank_int4(adapter, budget)
        if found.bytes:
            yield Point(f"1/{share} of float16", found.bytes, found.relative_error)
