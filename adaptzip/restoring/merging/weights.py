"""Writing a merged model's weight files: a block of rows at a time, side by side, what is untouched by the kernel.

A block is small enough for the caches of a core, and blocks know nothing of each other, so that neither their order nor
the number of cores is seen in what is written.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from adaptzip.core.progress import Progress
from adaptzip.core.scratch import Scratch
from adaptzip.core.workers import on_one_core, parallel_map
from adaptzip.errors import BaseModelError, CheckFailedError
from adaptzip.files.copying import copy_range, write_at
from adaptzip.files.tensors import build_header
from adaptzip.models.adding import is_finite, row_blocks
from adaptzip.models.files import AGAIN
from adaptzip.models.folder import BaseModel
from adaptzip.restoring.merging.edits import Edit
from adaptzip.restoring.merging.finishing import Record, finishing
from adaptzip.restoring.merging.names import weight_file_names
from adaptzip.restoring.merging.plan import FLOATS, MergePlan, Output

BLOCK = 1 << 20
"""Numbers of a block."""
_scratch = Scratch()


@dataclass(frozen=True)
class Written:
    """What there is to say of weight files that were written.

    Attributes:
        broken: the tensors that hold NaN or infinity as in the base.
        resumed: how many files an earlier run had finished.
    """

    broken: tuple[str, ...]
    resumed: int


@dataclass(frozen=True, eq=False)
class _Part:
    """Rows of one tensor to be written.

    Attributes:
        output: the tensor.
        path: the file.
        target: the same, open.
        place: the byte in it where the rows begin.
        rows: the first and past the last; None for a tensor that is made in one piece.
        last: whether the tensor has no more after them.
    """

    output: Output
    path: Path
    target: int
    place: int
    rows: tuple[int, int] | None
    last: bool = True

    @property
    def bytes(self) -> int:
        """What it takes in the file."""
        stored = self.output.stored
        return stored.bytes if self.rows is None else stored.bytes // stored.shape[0] * (self.rows[1] - self.rows[0])


@on_one_core()
def write_weights(
    plan: MergePlan,
    folder: Path,
    *,
    safe: bool,
    device: torch.device,
    progress: Progress | None,
    record: Record | None = None,
    names: Sequence[str] | None = None,
) -> Written:
    """Write the weight files into `folder`, and make them durable.

    Args:
        safe: round each update to the weight's dtype before adding it.
        device: where weights are merged.
        progress: told how far it is (`adaptzip.core.progress.Progress`).
        record: where finished files are noted; those that it has already are kept.
        names: what the files are called, if not after the base's.

    Raises:
        BaseModelError: if a file of the base ends too early.
        CheckFailedError: if a weight that the adapter changes holds NaN or infinity.
    """
    kept = {} if record is None else record.restored(folder)
    called = weight_file_names(plan.base) if names is None else names
    files = {folder / name: outputs for name, outputs in zip(called, plan.outputs, strict=True)}
    total = sum(map(len, plan.outputs))
    done = sum(len(outputs) for path, outputs in files.items() if path.name in kept)
    broken = {path.name: kept.get(path.name, []) for path in files}
    with ExitStack() as stack:
        sources = {shard.path: stack.enter_context(_opened(shard.path, os.O_RDONLY)) for shard in plan.base.shards}
        parts = [
            part
            for path, outputs in files.items()
            if path.name not in kept
            for part in _parts_of_file(plan, path, outputs, stack, whole=device.type != "cpu")
        ]
        left = Counter(part.path for part in parts)
        finisher = stack.enter_context(finishing(record))
        work = partial(_write_part, plan.base, sources, safe, device)
        for part, is_broken in zip(parts, parallel_map(work, parts, device=device), strict=True):
            here = broken[part.path.name]
            if is_broken and part.output.stored.name not in here:
                here.append(part.output.stored.name)
            finisher.wrote(part.target, part.bytes)
            left[part.path] -= 1
            if not left[part.path]:
                held = (output.stored.name for output in files[part.path])
                finisher.finish(part.path, part.target, held, here)
            done += part.last
            if progress is not None and part.last:
                progress("merging", done, total)
    return Written(tuple(name for found in broken.values() for name in found), len(kept))


def _parts_of_file(
    plan: MergePlan, path: Path, outputs: Sequence[Output], stack: ExitStack, whole: bool
) -> Iterator[_Part]:
    """The parts of one file, whose header is written; what a stopped run had begun of it is thrown away."""
    path.unlink(missing_ok=True)
    by_name = {output.stored.name: output for output in outputs}
    header = build_header({output.stored.name: output.stored for output in outputs}, plan.metadata)
    target = stack.enter_context(_opened(path, os.O_RDWR | os.O_CREAT | os.O_EXCL))
    write_at(target, memoryview(len(header).to_bytes(8, "little") + header), 0)
    begin, entries = 8 + len(header), json.loads(header)
    for key in sorted(by_name, key=lambda k: tuple(entries[k]["data_offsets"])):
        output, place = by_name[key], begin + entries[key]["data_offsets"][0]
        blocks = [] if whole or not goes_by_rows(plan.base, output) else list(row_blocks(output.stored.shape, BLOCK))
        if not blocks:
            yield _Part(output, path, target, place, None)
        for rows in blocks:
            width = output.stored.bytes // output.stored.shape[0]
            yield _Part(output, path, target, place + rows[0] * width, rows, rows == blocks[-1])


def goes_by_rows(base: BaseModel, output: Output) -> bool:
    """Whether rows of a tensor are merged alike with the others and without them."""
    return (
        output.source is not None
        and bool(output.stored.shape)
        and base.stored(output.source).shape == output.stored.shape
        and all(edit.on_rows(0, 0) is not None for edit in output.edits)
    )


def _write_part(base: BaseModel, sources: Mapping[Path, int], safe: bool, device: torch.device, part: _Part) -> bool:
    """Write one part; whether it holds NaN or infinity as in the base."""
    output = part.output
    if not output.edits and output.source is not None:
        return _write_as_it_is(base, sources, part)
    weight = _read(base, output, part.rows).to(device)
    for edit in output.edits if part.rows is None else on_rows(output.edits, part.rows):
        weight = edit.apply(weight, safe)
    if not is_finite(weight):
        raise _not_finite(base, output)
    write_at(part.target, _bytes(weight.to("cpu", output.stored.dtype).contiguous()), part.place)
    return False


def _write_as_it_is(base: BaseModel, sources: Mapping[Path, int], part: _Part) -> bool:
    output, name = part.output, str(part.output.source)
    shard, stored = base.tensors[name], base.stored(name)
    plain = shard.lies_plain(name) and stored.dtype == output.stored.dtype
    if plain:
        first, last = part.rows or (0, 1)
        width = stored.bytes // stored.shape[0] if part.rows else stored.bytes
        begin, size = stored.offset + first * width, (last - first) * width
        try:
            copy_range(sources[shard.path], begin, part.target, part.place, size)
        except EOFError:
            raise BaseModelError(f"{shard.path}: ends inside the tensor {name}", hint=AGAIN) from None
        if stored.dtype not in FLOATS:
            return False
    weight = _read(base, output, part.rows)
    if not plain:
        write_at(part.target, _bytes(weight.to(output.stored.dtype).contiguous()), part.place)
    return weight.dtype in FLOATS and not is_finite(weight)


def on_rows(edits: Sequence[Edit], rows: tuple[int, int]) -> list[Edit]:
    """The edits of some rows, the first and past the last."""
    return [found for edit in edits if (found := edit.on_rows(*rows)) is not None]


def _read(base: BaseModel, output: Output, rows: tuple[int, int] | None) -> Tensor:
    """A copy of what an output starts from, or of some rows of it."""
    if output.source is None:
        return torch.empty(output.stored.shape, dtype=output.stored.dtype)
    return base.read(output.source, rows, None if rows is None else _scratch)


def _not_finite(base: BaseModel, output: Output) -> CheckFailedError:
    if output.source is not None and not is_finite(base.read(output.source)):
        return CheckFailedError(
            f"{base.path}: {output.source} holds NaN or infinity in the base already",
            hint="download the base model again, or convert it without overflow (bfloat16 has float32's range)",
        )
    return CheckFailedError(
        f"merging makes NaN or infinity in {output.stored.name}, a {output.stored.dtype} tensor",
        hint="the adapter is broken, or its update is too large for the base's dtype",
    )


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.reshape(-1).view(torch.uint8).numpy().data


@contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    handle = os.open(path, flags, 0o666)
    try:
        yield handle
    finally:
        os.close(handle)
