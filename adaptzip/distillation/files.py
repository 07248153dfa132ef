"""The file that trained tensors are written as."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from adaptzip.adz.coding.grouping import group
from adaptzip.adz.container import writer
from adaptzip.core.compressed import Compressed
from adaptzip.core.training_report import TrainingReport
from adaptzip.distillation.beginning import Beginning
from adaptzip.fitting.assembly import LONGEST_ERROR
from adaptzip.fitting.fits import CodedAdapter

Parts = Callable[[float, CodedAdapter], dict[str, int]]
"""Bytes of a file by part (`container.writer.sizes`), for blocks coded at a step."""


def assembled(beginning: Beginning, step: float, coded: CodedAdapter, told: TrainingReport | None) -> Compressed:
    """The file with these blocks, and with `told` about its training; its relative error is yet to be measured."""
    plan = beginning.plan
    chunks = [coded.modules[name].chunk if name in coded.modules else b"" for name in plan.sites]
    provenance = replace(
        plan.provenance,
        relative_error=LONGEST_ERROR,
        parameters=coded.numbers + beginning.basis_numbers,
        distilled=told,
    )
    grouped = group(beginning.coder, coded.modules)
    return replace(plan, step=step, chunks=chunks, grouped=grouped, shared=coded.shared.chunk, provenance=provenance)


def whole(parts: Parts) -> Callable[[float, CodedAdapter], int]:
    """Bytes of the whole file."""
    return lambda step, coded: sum(parts(step, coded).values())


def parts_of(beginning: Beginning, told: TrainingReport) -> Parts:
    """Bytes of the file by part, where it tells this of its training."""

    def parts(step: float, coded: CodedAdapter) -> dict[str, int]:
        return writer.sizes(assembled(beginning, step, coded, told))

    return parts
