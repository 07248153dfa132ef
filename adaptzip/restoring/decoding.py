"""Modules of a file that is not lossless: their own tensors, and the factors that these make."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from adaptzip.adz.coding.coders import AnyCoder
from adaptzip.adz.coding.decoding import decode_many, decode_shared
from adaptzip.adz.coding.grouping import decode_group
from adaptzip.adz.coding.on_gpu import decode_on, worthwhile
from adaptzip.adz.coding.packing import check_finite
from adaptzip.core.compressed import Buffer, Compressed
from adaptzip.core.gains import divisor
from adaptzip.core.workers import parallel_map

T = TypeVar("T")
_TOGETHER = 2**17
"""Bytes of blocks that a worker decodes at a time, unless one has more."""
_MOST_TOGETHER = 256
"""And at most so many modules."""
_TOGETHER_THERE = 2**26
"""As `_TOGETHER`, on a GPU: numbers of about a gigabyte, of thousands of modules."""
_CPU = torch.device("cpu")


@dataclass(frozen=True, eq=False)
class Decoded:
    """One module, decoded.

    Attributes:
        tensors: what the method stores of it, what all modules share and its basis, by role; {} for a zero update.
        A, B: the factors made of them, gain undone; the matrices of a function where the method is not linear.
        gain: what A was multiplied by to undo the gain.
    """

    tensors: Mapping[str, Tensor]
    A: Tensor
    B: Tensor
    gain: float = 1.0


def decode(
    compressed: Compressed,
    names: Sequence[str],
    coder: AnyCoder,
    finish: Callable[[str, Decoded], T],
    device: torch.device = _CPU,
) -> Iterator[tuple[str, T]]:
    """What is made of each module by `finish`, which runs where the module was decoded, side by side with others.

    Args:
        device: where modules may be decoded, as well as on the CPU, if their tensors are the same on both.

    Raises:
        FormatError: if a block is damaged, or a factor is not finite.
    """
    shared = decode_shared(coder, compressed.shared, compressed.step) if compressed.payload_bytes else {}
    gains = dict(zip(compressed.sites, compressed.gains, strict=True)) if compressed.gains else {}
    early = {} if shared else _decode_there(compressed, names, coder, gains, finish, device)
    own_tensors = _own_tensors(coder, compressed)

    def part(some: Sequence[str]) -> list[tuple[str, T]]:
        stored = own_tensors(some)
        return [(name, finish(name, _module(coder, name, stored.get(name), shared, gains.get(name)))) for name in some]

    parts = list(_parts(compressed, [name for name in names if name not in early], _TOGETHER, _MOST_TOGETHER))
    late = (pair for found in parallel_map(part, parts) for pair in found)
    for name in names:
        yield (name, early.pop(name)) if name in early else next(late)


def _decode_there(
    compressed: Compressed,
    names: Sequence[str],
    coder: AnyCoder,
    gains: Mapping[str, int],
    finish: Callable[[str, Decoded], T],
    device: torch.device,
) -> dict[str, T]:
    """What is made of those modules that are decoded on a device which is no CPU."""
    method = coder.method
    if device.type == "cpu" or compressed.grouped or not method.same_anywhere or method.needs_basis:
        return {}
    sizes, block = dict(zip(compressed.sites, compressed.lengths, strict=True)), blocks(compressed)
    suited = [name for name in names if sizes[name] and not coder.sites[name].frame]
    finished: dict[str, T] = {}
    for some in _parts(compressed, suited, _TOGETHER_THERE, len(suited)):
        if not worthwhile([sizes[name] for name in some], device):
            continue
        tensors = decode_on(device, coder, {name: block(name) for name in some}, compressed.step)
        made = {name: _made(coder, name, own, gains.get(name)) for name, own in tensors.items()}
        _check_together(made)
        finished |= {name: finish(name, found) for name, found in made.items()}
    return finished


def _module(
    coder: AnyCoder, name: str, own: Mapping[str, Tensor] | None, shared: Mapping[str, Tensor], coded_gain: int | None
) -> Decoded:
    """A module from its own tensors; None for a zero update."""
    site = coder.sites[name]
    if own is None:
        return Decoded({}, torch.zeros(0, site.width), torch.zeros(site.out, 0))
    found = _made(coder, name, {**shared, **coder.basis_tensors(name), **own}, coded_gain)
    _check(name, found)
    return found


def _made(coder: AnyCoder, name: str, tensors: Mapping[str, Tensor], coded_gain: int | None) -> Decoded:
    """A module from all of its tensors."""
    A, B = coder.method.reconstruct(tensors, coder.sites[name], coder.config)
    gain = 1.0
    if coded_gain is not None:
        gain = divisor(coded_gain)
        A = A * gain
    return Decoded(tensors, A.contiguous(), B.contiguous(), gain)


def _check(name: str, module: Decoded) -> None:
    for letter, factor in (("A", module.A), ("B", module.B)):
        check_finite(factor, f"{letter} of module {name!r}")


def _check_together(modules: Mapping[str, Decoded]) -> None:
    """As `_check` of each, but the device is asked once: a finite sum proves that all terms are finite."""
    sums = [factor.sum(dtype=torch.float32) for module in modules.values() for factor in (module.A, module.B)]
    if sums and not bool(torch.isfinite(torch.stack(sums)).all()):
        for name, module in modules.items():
            _check(name, module)


def _own_tensors(coder: AnyCoder, compressed: Compressed) -> Callable[[Sequence[str]], Mapping[str, dict[str, Tensor]]]:
    """What gives the tensors of modules, by name, but of zero updates. A group is decoded at once."""
    if compressed.grouped:
        group = decode_group(coder, compressed.grouped, compressed.step)
        tensors = {name: own for name, (_, own) in group.items()}
        return lambda _: tensors
    block = blocks(compressed)

    def own(names: Sequence[str]) -> dict[str, dict[str, Tensor]]:
        found = decode_many(coder, {name: block(name) for name in names}, compressed.step)
        return {name: tensors for name, (rank, tensors) in found.items() if rank}

    return own


def blocks(compressed: Compressed) -> Callable[[str], Buffer]:
    """The block of a module by its name; of a file, no other is read."""
    places = {name: place for place, name in enumerate(compressed.sites)}
    return lambda name: compressed.chunks[places[name]]


def _parts(compressed: Compressed, names: Sequence[str], most_bytes: int, most: int) -> Iterator[list[str]]:
    """Names in parts of at most so many bytes, unless one has more, and modules."""
    sizes = {} if compressed.grouped else dict(zip(compressed.sites, compressed.lengths, strict=True))
    part: list[str] = []
    room = most_bytes
    for name in names:
        size = sizes.get(name, 0)
        if part and (size > room or len(part) == most):
            yield part
            part, room = [], most_bytes
        part.append(name)
        room -= size
    if part:
        yield part
