"""From one dialect to another without a `.adz` between: as it is, or with lower ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from adaptzip.core.adapter import Adapter
from adaptzip.core.budget import AnyBudget, Budget
from adaptzip.core.calling import public
from adaptzip.core.resizing import Resized, resized
from adaptzip.core.showing import Shown
from adaptzip.core.words import number, size
from adaptzip.errors import CheckFailedError, UsageError
from adaptzip.files.names import names_a_file
from adaptzip.restoring.exporting import DTYPES, ExportReport, export
from adaptzip.restoring.opening import source_bytes
from adaptzip.restoring.reading import adapter_from

_TRIES = 3
"""How often a size is aimed at; what is beside the factors depends little on their ranks."""


@dataclass(frozen=True, repr=False)
class ConvertReport(Shown):
    """What was written.

    Attributes:
        written: the files.
        error: relative error |dW - dW'| / |dW| of lower ranks, 0 where none was asked for.
        ranks: the least and the greatest rank that was kept.
    """

    written: ExportReport
    error: float
    ranks: tuple[int, int]

    def _told(self) -> Iterator[str]:
        yield str(self.written.path)
        yield self.written.dialect
        yield size(self.written.bytes)
        yield f"rank {self.ranks[0]}" if len(set(self.ranks)) == 1 else f"ranks {self.ranks[0]} to {self.ranks[1]}"
        yield f"error {number(self.error)}"


@public
def convert(
    source: str | Path | Adapter,
    output: str | Path,
    *,
    as_: str | None = None,
    rank: int | None = None,
    max_error: float | None = None,
    budget: AnyBudget | None = None,
    dtype: Literal["float32", "float16", "bfloat16", "q8_0"] | None = None,
    drop_extras: bool = False,
    alpha: float | None = None,
    config: str | Path | None = None,
    dialect: str | None = None,
    base: str | Path | None = None,
    basis: str | Path | None = None,
    base_name: str | None = None,
    force: bool = False,
) -> ConvertReport:
    """Write an adapter in another dialect, or in its own with lower ranks.

    Without a limit the factors stay as they are. With one they are cut to their first singular directions, which is
    the least error that plain factors can have; `compress` codes them as well, and needs far fewer bytes.

    Args:
        source: any readable adapter, or one in memory.
        output: the folder to make, or a file `.safetensors` or `.gguf` where the dialect has one file.
        as_: the dialect to write; None as for `export`.
        rank, max_error: limits, as for `core.resizing.resized`.
        budget: upper limit of all files together, in bytes on disk or as a share of the source, such as "20MB" or
            "25%".
        dtype, drop_extras, alpha, config, dialect, base, basis, base_name, force: as for `export`.

    Raises:
        CheckpointError, RefusedError, UsageError, OutputError, CheckFailedError: as `export`.
        UsageError: if a limit is out of range.
        CheckFailedError: if the limits cannot hold together.

    Example:
        >>> report = adaptzip.convert("my-adapter", "smaller", rank=1)
        >>> report.ranks
        (1, 1)
    """
    how: dict[str, Any] = {"alpha": alpha, "config": config, "dialect": dialect, "base": base, "basis": basis}
    out: dict[str, Any] = {"as_": as_, "dtype": dtype, "drop_extras": drop_extras, "base": base, "base_name": base_name}
    if rank is None and max_error is None and budget is None:
        written = export(source, output, force=force, **out, **{k: v for k, v in how.items() if k != "base"})
        return ConvertReport(written, 0.0, written.ranks)
    adapter = adapter_from(source, **how)

    def write(found: Resized, where: str | Path, replacing: bool) -> ExportReport:
        return export(found.adapter, where, force=replacing, **out)

    def cut(size: int | None) -> Resized:
        return resized(adapter, rank=rank, max_error=max_error, size=size, dtype=DTYPES.get(dtype or ""))

    limit = None if budget is None else _bytes(Budget.of(budget), source)
    found = cut(None) if limit is None else _within(cut, write, limit, Path(output))
    written = write(found, output, force)
    return ConvertReport(written, found.error, written.ranks)


def _bytes(budget: Budget | None, source: str | Path | Adapter) -> int:
    if budget is None or budget.unit == "parameters":
        raise UsageError(
            "the budget of convert is of bytes on disk", hint="write 20MB, 64KiB, or a share of the source such as 25%"
        )
    if isinstance(source, Adapter) and budget.unit == "fraction":
        raise UsageError(
            "an adapter in memory has no size on disk that the budget could be a share of", hint="write 20MB or 64KiB"
        )
    return int(budget.bytes_for(0 if isinstance(source, Adapter) else source_bytes(source)) or 0)


def _within(
    cut: Callable[[int | None], Resized],
    write: Callable[[Resized, str | Path, bool], ExportReport],
    limit: int,
    output: Path,
) -> Resized:
    """The adapter whose files have no more bytes than `limit`, found by writing it.

    Raises:
        CheckFailedError: if there is none.
    """
    aim = limit
    for _ in range(_TRIES):
        found = cut(aim)
        with TemporaryDirectory() as folder:
            name = f"export{output.suffix}" if names_a_file(output) else "export"
            size = write(found, Path(folder) / name, False).bytes
        if size <= limit:
            return found
        # What is beside the factors is counted from what was used, which is less than was aimed at.
        aim = min(aim, _bytes_of(found.adapter)) - (size - limit)
    raise CheckFailedError(
        f"{limit:,} bytes are too few for all that is beside the factors", hint="give a larger budget"
    )


def _bytes_of(adapter: Adapter) -> int:
    """Bytes of all factors."""
    return sum(t.numel() * t.element_size() for m in adapter.modules.values() for t in (m.A, m.B))
