"""Writing a merged GGUF file: a block of rows at a time, side by side, and what is not changed by the kernel."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from adaptzip.checkpoints._gguf.header import AGAIN
from adaptzip.core.progress import Progress
from adaptzip.core.workers import on_one_core, parallel_map
from adaptzip.errors import BaseModelError, CheckFailedError
from adaptzip.files.copying import copy_range, write_at
from adaptzip.files.regular import open_regular
from adaptzip.models.adding import is_finite, row_blocks
from adaptzip.restoring.merging.edits import Update
from adaptzip.restoring.merging.gguf.layout import Layout
from adaptzip.restoring.merging.gguf.numbers import FLOATS, decoded, encoded
from adaptzip.restoring.merging.gguf.plan import GgufPlan, Output
from adaptzip.restoring.merging.rounding import Ledger

BLOCK = 1 << 20
"""Numbers of a block."""


@dataclass(frozen=True, eq=False)
class _Part:
    """Rows of one tensor.

    Attributes:
        output: the tensor.
        place: the byte of the file where it begins.
        rows: the first and past the last, of the tensor as a matrix.
        last: whether it has no more after them.
    """

    output: Output
    place: int
    rows: tuple[int, int]
    last: bool


@on_one_core()
def write_tensors(
    plan: GgufPlan,
    layout: Layout,
    target: int,
    ledger: Ledger | None,
    device: torch.device,
    progress: Progress | None,
) -> tuple[str, ...]:
    """Write all tensors to their places in an open file.

    Args:
        ledger: where it is noted what rounding leaves of the updates, None for nowhere.

    Returns:
        The tensors that hold NaN or infinity as in the base.

    Raises:
        BaseModelError: if a file of the base ends too early.
        CheckFailedError: if a weight that the adapter changes holds NaN or infinity.
    """
    done = 0
    broken: dict[str, None] = {}
    with ExitStack() as stack:
        sources = [stack.enter_context(open_regular(path)).fileno() for path in plan.base.files]
        parts = list(_parts(plan, layout))
        work = partial(_write_part, plan, sources, target, ledger, device)
        for part, is_broken in zip(parts, parallel_map(work, parts, device=device), strict=True):
            if is_broken:
                broken[part.output.base.name] = None
            done += part.last
            if progress is not None and part.last:
                progress("merging", done, len(plan.outputs))
    return tuple(broken)


def _parts(plan: GgufPlan, layout: Layout) -> Iterator[_Part]:
    for output, place in zip(plan.outputs, layout.places, strict=True):
        blocks = list(row_blocks(_matrix(output.base.shape), BLOCK))
        for rows in blocks:
            yield _Part(output, place, rows, rows == blocks[-1])


def _matrix(shape: Sequence[int]) -> tuple[int, int]:
    """A tensor's shape as a matrix of all its rows."""
    return torch.Size(shape[:-1]).numel(), shape[-1]


def _write_part(
    plan: GgufPlan, sources: Sequence[int], target: int, ledger: Ledger | None, device: torch.device, part: _Part
) -> bool:
    """Write some rows; whether they hold NaN or infinity as in the base."""
    output, (first, last) = part.output, part.rows
    base, (rows, width) = output.base, _matrix(output.base.shape)
    source, step = sources[base.file], base.bytes // rows
    begin, size = base.begin + first * step, (last - first) * step
    place = part.place + first * (output.bytes // rows)
    if output.kind == base.kind and output.update is None:
        _copy(plan, output, (source, begin, target, place, size))
        if base.kind not in FLOATS:
            return False
    exact = decoded(base.kind, _read(plan, output, source, begin, size), (last - first, width))
    if output.update is None:
        if output.kind != base.kind:
            write_at(target, encoded(output.kind, exact), place)
        return not is_finite(exact)
    merged = _on_rows(output.update, first, last).apply(exact.clone().to(device), safe=False).cpu()
    data = encoded(output.kind, _finite(plan, output, exact, merged))
    written = _finite(plan, output, exact, decoded(output.kind, bytearray(data), exact.shape))
    if ledger is not None:
        row = base.name, first
        ledger.note(output.module or base.name, row, merged.float() - exact.float(), written.float() - merged.float())
    write_at(target, data, place)
    return False


def _on_rows(update: Update, first: int, last: int) -> Update:
    """The update of some rows, which all that `place` finds has."""
    found = update.on_rows(first, last)
    assert isinstance(found, Update)
    return found


def _finite(plan: GgufPlan, output: Output, exact: Tensor, made: Tensor) -> Tensor:
    """Rows that were made of the base's, if they are finite."""
    if not is_finite(made):
        raise _not_finite(plan, output, exact)
    return made


def _not_finite(plan: GgufPlan, output: Output, exact: Tensor) -> CheckFailedError:
    if not is_finite(exact):
        return CheckFailedError(
            f"{plan.base.path}: {output.base.name} holds NaN or infinity in the base already",
            hint="download the base model again",
        )
    return CheckFailedError(
        f"merging makes NaN or infinity in {output.base.name}, a {output.base.type} tensor",
        hint="the adapter is broken, or its update is too large for the base's type",
    )


def _copy(plan: GgufPlan, output: Output, places: tuple[int, int, int, int, int]) -> None:
    try:
        copy_range(*places)
    except EOFError:
        raise _ends(plan, output) from None


def _read(plan: GgufPlan, output: Output, source: int, begin: int, size: int) -> bytearray:
    found = bytearray()
    while len(found) < size:
        piece = os.pread(source, size - len(found), begin + len(found))
        if not piece:
            raise _ends(plan, output)
        found += piece
    return found


def _ends(plan: GgufPlan, output: Output) -> BaseModelError:
    path = plan.base.files[output.base.file]
    return BaseModelError(f"{path}: ends inside the tensor {output.base.name}", hint=AGAIN)
