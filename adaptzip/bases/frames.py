"""Frames: directions of modules' inputs that a reader makes again: of a seed, an adapter, a base or an artefact."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress

import numpy as np
import torch
from torch import Tensor

from adaptzip.bases.starts.generators import NORMAL, NORMAL_UNIT, UNIFORM_UNIT, Place, check_start
from adaptzip.bases.starts.generators import matrices as made_again
from adaptzip.core.basis import Basis, BasisReference, BasisSource, ModuleBasis, Start
from adaptzip.core.compressed import Site
from adaptzip.core.frames import MOST_ROWS, MOST_WIDTH, Whole, frame, whole_rows
from adaptzip.core.workers import parallel_map
from adaptzip.errors import FormatError, RefusedError
from adaptzip.files.digest import digest

FREE_WORK = 2**28
"""Multiplications that any file may ask for to make its frames, some tenths of a second's work."""
WORK_PER_BYTE = 2**18
"""How many more, for each byte of its blocks."""
FREE_NUMBERS = 2**22
"""Numbers that any file may have in its frames."""
NUMBERS_PER_BYTE = 2**12
"""How many more, for each byte of its blocks."""
_AT_ONCE = 16


def check_sizes(
    sizes: Sequence[int], sites: Mapping[str, Site], block_bytes: int, source: BasisSource, sides: int = 1
) -> None:
    """Refuse frames that would take too much work, before any is made.

    Args:
        sizes: directions of each module's frame, from a file that nobody vouches for; 0 without.
        sites: the modules.
        block_bytes: bytes of all blocks.
        source: where the directions come from.
        sides: 2 where there are frames of outputs as well.

    Raises:
        FormatError: if no module has a frame, one is larger than its module or than frames may be, or all together
            are too much for so small a file; or there are frames of outputs from where none come.
    """
    if sides == 2 and source != "file":
        raise FormatError(f"the file's frames are of outputs as well, which no {source} has")
    _check_each(sizes, sites, sides)
    if not affordable(sizes, sites, block_bytes, source, sides):
        raise FormatError(f"the frames of the file are too much work for blocks of {block_bytes} bytes")


def check_numbers(sizes: Sequence[int], sites: Mapping[str, Site], block_bytes: int) -> None:
    """The part of `check_sizes` that is of numbers to be made again.

    Raises:
        FormatError: as `check_sizes`.
    """
    _check_each(sizes, sites)
    if _numbers(sizes, sites) > FREE_NUMBERS + NUMBERS_PER_BYTE * block_bytes:
        raise FormatError(f"the frames of the file have too many numbers for blocks of {block_bytes} bytes")


def _check_each(sizes: Sequence[int], sites: Mapping[str, Site], sides: int = 1) -> None:
    if len(sizes) != len(sites) or not any(sizes):
        raise FormatError("the file names frames or a start, and no module has one")
    for size, (name, site) in zip(sizes, sites.items(), strict=True):
        if size and not (possible(size, site.width) and (sides == 1 or size <= site.out)):
            raise FormatError(f"module {name!r}, {site.out} x {site.width}, cannot have a frame of {size} directions")


def possible(size: int, width: int) -> bool:
    """Whether a module of so many inputs may have a frame of so many directions."""
    return 1 <= size <= min(width, MOST_ROWS) and width <= MOST_WIDTH


def affordable(
    sizes: Sequence[int], sites: Mapping[str, Site], block_bytes: int, source: BasisSource, sides: int = 1
) -> bool:
    """Whether a file of so many bytes in its blocks may ask for frames of these sizes."""
    if source == "file":  # Nothing is made: what takes work is adding its directions up.
        lengths = [site.width + (site.out if sides == 2 else 0) for site in sites.values()]
        added = sum(size * length for size, length in zip(sizes, lengths, strict=True))
        return added <= FREE_WORK + WORK_PER_BYTE * block_bytes
    work = sum(size * size * site.width for size, site in zip(sizes, sites.values(), strict=True))
    few = _numbers(sizes, sites) <= FREE_NUMBERS + NUMBERS_PER_BYTE * block_bytes
    return few and work <= FREE_WORK + WORK_PER_BYTE * block_bytes


def _numbers(sizes: Sequence[int], sites: Mapping[str, Site]) -> int:
    return sum(size * site.width for size, site in zip(sizes, sites.values(), strict=True))


def frames_of_start(
    start: Start, sites: Mapping[str, Site], sizes: Mapping[str, int], *, only: Collection[str] | None = None
) -> dict[str, ModuleBasis]:
    """The frames of a generator's numbers.

    Args:
        sizes: directions of each module that has a frame, by sorted name.
        only: make the frames of these modules alone.

    Raises:
        FormatError: if the start is malformed, out of bounds, or has rows that depend on each other.
    """
    return _made(start_numbers(start, sites, sizes, only=only), frame)


def possible_frames_of_start(
    start: Start, sites: Mapping[str, Site], sizes: Mapping[str, int]
) -> dict[str, ModuleBasis]:
    """`frames_of_start` for a writer: modules whose rows depend on each other, as of a square A they may, have none.

    Raises:
        FormatError: if the start is malformed or out of bounds.
    """
    return _made(start_numbers(start, sites, sizes), _frame_if_any)


def _made(numbers: Iterable[tuple[str, Whole]], make: Callable[[Whole], Tensor | None]) -> dict[str, ModuleBasis]:
    """Frames of modules, several at a time; of those that have one."""
    found = parallel_map(lambda item: (item[0], make(item[1])), numbers, most=_AT_ONCE)
    return {name: ModuleBasis(torch.zeros(0, 0), V) for name, V in found if V is not None}


def _frame_if_any(numbers: Whole) -> Tensor | None:
    try:
        return frame(numbers)
    except FormatError:
        return None


def start_numbers(
    start: Start, sites: Mapping[str, Site], sizes: Mapping[str, int], *, only: Collection[str] | None = None
) -> Iterator[tuple[str, Whole]]:
    """The whole numbers (rows, in) that modules' A began with, up to their scale.

    Args:
        sizes, only: as for `frames_of_start`.

    Raises:
        FormatError: if the start is malformed or out of bounds, before any is made.
    """
    if len(start.offsets) != len(sizes):
        raise FormatError(f"the start has {len(start.offsets)} offsets for {len(sizes)} modules that begin with it")
    places = {
        name: Place(offset, size, sites[name].width)
        for offset, (name, size) in zip(start.offsets, sizes.items(), strict=True)
    }
    check_start(start.generator, start.seed, places)
    wanted = {name: place for name, place in places.items() if only is None or name in only}
    return made_again(start.generator, start.seed, wanted)


def first_values(generator: str, numbers: Whole) -> Tensor:
    """The A that whole numbers (rows, in) stand for, as libraries scale it; float32, from float64."""
    rows, width = numbers.shape
    values = numbers * NORMAL_UNIT / rows if generator == NORMAL else numbers * UNIFORM_UNIT / np.sqrt(float(width))
    return torch.from_numpy(values).float()


def reference_frames(matrices: Mapping[str, Tensor], description: str = "") -> Basis:
    """The row spaces of known matrices, such as another adapter's A, for those modules that can have a frame.

    Args:
        matrices: (rows, in) by module.
        description: what they are, for messages.

    Raises:
        RefusedError: if no module can.
    """
    modules = {}
    for name, matrix in sorted(matrices.items()):
        if possible(*matrix.shape):
            with suppress(FormatError):  # Rows that are zero, or depend on each other, are no frame.
                modules[name] = ModuleBasis(torch.zeros(0, 0), frame(whole_rows(matrix)))
    if not modules:
        raise RefusedError(
            "the reference has no module whose A could serve as a frame", hint="give an adapter that was trained"
        )
    size = max(module.size for module in modules.values())
    return Basis(modules, BasisReference("reference", size, _content(matrices), description))


def cut_frames(basis: Basis, sizes: Mapping[str, int], *, outputs: bool = False) -> dict[str, ModuleBasis]:
    """The first directions of modules' inputs, as many as each has in a file, and as many of their outputs if asked.

    Raises:
        FormatError: if the basis has fewer.
    """
    found = {}
    for name, size in sizes.items():
        module = basis.modules.get(name)
        if module is None or module.size < size:
            have = 0 if module is None else module.size
            raise FormatError(f"module {name!r} is coded in a frame of {size} directions, the basis has {have}")
        found[name] = ModuleBasis(module.U[:, : size if outputs else 0].contiguous(), module.V[:, :size].contiguous())
    return found


def _content(matrices: Mapping[str, Tensor]) -> str:
    """Digest over every module's name and matrix, whatever its dtype, as float32."""

    def parts() -> Iterator[bytes | memoryview]:
        for name, matrix in sorted(matrices.items()):
            yield json.dumps([name, list(matrix.shape)], ensure_ascii=False).encode() + b"\n"
            yield matrix.to("cpu", torch.float32).contiguous().reshape(-1).view(torch.uint8).numpy().data

    return digest(parts())
