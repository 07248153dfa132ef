"""Rows 8 to 10 of the speed benchmark: the command line as its user meets it, from start to end."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from benchmarks.real_adapters import MATERIAL
from benchmarks.speed_lines import Line, Measured
from benchmarks.speed_runs import Sample, Side, apart, beyond, command, in_turn, seconds
from benchmarks.speed_shop import FIXTURE, Shop

BUDGETED = "gpt2-tigrinya"
MODULES, WIDTH, RANK = 10_000, 8, 4
_TORCH = "import torch"


def whole_vblora(shop: Shop) -> Measured:
    """Row 8: a vblora within a number of parameters."""
    folder = MATERIAL / BUDGETED
    if not folder.is_dir():
        return [], [f"left out, as {BUDGETED} is not there."]
    words = ["compress", str(folder / "adapter_model.safetensors"), "--to", "vblora", "--budget", "50k"]
    found = _beside_torch(shop, {"vblora": _compress(shop, words)})
    name = f"compress --to vblora --budget 50k, {BUDGETED}, whole process"
    return [Line(name, *seconds(found["vblora"]), unit="s", bar=8.0, moonshot=4.0), _torch(found)], []


def many_modules(shop: Shop) -> Measured:
    """Row 9: compressing and inspecting an adapter of very many small modules."""
    adapter = shop.square(MODULES, WIDTH, RANK)
    words = {
        "compress": _compress(shop, ["compress", str(adapter)]),
        "inspect": ["inspect", str(adapter), "-q"],
    }
    found = _beside_torch(shop, words)
    side = Side("compress", "compress", {"source": str(adapter), "output": str(shop.memory / "many.adz")})
    inside = [child.first["compress"] for child in apart([side], shop.pairs)["compress"]]
    what = f"{MODULES:,} modules of {WIDTH} x {WIDTH}"
    return [
        Line(f"compress of {what}, whole process", *seconds(found["compress"]), unit="s", bar=20.0),
        _line(f"compress of {what}, cold, beyond imports", inside),
        Line(
            f"inspect of {what}, whole process, beyond `{_TORCH}`",
            *seconds(beyond(found["inspect"], found[_TORCH])),
            unit="s",
            bar=2.0,
        ),
        _line(f"inspect of {what}, whole process", found["inspect"]),
        _torch(found),
    ], []


def small_adapter(shop: Shop) -> Measured:
    """Row 10: the commands that a user of a small adapter types."""
    source = str(FIXTURE)
    words = {
        "compress": _compress(shop, ["compress", source]),
        "plan": ["plan", source, "--budget", "20x", "-q"],
        "compress --to auto --budget 20x": _compress(shop, ["compress", source, "--to", "auto", "--budget", "20x"]),
        "bench": ["bench", source, "-q"],
    }
    found = _beside_torch(shop, words)
    judged = Line(
        f"compress of {FIXTURE.name}, whole process",
        *seconds(found["compress"]),
        unit="s",
        bar=2.5,
        judged="processor",
    )
    told = [_line(f"{name} of {FIXTURE.name}, whole process", found[name]) for name in list(words)[1:]]
    return [judged, _torch(found), *told], ["its bar is for processor time."]


def _compress(shop: Shop, words: Sequence[str]) -> list[str]:
    return [*words, "-o", str(shop.memory / "command.adz"), "-f", "-q"]


def _beside_torch(shop: Shop, words: Mapping[str, Sequence[str]]) -> dict[str, list[Sample]]:
    """Commands of adaptzip in turn, and a process that imports torch and ends."""
    lines = {name: [sys.executable, "-m", "adaptzip", *some] for name, some in words.items()}
    sides: dict[str, Callable[[], Sample]] = {
        name: partial(_sample, line) for name, line in {**lines, _TORCH: [sys.executable, "-c", _TORCH]}.items()
    }
    return in_turn(sides, shop.pairs)


def _sample(words: Sequence[str]) -> Sample:
    return command(words)[0]


def _torch(found: Mapping[str, Sequence[Sample]]) -> Line:
    return _line(f"`{_TORCH}` alone", found[_TORCH])


def _line(what: str, samples: Sequence[Sample]) -> Line:
    return Line(what, *seconds(samples), unit="s")
