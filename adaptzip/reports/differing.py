"""How far two adapters are apart, wherever they lie and whatever names their dialects have for one layer."""

from __future__ import annotations

from pathlib import Path

from adaptzip.checkpoints._image.aligning import aligned
from adaptzip.core.adapter import Adapter
from adaptzip.core.basis import Basis
from adaptzip.core.calling import public
from adaptzip.core.comparing import DiffReport
from adaptzip.core.comparing import diff as compare
from adaptzip.core.compressed import Compressed
from adaptzip.reports.weighing import weighed
from adaptzip.restoring.reading import adapter_from


@public
def diff(
    a: str | Path | Adapter | Compressed,
    b: str | Path | Adapter | Compressed,
    *,
    base: str | Path | None = None,
    basis: str | Path | Basis | None = None,
    calibration: str | Path | None = None,
    text_field: str | None = None,
    pair_field: str | None = None,
    completion_field: str | None = None,
) -> DiffReport:
    """Compare the updates and extras of two adapters; image models' two names for one layer count as one.

    Args:
        a: the reference: any readable adapter, or one in memory.
        b: what is compared with it.
        base: folder of the base model, where an adapter can't be read without it, and for calibration.
        basis: the basis artefact or its path, for a `.adz` file that names one.
        calibration: a file of texts; the report then has the error as the base's activations see it, too.
        text_field, pair_field, completion_field: where its rows have the text, the second of a pair, and what completes
            it; None looks for the usual names.

    Raises:
        CheckpointError, FormatError: if an adapter cannot be read.
        RefusedError: if one is no low-rank update, or its basis is missing or another.
        UsageError: if a module has another shape in one than in the other, or there are texts and no base.

    Example:
        >>> small = adaptzip.compress("my-adapter", max_error=0.1)
        >>> found = adaptzip.diff("my-adapter", small)
        >>> found.relative_error <= 0.1, found.only_in_a, found.extras_different
        (True, (), ())
    """
    first, second = aligned(*(adapter_from(one, base=base, basis=basis) for one in (a, b)))
    fields = {"text_field": text_field, "pair_field": pair_field, "completion_field": completion_field}
    source = None if isinstance(a, Compressed) else a
    return compare(first, second, weighed(first, source, base, calibration, **fields))
