"""What is in an adapter, of whatever kind its file is."""

from __future__ import annotations

from pathlib import Path

from adaptzip.adz.container.frame import is_adz
from adaptzip.core.adapter import Adapter
from adaptzip.core.calling import public
from adaptzip.core.progress import Progress
from adaptzip.errors import UsageError
from adaptzip.reports.archives import ArchiveReport, describe_archive
from adaptzip.reports.describing import AdapterReport, describe
from adaptzip.restoring.reading import adapter_from


@public
def inspect(
    source: str | Path | Adapter,
    *,
    alpha: float | None = None,
    config: str | Path | None = None,
    dialect: str | None = None,
    base: str | Path | None = None,
    progress: Progress | None = None,
) -> AdapterReport | ArchiveReport:
    """Say what an adapter holds: of a `.adz` what its header says, of any other what its tensors do.

    Args:
        source: any readable adapter, or one in memory.
        alpha, config, dialect, base: how to read a checkpoint, as for `read`.
        progress: told how far it is (`adaptzip.core.progress.Progress`).

    Raises:
        CheckpointError, FormatError: if the source cannot be read.
        RefusedError: if it is no low-rank update, or needs a newer adaptzip.
        UsageError: if something tells how to read a `.adz`, which says it itself.

    Example:
        >>> found = adaptzip.inspect("my-adapter")
        >>> found.dialect, len(found.modules), round(found.effective_rank, 1) <= 3
        ('peft', 8, True)
        >>> adaptzip.compress("my-adapter", "small.adz", budget="20%").bytes == adaptzip.inspect("small.adz").bytes
        True
    """
    if not isinstance(source, Adapter) and is_adz(Path(source)):
        if dialect is not None:
            raise UsageError(
                f"`dialect='{dialect}'` was given, but {source} is a .adz file", hint="leave `dialect=` out"
            )
        return describe_archive(source)
    return describe(adapter_from(source, alpha=alpha, config=config, dialect=dialect, base=base), progress)
