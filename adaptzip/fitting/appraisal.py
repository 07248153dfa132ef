"""What stands beside a result: its weighted error, and what the reference method makes of the same bytes."""

from __future__ import annotations

from dataclasses import dataclass

from adaptzip.core.progress import Progress
from adaptzip.fitting.choosing import reference_at
from adaptzip.fitting.measuring import calibrated_error, measured_error
from adaptzip.fitting.requests import Original, Request
from adaptzip.fitting.running import Made
from adaptzip.methods import REFERENCE


@dataclass(frozen=True)
class Beside:
    """The reference method at the same bytes.

    Attributes:
        method: its name.
        bytes: of its file.
        relative_error: its error, weighted where there is calibration.
        against: that of the result, of the same kind.
    """

    method: str
    bytes: int
    relative_error: float
    against: float

    @property
    def wins(self) -> bool:
        """Whether the reference is better."""
        return self.relative_error < self.against


@dataclass(frozen=True)
class Appraisal:
    """What stands beside a result.

    Attributes:
        weighted_error: the relative error as the base model's activations see it; None without calibration.
        reference: None where the reference method made the result, can't be so small, or was not asked for.
    """

    weighted_error: float | None = None
    reference: Beside | None = None


def appraise(
    source: Original, made: Made, request: Request, progress: Progress | None = None, *, reference: bool = True
) -> Appraisal:
    """Measure what `make_from` made of a source.

    Args:
        reference: fit the reference method to the same bytes as well.
    """
    weighted = calibrated_error(source, made.compressed, request)
    own = made.compressed.provenance.relative_error if weighted is None else weighted
    return Appraisal(
        weighted_error=weighted,
        reference=_reference(source, made, request, own, progress) if reference else None,
    )


def _reference(source: Original, made: Made, request: Request, own: float, progress: Progress | None) -> Beside | None:
    if request.lossless or made.compressed.method == REFERENCE:
        return None
    if progress is not None:
        progress("reference", 0, 1)
    beside = reference_at(source, made.size, request)
    if beside is None:
        return None
    return Beside(REFERENCE, beside.size, measured_error(source, beside.compressed, request), own)
