"""What is nearest in the square is too small: a fit's shrinkage undone where the error is large.

A least-squares fit at error e keeps 1 - e^2 of an update along the update itself, and its quantisation noise lies
across it. A model feels the missing part more than noise of the same energy, which it averages out: so what is decoded
is made larger, by the factor that is best where a loss along the update weighs `WEIGHT` times as much as noise. That
takes no bytes: it goes into the step (docs/decisions/0018-shrinkage.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import sqrt

from adaptzip.core.adapter import Adapter
from adaptzip.core.comparing import products
from adaptzip.core.compressed import Compressed
from adaptzip.core.sensitivity import Sensitivity
from adaptzip.fitting.requests import Job
from adaptzip.fitting.steps import round_step
from adaptzip.restoring.reconstruction import reconstruct

WEIGHT = 4.0
"""What a loss along the update counts, noise across it counting 1."""
MOST = 1.5
"""No update is made larger than by this factor."""
LEAST_ERROR = 0.12
"""At smaller errors the factor is next to 1, and nothing is done."""


@dataclass(frozen=True)
class Agreement:
    """How a decoded update lies to the one that it stands for, in shares of |dW|^2.

    Attributes:
        along: <dW, dW'>.
        energy: |dW'|^2.
    """

    along: float
    energy: float

    @classmethod
    def fitted(cls, error: float) -> Agreement:
        """Of a least-squares fit at a relative error, which ends at a right angle to what it leaves out."""
        return cls(1 - error**2, 1 - error**2)

    @property
    def factor(self) -> float:
        """What the decoded update is best multiplied by, from 1 to `MOST`."""
        across = max(0.0, self.energy - self.along**2)
        weighed = WEIGHT * self.along**2 + across
        if weighed <= 0:
            return 1.0
        # Below twice along / energy it stays nearer to the update than nothing.
        most = MOST * min(1.0, self.along / self.energy)
        return max(1.0, min(most, WEIGHT * self.along / weighed))

    def error(self, factor: float) -> float:
        """The relative error once it is multiplied."""
        return sqrt(max(0.0, 1 - 2 * factor * self.along + factor**2 * self.energy))


def undoes(job: Job) -> bool:
    """Whether files of this job are made larger: never where an error is to be met, or a bank knows no step."""
    return job.request.max_error is None and job.method.degree is not None and not job.outside_bank


def foreseen_error(job: Job, error: float) -> float:
    """The relative error that a fit of this relative error will have in the file."""
    if not undoes(job) or not LEAST_ERROR < error < 1:
        return error
    agreement = Agreement.fitted(error)
    return agreement.error(agreement.factor)


def unshrunk(job: Job, compressed: Compressed, error: float) -> tuple[Compressed, float]:
    """The same file with its step as large as undoes the shrinkage, and its relative error, weighted where there is
    calibration; the file itself states the plain one.

    Args:
        error: of the file as it is.
    """
    degree = job.method.degree
    if not undoes(job) or degree is None or error <= LEAST_ERROR:
        return compressed, error
    after = reconstruct(compressed, base=job.request.base, basis=job.request.coded_in(compressed.method))
    found = _agreement(job.adapter, after, job.source.sensitivities)
    step = round_step(compressed.step * found.factor ** (1 / degree))
    factor = (step / compressed.step) ** degree
    plain = _agreement(job.adapter, after, {}) if job.source.sensitivities else found
    stated = float(f"{plain.error(factor):.6g}")
    made = replace(compressed, step=step, provenance=replace(compressed.provenance, relative_error=stated))
    return made, found.error(factor)


def _agreement(adapter: Adapter, after: Adapter, sensitivities: Mapping[str, Sensitivity]) -> Agreement:
    energy, along, coded = products(adapter, after, sensitivities)
    return Agreement(along / energy, coded / energy) if energy > 0 else Agreement(1.0, 1.0)
