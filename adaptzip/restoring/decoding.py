"""Modules of a file that is not lossless: their own tensors, and the factors that these make."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adaptzip.adz.coding.coders import AnyCoder
from adaptzip.adz.coding.decoding import decode_many, decode_shared
from adaptzip.adz.coding.grouping import decode_group
from adaptzip.adz.coding.on_gpu import decode_on, worthwhile
from adaptzip.adz.coding.packing import check_finite
from adaptzip.core.compressed import Buffer, Compressed
from adaptzip.core.gains import divisor
from adaptzip.core.workers import alone, parallel_map

T = TypeVar("T")
Finish: TypeAlias = "Callable[[str, Decoded, Callable[[Tensor], Tensor]], T]"
_TOGETHER = range(2**17, 2**18)
"""Bytes of blocks that a worker decodes at a time, unless one has more: between these, so that all have their share."""
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
    finish: Finish[T],
    device: torch.device = _CPU,
    *,
    kept: bool = True,
) -> Iterator[tuple[str, T]]:
    """What is made of each module by `finish`, which runs where the module was decoded, side by side with others.

    Args:
        finish: is given a module's name, what was decoded, and a function that gives a tensor which may be kept.
        device: where modules may be decoded, as well as on the CPU, if their tensors are the same on both.
        kept: whether all tensors may be kept; without, memory is used again for the next modules.

    Raises:
        FormatError: if a block is damaged, or a factor is not finite.
    """
    shared = decode_shared(coder, compressed.shared, compressed.step) if compressed.payload_bytes else {}
    gains = dict(zip(compressed.sites, compressed.gains, strict=True)) if compressed.gains else {}
    scratch = None if kept else _Scratch()
    early = {} if shared else _decode_there(compressed, names, coder, gains, finish, device)
    own_tensors = _own_tensors(coder, compressed, scratch)
    apart = _as_it_is if scratch is None else scratch.apart

    def part(some: Sequence[str]) -> list[tuple[str, T]]:
        stored = own_tensors(some)
        found = ((name, _module(coder, name, stored.get(name), shared, gains.get(name))) for name in some)
        return [(name, finish(name, module, apart)) for name, module in found]

    left = [name for name in names if name not in early]
    parts = list(_parts(compressed, left, _share(compressed, left), _MOST_TOGETHER))
    found = iter([alone(part, parts[0])] if len(parts) == 1 else parallel_map(part, parts))
    late = (pair for some in found for pair in some)
    for name in names:
        yield (name, early.pop(name)) if name in early else next(late)


def _decode_there(
    compressed: Compressed,
    names: Sequence[str],
    coder: AnyCoder,
    gains: Mapping[str, int],
    finish: Finish[T],
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
        finished |= {name: finish(name, found, _as_it_is) for name, found in made.items()}
    return finished


def _as_it_is(tensor: Tensor) -> Tensor:
    return tensor


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


class _Scratch(threading.local):
    """Room for what is decoded together, which each worker uses again: new room each time would leave holes between
    what stays.
    """

    numbers: NDArray[np.float32] = np.empty(0, np.float32)

    def room(self, count: int) -> NDArray[np.float32]:
        if len(self.numbers) < count:
            self.numbers = np.empty(count, np.float32)
        return self.numbers[:count]

    def apart(self, tensor: Tensor) -> Tensor:
        """A tensor that is no part of this room."""
        begin = self.numbers.ctypes.data
        return tensor.clone() if begin <= tensor.data_ptr() < begin + self.numbers.nbytes else tensor


def _own_tensors(
    coder: AnyCoder, compressed: Compressed, scratch: _Scratch | None
) -> Callable[[Sequence[str]], Mapping[str, dict[str, Tensor]]]:
    """What gives the tensors of modules, by name, but of zero updates. A group is decoded at once."""
    if compressed.grouped:
        group = decode_group(coder, compressed.grouped, compressed.step)
        tensors = {name: own for name, (_, own) in group.items()}
        return lambda _: tensors
    block = blocks(compressed)

    def own(names: Sequence[str]) -> dict[str, dict[str, Tensor]]:
        room = None if scratch is None else scratch.room
        found = decode_many(coder, {name: block(name) for name in names}, compressed.step, room)
        return {name: tensors for name, (rank, tensors) in found.items() if rank}

    return own


def blocks(compressed: Compressed) -> Callable[[str], Buffer]:
    """The block of a module by its name; of a file, no other is read."""
    places = {name: place for place, name in enumerate(compressed.sites)}
    return lambda name: compressed.chunks[places[name]]


def _share(compressed: Compressed, names: Sequence[str]) -> int:
    """Bytes of blocks that a worker decodes at a time, so that each has two turns."""
    sizes = _sizes(compressed)
    whole = sum(sizes.get(name, 0) for name in names)
    return min(max(whole // (2 * torch.get_num_threads()), _TOGETHER.start), _TOGETHER.stop)


def _sizes(compressed: Compressed) -> dict[str, int]:
    """Bytes of each module's block; {} of a group."""
    return {} if compressed.grouped else dict(zip(compressed.sites, compressed.lengths, strict=True))


def _parts(compressed: Compressed, names: Sequence[str], most_bytes: int, most: int) -> Iterator[list[str]]:
    """Names in parts of at most so many bytes, unless one has more, and modules."""
    sizes = _sizes(compressed)
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
