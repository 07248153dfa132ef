"""Files with right hashes that are within the format, and would make much more of themselves than they are."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
import zstandard

import adaptzip
from adaptzip.core.adapter import Adapter, LoraFactors
from formats.taken_apart import File

HUGE = 2**20


def zeros(modules: list[list[Any]], count: int) -> File:
    """A file of modules without an update."""
    plain = replace(File.open("escapes"), blocks=(b"",) * count, grouped=b"", packed=b"", config=b"")
    return replace(plain, metadata={**plain.metadata, "modules": modules})


def one() -> File:
    """A file of one small module."""
    return zeros([["m", 8, 6]], 1)


def _configured(value: Any) -> Callable[[], bytes]:
    return lambda: one().with_metadata(adapter=[0, {"r": 8, "x": value()}]).build()


def _as_text() -> bytes:
    return replace(one(), config=json.dumps({"r": 8, "x": [[]] * 5_000_000}).encode()).build()


def _many_extras() -> bytes:
    many = [[f"e.{n}", [1], "U8"] for n in range(100_000)]
    packed = struct.pack("<BQ", 0, len(many)) + bytes(len(many))
    return replace(one(), packed=packed).with_metadata(extras=many).build()


def _listed() -> bytes:
    return zeros([["{" + ",".join(f"{n}a" for n in range(2**18)) + "}", 8, 8]], 2**18).build()


HOSTILE: Mapping[str, Callable[[], bytes]] = {
    "many modules": lambda: zeros([["m.{0-99999}", 8, 8]], 10**5).build(),
    "more modules": lambda: zeros([["m.{0-262143}", 8, 8]], 2**18).build(),
    "names of a pattern": lambda: zeros([["{a,b}" * 17, 8, 8]], 2**17).build(),
    "a long list of names": _listed,
    "long names": lambda: zeros([["x" * 2000 + ".{0-3999}", 8, 8]], 4000).build(),
    "a long name": lambda: zeros([["y" * (2**24 - 1000), 8, 8]], 1).build(),
    "wide zeros": lambda: zeros([["m.{0-199}", HUGE, HUGE]], 200).build(),
    "the widest zeros": lambda: zeros([["m.{0-9}", 2**31 - 1, 2**31 - 1]], 10).build(),
    "wide updates": lambda: _wide(),
    "one rank for all": lambda: _padded(),
    "extras of zeros": lambda: _extras(4, 2**26),
    "an extra of zeros": lambda: _extras(1, 2**25),
    "many extras": _many_extras,
    "a configuration of lists": _configured(lambda: [[]] * 5_000_000),
    "a configuration of tables": _configured(lambda: [{}] * 3_000_000),
    "a configuration as text": _as_text,
}
"""Kinds, and what makes a file of each, which is refused as it is."""


def slow() -> Iterator[tuple[str, bytes]]:
    """Names of kinds, and a file of each whose configuration has a pattern that could be tried for ever."""
    for field, pattern in (
        ("rank_pattern", {"(a+)+$": 4}),
        ("alpha_pattern", {"(a|a)*c": 4}),
        ("target_modules", "(a+)+"),
        ("exclude_modules", "(?=(a+)+b)a+!"),
        ("layers_pattern", "(a+)+"),
        ("modules_to_save", ["(a+)+"]),
    ):
        config = {"r": 8, "lora_alpha": 8, "peft_type": "LORA", "target_modules": ["b"], "layers_to_transform": [1]}
        name = "a" * 60 + "!.b"
        yield field, zeros([[name, 8, 6]], 1).with_metadata(adapter=[0, {**config, field: pattern}]).build()


def _spot(count: int, place: int) -> torch.Tensor:
    found = torch.zeros(count)
    found[place] = 1
    return found


def _wide() -> bytes:
    module = LoraFactors(_spot(HUGE, 5)[None], _spot(HUGE, 3)[:, None], 1.0)
    return adaptzip.compress(Adapter({f"m.{n}": module for n in range(8)}), max_error=0.5, effort="fast").to_bytes()


def _padded() -> bytes:
    wide = LoraFactors(torch.zeros(1, HUGE), torch.zeros(HUGE, 1), 1.0)
    drawn = torch.Generator().manual_seed(0)
    full = LoraFactors(torch.randn(32, 64, generator=drawn), torch.randn(64, 32, generator=drawn), 1.0)
    modules = {f"m.{n}": wide for n in range(8)} | {"q": full}
    return adaptzip.compress(Adapter(modules), max_error=0.5, effort="fast").to_bytes()


def _extras(count: int, numbers: int) -> bytes:
    plane = zstandard.ZstdCompressor().compress(bytes(count * numbers))
    packed = (struct.pack("<BQ", 1, len(plane)) + plane) * 4
    return replace(one(), packed=packed).with_metadata(extras=[[f"e{n}", [numbers]] for n in range(count)]).build()
