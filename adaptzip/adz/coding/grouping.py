"""All modules of a small file in one bit string: none has an end of its own, and each foretells those after it."""

from __future__ import annotations

from collections.abc import Mapping
from math import nan

from torch import Tensor

from adaptzip.adz.coding import entropy
from adaptzip.adz.coding.coders import AnyCoder, factor_numbers, layout_of, most_factor_numbers
from adaptzip.adz.coding.decoding import decoded
from adaptzip.adz.coding.entropy import Coded, Place
from adaptzip.adz.coding.modules import CodedModule
from adaptzip.errors import FormatError

MOST_BYTES = 65536
"""A group is no larger, so that reading one module of it stays cheap."""


def group(coder: AnyCoder, modules: Mapping[str, CodedModule]) -> bytes:
    """All modules in one bit string; b"" where that is not allowed, or saves nothing.

    Args:
        modules: those of rank >= 1; each with its blocks, or no group is made.
    """
    apart = sum(len(module.chunk) for module in modules.values())
    if not apart or apart > MOST_BYTES:
        return b""
    held = []
    for name in coder.sites:
        module = modules.get(name)
        if module is not None and module.blocks is None:
            return b""
        held.append((_kind(coder, name), Coded(0) if module is None else Coded(module.rank, module.blocks or ())))
    found = entropy.encode_group(held, max(coder.max_rank, 1))
    if not found or len(found) > apart:
        return b""
    factors = sum(factor_numbers(coder, name, module.rank) for name, module in modules.items())
    return found if factors <= most_factor_numbers(len(found)) else b""


def decode_group(coder: AnyCoder, data: bytes | memoryview, step: float) -> dict[str, tuple[Coded, dict[str, Tensor]]]:
    """The modules of a group that have a rank, with their tensors as `decode_module` gives them.

    Raises:
        FormatError: if the bit string is damaged.
    """
    if not 0 < len(data) <= MOST_BYTES:
        raise FormatError(f"the modules are one bit string of {len(data)} bytes, expected 1 to {MOST_BYTES}")
    layouts = {name: layout_of(coder, name, len(data)) for name in coder.sites}
    places = [Place(name, _kind(coder, name), layout) for name, layout in layouts.items()]
    held = dict(zip(coder.sites, entropy.decode_group(data, max(coder.max_rank, 1), places), strict=True))
    ranks = {name: coded.rank for name, coded in held.items() if coded.rank}
    factors = sum(factor_numbers(coder, name, rank) for name, rank in ranks.items())
    if factors > most_factor_numbers(len(data)):
        raise FormatError(f"{len(data)} bytes of modules cannot stand for factors of {factors} numbers")
    return {
        name: (held[name], decoded(held[name].blocks, layouts[name](rank), step, name)) for name, rank in ranks.items()
    }


def alone(coder: AnyCoder, coded: Coded) -> CodedModule:
    """A module of a group as it is coded alone; its squared error is not known (nan)."""
    chunk = entropy.encode(coded.rank, max(coder.max_rank, 1), coded.blocks)
    return CodedModule(chunk, nan, coded.numbers, coded.rank, coded.blocks)


def _kind(coder: AnyCoder, name: str) -> tuple[int, int, int]:
    site = coder.sites[name]
    return site.out, site.width, site.frame
