"""The registry of dialects: every module of this folder, and every entry point of the group `adaptzip.dialects`.

A dialect module holds one object `DIALECT`, and an entry point names one.
"""

from __future__ import annotations

import pkgutil
import sys
from collections.abc import Iterable
from functools import cache, lru_cache
from importlib import import_module
from pathlib import Path
from typing import cast

from adaptzip.checkpoints._base import Dialect, NativeWriter, Reader, Writer
from adaptzip.checkpoints._config import CONFIG_NAME
from adaptzip.checkpoints._form import fault
from adaptzip.core.calling import nearest
from adaptzip.core.plug_ins import DIALECTS, broken, load, plug_ins
from adaptzip.errors import RefusedError, UsageError
from adaptzip.files.magic import is_pytorch, is_safetensors
from adaptzip.files.regular import open_regular

GROUP = DIALECTS


class _Unknown(Dialect):
    """What holds for adapters of a dialect that is not installed: what holds where a dialect says nothing else."""

    name = "unknown"
    title = "an unknown dialect"


def dialects() -> dict[str, Dialect]:
    """Every dialect by its name, in sorted order.

    Raises:
        UsageError: if an installed package's dialect cannot be loaded, is none, has the name of another, or says what
            no dialect says of itself.
    """
    found = built_in() | _plugged_in(tuple(sys.path))
    return {name: found[name] for name in sorted(found)}


def dialect(name: str) -> Dialect:
    """The dialect called `name`.

    Raises:
        UsageError: if there is none.
    """
    known = dialects()
    if name not in known:
        raise _no_dialect(name, known)
    return known[name]


def conventions(name: str) -> Dialect:
    """The dialect that an adapter names as its own, or what holds for all where it is not installed."""
    return dialects().get(name, _Unknown())


def readers() -> dict[str, Reader]:
    """The dialects that read their files, by name."""
    return {name: found for name, found in dialects().items() if isinstance(found, Reader)}


def opener(weights: Path) -> Reader | None:
    """The dialect that opens a file itself, by what the file begins with; None for safetensors and PyTorch's.

    Raises:
        OSError: if the system cannot read it.
    """
    with open_regular(weights) as handle:
        start = handle.read(64)
    if is_safetensors(start) or is_pytorch(start):
        return None
    own = (found for found in readers().values() if found.files.magic and start.startswith(found.files.magic))
    return next(own, None)


def reader(name: str) -> Reader:
    """The dialect called `name`, to read.

    Raises:
        UsageError: if there is none.
        RefusedError: if it is one that is written alone.
    """
    able = readers()
    if name in able:
        return able[name]
    known = dialects()
    if name in known:
        raise RefusedError(
            f"{known[name].title} checkpoints are written, not read", hint=f"dialects that are read: {', '.join(able)}"
        )
    raise _no_dialect(name, able)


def writer(name: str) -> Writer | NativeWriter:
    """The dialect called `name`, to write.

    Raises:
        UsageError: if there is none.
        RefusedError: if it is one that is read alone.
    """
    known = dialects()
    able = {key: found for key, found in known.items() if isinstance(found, Writer | NativeWriter)}
    if name in able:
        return able[name]
    if name in known:
        raise RefusedError(
            f"{known[name].title} checkpoints are read, not written",
            hint="write `as_='peft'`, which loads with the same update",
        )
    raise _no_dialect(name, able)


def weight_names() -> tuple[str, ...]:
    """What dialects call the file with the tensors, best first."""
    return _distinct(name for found in _peft_first() for name in found.files.weights)


def config_names(weights_name: str = "") -> tuple[str, ...]:
    """What dialects call the configuration beside a file of tensors; first those that give that file its name."""
    named = [found.files for found in _peft_first() if found.files.config is not None]
    own = (files.config for files in named if weights_name in files.weights)
    return _distinct(str(name) for name in (*own, CONFIG_NAME, *(files.config for files in named)))


def _no_dialect(name: str, known: Iterable[str]) -> UsageError:
    listed = tuple(known)
    return UsageError(
        f"there is no checkpoint dialect {name!r}", hint=nearest(name, listed, f"known: {', '.join(listed)}")
    )


def _peft_first() -> list[Dialect]:
    """The dialects with those of this package first: a plug-in's names never go before theirs."""
    return sorted(dialects().values(), key=lambda found: found.name not in built_in())


def _distinct(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))


@cache
def built_in() -> dict[str, Dialect]:
    """The dialects of this package, by name."""
    names = sorted(m.name for m in pkgutil.iter_modules([str(Path(__file__).parent)]) if not m.name.startswith("_"))
    found: list[Dialect] = [import_module(f"{__package__}.{name}").DIALECT for name in names]
    return {each.name: each for each in found}


@lru_cache(maxsize=8)
def _plugged_in(path: tuple[str, ...]) -> dict[str, Dialect]:
    """The dialects of other packages on a search path; looking for them takes time, and each read asks for them."""
    found: dict[str, Dialect] = {}
    for name, point in plug_ins(GROUP, "dialect", built_in()).items():
        found[name] = cast("Dialect", load(point, "dialect", (Dialect,)))
        wrong = fault(found[name])
        if wrong is not None:
            raise broken(point, "dialect", wrong)
    return found
