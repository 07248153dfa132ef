"""Directions of base weights that were computed before, in the user's cache: found by what they were computed from."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from adaptzip.bases.directions import AT_ONCE
from adaptzip.core.basis import ModuleBasis
from adaptzip.core.workers import parallel_map
from adaptzip.errors import CheckpointError
from adaptzip.files.digest import digest
from adaptzip.files.tensors import build_header, pending, write_tensors
from adaptzip.files.user_cache import Shelf, cache_folder
from adaptzip.files.weights import Weights, open_weights

COMPUTATION = 1
"""Number of the computation; with another one, what was kept counts no more."""
MOST_BYTES = 2**32
"""Of all that is kept; 16 directions of a 7B model take 160 MB."""
WORTHWHILE = 2**20
"""Numbers of a weight whose directions take longer to compute than to read."""
_KEY, _HASH = "key", "hash"
_DTYPES = {"S": torch.float64, "U": torch.float32, "V": torch.float32}

_log = logging.getLogger(__name__)
_told: set[str] = set()
"""Keys of what this process computed, or told of already: what it reads again of these is no news."""


@dataclass(frozen=True)
class Directions:
    """What is computed of a weight: a basis of k directions or fewer, and S (k + 1,) or fewer singular values."""

    module: ModuleBasis
    S: Tensor


@dataclass(frozen=True)
class Source:
    """What directions are computed from.

    Attributes:
        shape: (out, in).
        told: all that decides the weight's numbers.
        size: most directions.
    """

    shape: tuple[int, int]
    told: bytes
    size: int

    @property
    def key(self) -> str:
        """The name that its directions are kept under."""
        return digest([json.dumps([COMPUTATION, self.size, *self.shape]).encode(), b"\n", self.told])

    @property
    def worthwhile(self) -> bool:
        """Whether computing takes longer than reading."""
        return self.shape[0] * self.shape[1] >= WORTHWHILE


def kept_or_made(sources: Mapping[str, Source], make: Callable[[str], Directions]) -> Iterator[Directions]:
    """Directions of each weight: those that are kept, and the others made side by side, and kept where that can be.

    Args:
        sources: the weights by name.
        make: computes the directions of a weight by its name; what it raises is passed on.
    """
    shelf = _shelf()

    def find(name: str) -> tuple[Directions, bool]:
        found = None if shelf is None or not sources[name].worthwhile else _read(shelf, sources[name])
        return (make(name), False) if found is None else (found, True)

    known = new = 0
    for source, (found, is_known) in zip(sources.values(), parallel_map(find, sources, most=AT_ONCE), strict=True):
        if source.worthwhile:
            key = source.key
            known += is_known and key not in _told
            _told.add(key)
            if not is_known and shelf is not None:
                new += 1
                shelf = shelf if _keep(shelf, key, found) else None
        yield found
    if shelf is not None and new:
        shelf.trim()
    if known:
        _log.info("directions of %d of %d weights were computed before, and are from the cache", known, len(sources))


def _shelf() -> Shelf | None:
    """Where directions are kept; None where the user wants no cache."""
    folder = cache_folder()
    return None if folder is None else Shelf(folder / "directions", ".safetensors", MOST_BYTES)


def _read(shelf: Shelf, source: Source) -> Directions | None:
    """What is kept of a weight; None where there is nothing that can be read, or something else, or it is damaged."""
    path = shelf.path(source.key)
    try:
        found = _parsed(open_weights(path), source)
    except OSError:
        return None
    except CheckpointError:
        found = None
    if found is None:
        _log.info("%s is damaged: it is made again", path)
    else:
        shelf.used(source.key)
    return found


def _keep(shelf: Shelf, key: str, made: Directions) -> bool:
    """Keep directions; where that cannot be, say so."""
    tensors = {"S": made.S, "U": made.module.U, "V": made.module.V}
    waiting = {name: pending(tensor.contiguous()) for name, tensor in tensors.items()}
    header = build_header(waiting, {_KEY: key, _HASH: _content(key, tensors)})
    try:
        shelf.put(key, lambda handle: write_tensors(handle, waiting, header))
    except OSError as error:
        _log.info("directions are not kept for the next time: %s", error)
        return False
    return True


def _parsed(opened: Weights, source: Source) -> Directions | None:
    """The directions in a file, copied, so that the file may go; None where it is not what was kept of that weight."""
    tensors = {name: tensor.clone() for name, tensor in opened.tensors.items()}
    if {name: tensor.dtype for name, tensor in tensors.items()} != _DTYPES or opened.header is None:
        return None
    if opened.metadata != {_KEY: source.key, _HASH: _content(source.key, tensors)}:
        return None
    module = ModuleBasis(tensors["U"], tensors["V"])
    fits = (len(module.U), len(module.V)) == source.shape and module.U.shape[1:] == module.V.shape[1:]
    return Directions(module, tensors["S"]) if fits else None


def _content(key: str, tensors: Mapping[str, Tensor]) -> str:
    """Digest over a key, and every tensor's name, shape and bytes."""
    parts: list[bytes | memoryview] = [key.encode()]
    for name in sorted(tensors):
        parts.append(json.dumps([name, list(tensors[name].shape)]).encode())
        parts.append(tensors[name].contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest(parts)
