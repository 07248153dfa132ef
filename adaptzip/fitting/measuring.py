"""What a result is measured by: the error of what comes back, and what a basis can hold."""

from __future__ import annotations

from dataclasses import replace

from adaptzip.core.comparing import diff
from adaptzip.core.compressed import Compressed
from adaptzip.core.projection import captured_energy, leading
from adaptzip.fitting.requests import Job, Original, Request
from adaptzip.restoring.reconstruction import reconstruct


def calibrated_error(source: Original, compressed: Compressed, request: Request) -> float | None:
    """The relative error as the base model's activations see it; None without calibration."""
    if not source.sensitivities:
        return None
    after = reconstruct(compressed, base=request.base, basis=request.coded_in(compressed.method))
    return diff(source.adapter, after, source.sensitivities).weighted_error


def measured_error(source: Original, compressed: Compressed, request: Request) -> float:
    """The relative error by which methods are compared: weighted where there is calibration, else plain."""
    weighted = calibrated_error(source, compressed, request)
    return compressed.provenance.relative_error if weighted is None else weighted


def captured(job: Job) -> float | None:
    """Share of |dW|^2 within a job's basis, as far as the method's options let it use that; None without a basis."""
    if job.context.basis is None or not job.method.needs_basis:
        return None
    most = getattr(job.config, "rank", None)
    modules = {name: leading(module, most) for name, module in job.context.basis.modules.items()}
    return captured_energy(job.adapter.modules, replace(job.context.basis, modules=modules)).overall
