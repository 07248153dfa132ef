"""What is about to be written: the adapter as a dialect calls and cuts it, without what that has no room for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import cast

from adaptzip.checkpoints import Native, NativeWriter, WriteOptions, Writer, conventions, held, writer
from adaptzip.checkpoints._base_name import renamed
from adaptzip.checkpoints._functions import FunctionDialect
from adaptzip.core.adapter import Adapter
from adaptzip.errors import RefusedError

WITH_CARD = "peft"
"""The dialect whose folders are published with a README beside."""


@dataclass(frozen=True)
class Content:
    """How something is written, the adapter that it stands for, and what the report says of it."""

    write: Callable[[Path, WriteOptions], None]
    adapter: Adapter
    modules: int
    ranks: tuple[int, int]
    loading_bytes: int | None = None
    left_out: tuple[str, ...] = ()


def own_writer(name: str) -> Writer:
    """The dialect that an adapter came in where that writes factors, else kohya's of an image model, else PEFT's."""
    found = conventions(name)
    return found if isinstance(found, Writer) else cast("Writer", writer("kohya" if found.pipelines else "peft"))


def with_base_name(adapter: Adapter, base_name: str | None) -> Adapter:
    """The adapter of a base model that is called otherwise, where another name is given."""
    return adapter if base_name is None else replace(adapter, meta=renamed(adapter.meta, base_name))


def factor_content(adapter: Adapter, target: Writer, options: WriteOptions, drop: bool) -> Content:
    """An adapter's factors and what lies beside them.

    Raises:
        RefusedError: if the dialect cannot hold something, unless `drop` gives it up.
    """
    if conventions(adapter.meta.dialect).pipelines and not (target.pipelines or target.name == WITH_CARD):
        raise RefusedError(
            f"the adapter is of an image model, and {target.title} is for language models",
            hint="write it with `as_='kohya'`, `as_='diffusers'` or `as_='comfyui'`",
        )
    spelled = target.spelled(adapter)
    lost = target.lost(spelled, options)
    left = held(spelled, lost, "the portable profile" if options.portable else target.title, drop)
    ranks, told = _ranks(left), tuple(map(str, lost))
    return Content(partial(target.write, left), left, len(left.modules), ranks, left_out=told)


def native_content(found: Native, target: NativeWriter, base_name: str | None) -> Content:
    """A method's own tensors."""
    found = replace(found, adapter=with_base_name(found.adapter, base_name))
    modules = len(found.modules)
    if isinstance(target, FunctionDialect) and not found.modules:
        modules = _count(target, found.adapter)
    write, ranks = partial(target.write_native, found), _ranks(found.adapter)
    return Content(write, found.adapter, modules, ranks, target.loading_bytes(found))


def _ranks(adapter: Adapter) -> tuple[int, int]:
    found = [factors.rank for factors in adapter.modules.values()]
    return min(found, default=0), max(found, default=0)


def _count(target: FunctionDialect, kept: Adapter) -> int:
    """How many layers the functions are of whose tensors are `kept` as they were."""
    functions = target.functions(kept.extras, kept.meta.config, "the adapter")
    return len(functions.behind) + len(functions.before)
