"""Files with right hashes that are within the format, and would make much more of themselves than they are."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
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


def hostile() -> Iterator[tuple[str, bytes]]:
    """Names of kinds, and a file of each, which is refused as it is."""
    yield "many modules", zeros([["m.{0-99999}", 8, 8]], 10**5).build()
    yield "a million modules", zeros([["m.{0-999999}", 8, 8]], 10**6).build()
    yield "names of a pattern", zeros([["{a,b}" * 17, 8, 8]], 2**17).build()
    yield "a long list of names", zeros([["{" + ",".join(f"{n}a" for n in range(10**6)) + "}", 8, 8]], 10**6).build()
    yield "long names", zeros([["x" * 2000 + ".{0-3999}", 8, 8]], 4000).build()
    yield "a long name", zeros([["y" * (2**24 - 1000), 8, 8]], 1).build()
    yield "wide zeros", zeros([["m.{0-199}", HUGE, HUGE]], 200).build()
    yield "the widest zeros", zeros([["m.{0-9}", 2**31 - 1, 2**31 - 1]], 10).build()
    yield "wide updates", _wide()
    yield "one rank for all", _padded()
    yield "extras of zeros", _extras(4, 2**26)
    yield "an extra of zeros", _extras(1, 2**25)
    many = [[f"e.{n}", [1], "U8"] for n in range(100_000)]
    packed = struct.pack("<BQ", 0, len(many)) + bytes(len(many))
    yield "many extras", replace(one(), packed=packed).with_metadata(extras=many).build()
    for name, value in (("lists", [[]] * 5_000_000), ("tables", [{}] * 3_000_000)):
        yield f"a configuration of {name}", one().with_metadata(adapter=[0, {"r": 8, "x": value}]).build()
    text = json.dumps({"r": 8, "x": [[]] * 5_000_000}).encode()
    yield "a configuration as text", replace(one(), config=text).build()


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
    return adaptzip.compress(Adapter({f"m.{n}": module for n in range(40)}), max_error=0.5, effort="fast").to_bytes()


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
