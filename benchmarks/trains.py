"""TT-SVD of many matrices at once, beside tensorly's tensor_train of one after the other.

64 matrices of 4096 x 16, trains of rank 5 with noise, are folded into the modes 8, 8, 8, 8, 4 and 4 and cut to TT rank
5. All ways run in turn, several times; the table has the median. Needs tensorly:

    python -m benchmarks.trains --write

Exits with 1 where the errors differ by more than 1e-5 in float64, or a way of adaptzip's is not 20 times faster than
tensorly in the same dtype, with as many threads as torch takes by itself.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adaptzip.methods._trains import contract, tt_svd
from benchmarks.page import put, table

MATRICES, MODES, RANK = 64, (8, 8, 8, 8, 4, 4), 5
NOISE = 0.3
FASTER, EQUAL = 20.0, 1e-5


@dataclass(frozen=True, eq=False)
class Way:
    """A way to decompose: what it is called, its dtype, and the tensors that its trains stand for."""

    name: str
    dtype: torch.dtype
    decompose: Callable[[Tensor], object]
    whole: Callable[[object], Tensor]


@dataclass(frozen=True)
class Result:
    """Median seconds of a way, and its relative error over all matrices."""

    seconds: float
    error: float


def matrices(count: int = MATRICES, modes: Sequence[int] = MODES, seed: int = 0) -> Tensor:
    """Trains of TT rank 5 of unit norm with noise, (count, prod(modes)), float64."""
    generator = torch.Generator().manual_seed(seed)
    ranks = [1, *[RANK] * (len(modes) - 1), 1]
    cores = [
        torch.randn(count, ranks[i], k, ranks[i + 1], generator=generator, dtype=torch.float64)
        for i, k in enumerate(modes)
    ]
    signal = torch.nn.functional.normalize(contract(cores)[:, :, 0], dim=1)
    noise = torch.randn(signal.shape, generator=generator, dtype=torch.float64)
    return signal + NOISE * torch.nn.functional.normalize(noise, dim=1)


def ways(modes: Sequence[int] = MODES) -> list[Way]:
    """Ours and tensorly's, in both dtypes."""
    import tensorly
    from tensorly.decomposition import tensor_train

    tensorly.set_backend("pytorch")
    ranks = [1, *[RANK] * (len(modes) - 1), 1]

    def one_by_one(tensors: Tensor) -> object:
        return [tensor_train(tensor.reshape(tuple(modes)), rank=ranks) for tensor in tensors]

    def whole(trains: object) -> Tensor:
        return torch.stack([tensorly.tt_to_tensor(train).reshape(-1) for train in trains])  # type: ignore[attr-defined]

    def batched(tensors: Tensor) -> object:
        return tt_svd(tensors, modes, RANK)

    def ours_whole(cores: object) -> Tensor:
        return contract(cores)[:, :, 0]  # type: ignore[arg-type]

    found = []
    for dtype in (torch.float32, torch.float64):
        kind = str(dtype).removeprefix("torch.")
        found.append(Way(f"adaptzip, {kind}", dtype, batched, ours_whole))
        found.append(Way(f"tensorly, {kind}", dtype, one_by_one, whole))
    return found


def measure(found: Sequence[Way], tensors: Tensor, rounds: int) -> list[Result]:
    """Every way in turn, `rounds` times after a warm-up."""
    inputs = [tensors.to(way.dtype) for way in found]
    seconds: list[list[float]] = [[] for _ in found]
    errors = []
    for way, own in zip(found, inputs, strict=True):
        whole = way.whole(way.decompose(own)).double()
        errors.append(float((whole - tensors).norm() / tensors.norm()))
    for _ in range(rounds):
        for i, (way, own) in enumerate(zip(found, inputs, strict=True)):
            start = time.perf_counter()
            way.decompose(own)
            seconds[i].append(time.perf_counter() - start)
    return [Result(statistics.median(s), error) for s, error in zip(seconds, errors, strict=True)]


def failures(results: Sequence[Result]) -> list[str]:
    """Bars that were missed; results as `ways` orders them."""
    said = []
    for kind, (ours, theirs) in (("float32", results[:2]), ("float64", results[2:])):
        if theirs.seconds < FASTER * ours.seconds:
            said.append(f"{kind}: {theirs.seconds / ours.seconds:.1f} times faster, expected {FASTER:g}")
    if abs(results[2].error - results[3].error) > EQUAL:
        said.append(f"float64: errors {results[2].error:.7f} and {results[3].error:.7f} differ")
    return said


def rows(found: Sequence[Way], results: Sequence[Result], threads: int) -> list[list[str]]:
    """Rows of the table: way, threads, milliseconds, relative error, and how many times as fast as tensorly."""
    lines = []
    for i, (way, result) in enumerate(zip(found, results, strict=True)):
        ratio = results[i | 1].seconds / result.seconds
        lines.append([way.name, str(threads), f"{1000 * result.seconds:.1f}", f"{result.error:.7f}", f"{ratio:.1f}"])
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks.md")
    options = parser.parse_args()
    tensors, found = matrices(), ways()
    lines, missed = [], []
    threads = torch.get_num_threads()
    for count in sorted({threads, 1}, reverse=True):
        torch.set_num_threads(count)
        results = measure(found, tensors, options.rounds)
        lines += rows(found, results, count)
        if count == threads:
            missed = failures(results)
    text = table(["way", "threads", "ms", "relative error", "times as fast as tensorly"], lines)
    print(text)
    if options.write:
        put("trains", text)
    for line in missed:
        print(f"missed: {line}", file=sys.stderr)
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
