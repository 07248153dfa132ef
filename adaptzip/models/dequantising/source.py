"""The stored tensors of a quantised model, by name, whichever of its files they lie in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from adaptzip.errors import BaseModelError, RefusedError
from adaptzip.models.shards import Shard, StoredTensor

ORIGINAL = "give the original float weights"


class Decoder(Protocol):
    """Makes a float weight of what is stored in its place."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The weight's shape."""

    def rows(self, first: int, last: int) -> Tensor:
        """The rows from `first` to before `last`, float32."""


@dataclass(frozen=True, eq=False)
class Found:
    """A quantised weight.

    Attributes:
        name: what the float weight is called.
        home: the stored tensor in whose file it is to be.
        companions: the other stored tensors that it is made of, or that only its quantiser has a use for.
        decoder: makes its rows.
    """

    name: str
    home: str
    companions: tuple[str, ...]
    decoder: Decoder

    @property
    def module(self) -> str:
        return self.name.removesuffix(".weight")


Finder = Callable[["Source", Mapping[str, object]], Iterable[Found]]
"""Finds what a method of quantisation, by its settings in config.json, has made of a model's weights."""


@dataclass(frozen=True, eq=False)
class Source:
    """All stored tensors of a model.

    Attributes:
        path: the model's folder.
        shards: the file of each tensor, by the tensor's name.
    """

    path: Path
    shards: Mapping[str, Shard]

    def __contains__(self, name: str) -> bool:
        return name in self.shards

    def stored(self, name: str) -> StoredTensor:
        """What the file says of a tensor.

        Raises:
            RefusedError: if there is none of that name.
        """
        if name not in self.shards:
            raise self.refused(f"has no {name}, which belongs to a quantised weight")
        return self.shards[name].tensors[name]

    def whole(self, name: str) -> Tensor:
        """A whole tensor."""
        self.stored(name)
        return self.shards[name].read(name)

    def part(self, name: str, rows: tuple[int, int], columns: tuple[int, int] | None = None) -> Tensor:
        """Some rows of a matrix, or some columns of these: each the first, and past the last."""
        stored, shard = self.stored(name), self.shards[name]
        if columns is None:
            return shard.read(name, rows)
        width, size = stored.shape[1], stored.dtype.itemsize
        made = torch.empty((rows[1] - rows[0], columns[1] - columns[0]), dtype=stored.dtype)
        if not made.numel():
            return made
        data = made.view(torch.uint8).numpy()
        with shard.path.open("rb", buffering=0) as handle:
            for number, row in enumerate(range(*rows)):
                handle.seek(stored.offset + (row * width + columns[0]) * size)
                if handle.readinto(data[number].data) != data.shape[1]:
                    raise BaseModelError(
                        f"{shard.path}: ends inside the tensor {name}", hint="download the base model again"
                    )
        return made

    def expect(self, name: str, shape: tuple[int, ...], *dtypes: torch.dtype) -> None:
        """Check a stored tensor's shape, and its dtype where any are given.

        Raises:
            RefusedError: if it is missing or another one.
        """
        stored = self.stored(name)
        if tuple(stored.shape) != shape or (dtypes and stored.dtype not in dtypes):
            wanted = f"{list(shape)} {' or '.join(map(_short, dtypes))}".strip()
            found = f"{list(stored.shape)} {_short(stored.dtype) if dtypes else ''}".strip()
            raise self.refused(f"{name} is {found}, expected {wanted}")

    def refused(self, what: str) -> RefusedError:
        """The error about a model that cannot be read so."""
        return RefusedError(f"{self.path}: {what}", hint=ORIGINAL)


def setting(source: Source, settings: Mapping[str, object], key: str, allowed: Iterable[object]) -> None:
    """Check that a setting is absent or one of those that are understood.

    Raises:
        RefusedError: if it is another.
    """
    value, known = settings.get(key), list(allowed)
    if value is not None and value not in known:
        listed = " or ".join(str(one) for one in known)
        raise source.refused(f"quantization_config says {key} {str(value)[:40]}, expected {listed}")


def whole_number(source: Source, settings: Mapping[str, object], key: str) -> int:
    """A setting that is a number.

    Raises:
        RefusedError: if it is none.
    """
    value = settings.get(key)
    if not isinstance(value, int) or isinstance(value, bool):
        raise source.refused(f"quantization_config says {key} {str(value)[:40]}, expected a number")
    return value


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
