"""One bank for many adapters: fitting it, and how well an adapter can be coded with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch

from adaptzip.bases.bank_file import coded_bank, write_bank
from adaptzip.checkpoints import vet_numbers
from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.core.bank_builder import AnyBankBuilder, BankBuilder, Fleet
from adaptzip.core.basis import Basis
from adaptzip.core.calling import public
from adaptzip.core.linalg import choose_device
from adaptzip.core.method import FitContext
from adaptzip.core.progress import Progress, share_of
from adaptzip.core.workers import on_one_core
from adaptzip.errors import UsageError, without_warnings
from adaptzip.files.atomic import check_output
from adaptzip.files.inputs import check_apart
from adaptzip.fitting.candidates import candidates, fit_candidate
from adaptzip.fitting.job_limits import control_of
from adaptzip.fitting.loading import load_source
from adaptzip.fitting.requests import Request, configure, prepare_job
from adaptzip.fitting.steps import round_step
from adaptzip.methods import fittable, load
from adaptzip.restoring.reading import read

Source: TypeAlias = str | Path | Adapter
Sources: TypeAlias = Iterable[Source] | Callable[[], Iterator[Source]]


@dataclass(frozen=True)
class Reached:
    """What a bank makes of an adapter at best.

    Attributes:
        error: least relative error |dW - dW'| / |dW|.
        bytes: size of the file that has it.
        worst: the module of which least is captured, and the share of its |dW|^2; None without modules.
    """

    error: float
    bytes: int
    worst: tuple[str, float] | None


@public
def build_bank(
    adapters: Sources,
    output: str | Path | None = None,
    *,
    rank: int | None = None,
    length: int | None = None,
    vectors: int | None = None,
    top_k: int | None = None,
    levels: int = 64,
    memory: float = 1.0,
    device: str | torch.device = "auto",
    seed: int = 0,
    base: str | Path | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> Basis:
    """Fit one bank of vectors to many adapters, and write it to `output` if that is given.

    Adapters that are compressed with it (`compress(..., to="vblora", basis=...)`) hold indices and weights alone.
    Every adapter counts alike, however strong it is, and they need not have the same modules. Memory does not grow with
    their number: they are gone over three times, one at a time, so that equal input in equal order gives equal bytes.

    Args:
        adapters: paths or adapters, as something that can be gone over again; or what gives a new iterator each time.
        output: the file to write; None writes none.
        rank: the most rows that a factor of a module may have; None keeps nearly all of the energy.
        length: b, numbers in a vector; None tries some on a sample, as for `vectors`, and takes those that save most.
        vectors: h, vectors in the bank, of which the last is zero.
        top_k: k, vectors in a mixture; None is 2.
        levels: weights of a mixture are multiples of 1 / levels, a power of two.
        memory: GiB that PEFT may need for the dense logits of an exported adapter, where settings are chosen.
        device, seed, base, force, progress: as for `compress`.

    Returns:
        The bank, as `compress` and `reconstruct` take it for their `basis`.

    Raises:
        UsageError: if there is no adapter, `adapters` can be gone over but once, or a setting is out of range.
        CheckpointError: if an adapter is unreadable.
        RefusedError: if every update is zero.
        CheckFailedError: if no bank within `memory` can be.
        OutputError: if `output` exists without `force`, or cannot be written.

    Example:
        >>> bank = adaptzip.build_bank(["my-adapter"], "team.bank", length=8, vectors=64, rank=2)
        >>> small = adaptzip.compress("my-adapter", to="vblora", basis="team.bank")
        >>> small.basis.hash == bank.reference.hash
        True
    """
    if output is not None:
        for source in [] if callable(adapters) else _again(adapters):
            check_apart(output, source=source, base=base)
        check_output(output, force)
    builder = _builder()
    asked = {"rank": rank, "length": length, "vectors": vectors, "top_k": top_k, "levels": levels, "memory": memory}
    config = configure(builder, asked)
    told = None if progress is None else share_of(progress, "fitting")
    context = FitContext(choose_device(device), seed, progress=told)
    with on_one_core():
        found = coded_bank(builder.build_bank(_fleet(adapters, base), config, context))
    if output is not None:
        write_bank(found, output, force)
    return found


def reached(source: Source, bank: Basis, *, base: str | Path | None = None) -> Reached:
    """What a bank makes of an adapter at best.

    Raises:
        CheckpointError, RefusedError: as `compress`.
    """
    request = Request(to=_builder().name, basis=bank, base=base)
    with without_warnings():
        job = prepare_job(load_source(source, request), request)
        fitted = fit_candidate(job, candidates(job)[0])
        steps = control_of(job, fitted)[0].steps
        if not fitted.profiles:
            return Reached(0.0, steps.fixed_size, None)
        made = steps.code(round_step(steps.bounds[0]), steps.whole_ranks())
    coded, energies = made.coded.modules, fitted.energies
    shares = {n: 1 - coded[n].squared_error / energies[n] if n in coded else 0.0 for n in energies}
    worst = min(shares, key=lambda name: shares[name])
    return Reached(made.error, round(made.size), (worst, shares[worst]))


def _builder() -> AnyBankBuilder:
    """The method that codes with banks."""
    found = (load(name) for name in fittable())
    return next(method for method in found if isinstance(method, BankBuilder))


def _fleet(adapters: Sources, base: str | Path | None) -> Fleet:
    def modules() -> Iterator[Mapping[str, LoraFactors]]:
        none = True
        for source in adapters() if callable(adapters) else _again(adapters):
            none = False
            adapter = source if isinstance(source, Adapter) else read(source, base=base)
            vet_numbers(adapter)
            yield adapter.modules
        if none:
            raise UsageError("no adapter was given to build a bank from")

    return modules


def _again(adapters: Iterable[Source]) -> Iterable[Source]:
    if isinstance(adapters, str | Path | Adapter):
        raise UsageError("one adapter was given to build a bank from, expected several", hint="give a list of them")
    if isinstance(adapters, Iterator):
        raise UsageError(
            "the adapters are an iterator, which can be gone over but once",
            hint="give a list, or a function that gives a new iterator",
        )
    return adapters
