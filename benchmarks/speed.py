"""What adaptzip's calls and commands take, beside what else does such work, each held to a bar.

Two sides of a comparison run in turn, the order changing from pair to pair, and medians of the pairs' ratios count,
with their quartiles, on the clock and in processor time. In process, calls are warm: a process's first is told apart.
Files lie in memory (/dev/shm) where the system has that, and otherwise among temporary files. Kernels that numba
compiles once per machine are compiled before anything is measured. Of each row it is told how busy the machine was with
other things, and a row that was disturbed is marked.

Exits with 1 where a bar is missed. With --results an interrupted run goes on where it stopped:

    python -m benchmarks.speed [--rows 1,4] [--layers 2,8,32] [--pairs 5] [--quick] [--results FILE] [--json] [--write]
    python -m benchmarks.speed --shape sdxl [--pairs 5] [--write]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from benchmarks import page, results, speed_commands, speed_growth, speed_rows
from benchmarks.commands import machine
from benchmarks.speed_lines import Finding, Measured, render, watched
from benchmarks.speed_shop import Shape, Shop, opened

_PLACES = {"7b": "speed", "sdxl": "speed-sdxl"}
"""Where the page has the tables of each shape."""
_CUDA = 13
_SDXL = (3, 4)


@dataclass(frozen=True)
class Row:
    """One row: what it is called, how it is measured, and with which sizes of the 7B shape."""

    title: str
    measure: Callable[[Shop, Shape], Measured]
    sizes: Literal["each", "largest", "none"] = "each"


def _fixed(measure: Callable[[Shop], Measured]) -> Callable[[Shop, Shape], Measured]:
    """A row that has adapters of its own."""
    return lambda shop, _: measure(shop)


ROWS: dict[int, Row] = {
    1: Row("decode to tensors", speed_rows.decode),
    2: Row("decode to float16", speed_rows.half),
    3: Row("export to its own dialect", speed_rows.export),
    4: Row("compress", speed_rows.compress),
    5: Row("peak memory", speed_rows.memory),
    6: Row("one module", speed_rows.one_module, "largest"),
    7: Row("vblora's bank", speed_rows.bank, "largest"),
    8: Row("vblora as a command", _fixed(speed_commands.whole_vblora), "none"),
    9: Row("many modules", _fixed(speed_commands.many_modules), "none"),
    10: Row("a small adapter", _fixed(speed_commands.small_adapter), "none"),
    11: Row("growth", _fixed(speed_growth.growth), "none"),
    12: Row("threads", _fixed(speed_growth.threads), "none"),
    _CUDA: Row("CUDA", speed_rows.cuda, "largest"),
}


@dataclass(frozen=True)
class Part:
    """What is measured in one go: a row at one size, with a number of pairs, in a quick run or not."""

    number: int
    shape: Shape | None
    pairs: int
    quick: bool

    @property
    def key(self) -> str:
        words = [str(self.number), *([] if self.shape is None else [self.shape.name]), f"{self.pairs} pairs"]
        return ", ".join([*words, *(["quick"] if self.quick and self.shape is None else [])])


def parts(options: argparse.Namespace) -> Iterator[Part]:
    """Everything that was asked for."""
    for number in options.rows:
        every = [Shape(layers) for layers in options.layers] if options.shape == "7b" else [Shape(None)]
        chosen: dict[str, Sequence[Shape | None]] = {"each": every, "largest": every[-1:], "none": [None]}
        for shape in chosen[ROWS[number].sizes]:
            yield Part(number, shape, options.pairs, options.quick)


def find(options: argparse.Namespace) -> list[Finding]:
    """Measure what a file of results lacks."""
    asked = {part.key: part for part in parts(options)}
    with opened(options.pairs, options.quick) as shop:
        measure = partial(_measure, shop, asked)
        done = results.grown(options.results, Finding.read, lambda row: row.key, asked, measure)
    return [done[key] for key in asked]


def _measure(shop: Shop, asked: dict[str, Part], key: str) -> Finding:
    part = asked[key]
    row = ROWS[part.number]
    print(f"row {key}: {row.title}", file=sys.stderr)
    shop.prepare(part.shape)
    return watched(key, row.title, lambda: row.measure(shop, part.shape or Shape(None)))


def _has_cuda() -> bool:
    present = "import torch; raise SystemExit(0 if torch.cuda.is_available() else 1)"
    return subprocess.run([sys.executable, "-c", present], check=False).returncode == 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables; 1 if a bar is missed."""
    options = options_of(arguments)
    missing = options.device == "cuda" and not _has_cuda()
    if options.device == "cuda" and not missing:
        options.rows.append(_CUDA)
    found = find(options)
    text = f"{machine()} {options.pairs} pairs or runs of each.\n\n{render(found)}"
    text += "\nCUDA is not present, so nothing was measured on it.\n" if missing else ""
    print(json.dumps([asdict(row) | {"met": row.met} for row in found], indent=2) if options.json else text)
    if options.write:
        page.put(_PLACES[options.shape], text)
    return 0 if all(row.met for row in found) else 1


def _numbers(text: str) -> list[int]:
    return sorted({int(word) for word in text.split(",")})


def options_of(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line, read and checked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    rows = [number for number in ROWS if number != _CUDA]
    named = ", ".join(f"{number} {ROWS[number].title}" for number in rows)
    parser.add_argument("--rows", type=_numbers, help=f"among {named} (default: all)")
    parser.add_argument(
        "--shape", choices=_PLACES, default="7b", help="sdxl: a kohya LoRA of SDXL's UNet, rows 3 and 4"
    )
    parser.add_argument("--layers", type=_numbers, default=[2, 8, 32], help="sizes of the 7B shape (default: 2,8,32)")
    parser.add_argument("--pairs", type=int, default=5, help="how often each side runs (default: 5)")
    parser.add_argument("--quick", action="store_true", help="leave out the largest sizes of row 11")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cuda: measure CUDA beside the CPU")
    parser.add_argument("--results", type=Path, help="a file that rows are added to and read from")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/benchmarks.md; takes all rows")
    options = parser.parse_args(arguments)
    among = list(_SDXL) if options.shape == "sdxl" else rows
    options.rows = options.rows or among
    if not set(options.rows) <= set(among):
        parser.error(f"--rows takes numbers among {', '.join(map(str, among))}")
    if options.write and (options.rows != among or options.quick):
        parser.error("--write takes all rows; --results keeps those that were measured before")
    return options


if __name__ == "__main__":
    sys.exit(main())
