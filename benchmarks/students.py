"""Students that store one shared vector, as Uni-LoRA does, beside the distilled `svd` at equal bytes.

The teacher is the lists fixture. Every number of B, and of A where that is not made again, is one of the stored
vector's at a place drawn from a seed, over the root of how often it is used. A of the kinds:

    signs       random signs over the root of the inputs, drawn from a seed
    frame       directions of what the teacher's A began with (formats/adz-1.md, known starts)
    both        A is the shared vector's as well, as PEFT's UNILORA has it
    svd         no shared vector: what `distill --to svd` makes, ranks as it chooses them
    svd-frame   singular factors whose in-vectors lie in the frame, the largest components of all modules

All go through the loop of `distill`, quantised in the second half. Bytes are those of all blocks, without header and
head; the shared vector is one block. gain = (accuracy - without adapter) / (teacher - without adapter), on the
fixture's held-out rows, which no training saw.

    python -m benchmarks.students [KIND ...] [--bytes NUMBER] [--numbers NUMBER] [--steps NUMBER] [--results FILE]
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import sqrt
from pathlib import Path

import torch
from torch import Tensor

import adaptzip
from adaptzip.adz.coding.coders import Coder
from adaptzip.adz.container import writer
from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.core.budget import Budget
from adaptzip.core.compressed import Site
from adaptzip.distillation.loop import first_state, train
from adaptzip.distillation.preparing import DataOptions, Setup, prepare
from adaptzip.distillation.problem import Problem, even_scale
from adaptzip.distillation.schedules import Schedule
from adaptzip.distillation.tensors import Tensors, factors_of
from adaptzip.fitting.fits import CodedAdapter
from adaptzip.fitting.requests import Request
from adaptzip.fitting.starting import known_frames
from adaptzip.fitting.surveys import sites_of
from adaptzip.methods import REFERENCE
from adaptzip.reports.evaluation import evaluate
from benchmarks import page, results
from benchmarks.distillation import Case, Run, lists, measure
from benchmarks.shared_vectors import RANK, Config, InFrame, Named, Places, Shared, signs, spread

RATE = 0.06
"""Learning rate of the shared vectors; those of `svd` are trained at its own, which suits them."""
ROOM = 4096
"""Bytes that a file may take beside header and head, so that there is a fit to take model and answers from."""
Frames = Callable[[], dict[str, Tensor]]
HEAD = ["student", "numbers", "bytes", "steps", "KL", "gain", "minutes"]


@dataclass(frozen=True)
class Row:
    """A student and what came of it."""

    kind: str
    numbers: int
    bytes: int
    steps: int
    kl: float
    gain: float
    minutes: float


def start_frames(case: Case, teacher: Adapter) -> dict[str, Tensor]:
    """Rows (k, in) of the frame that each module of the teacher began in.

    Raises:
        ValueError: if one has none.
    """
    found = known_frames(case.teacher, teacher, Request())
    if found is None or any(not found.modules[name].size for name in teacher.modules):
        raise ValueError("the start of the teacher was not found in every module")
    return {name: module.V.T.contiguous() for name, module in found.modules.items()}


def sharing(problem: Problem, sites: Mapping[str, Site], kind: str, numbers: int, frames: Frames) -> Problem:
    """The problem of training a shared vector."""
    directions = None if kind == "both" else signs(sites) if kind == "signs" else frames()
    made = spread(sites, numbers, directions, kind != "both")
    energy = problem.scale**2 * sum(tensor.numel() for _, tensor in problem.tensors.items())
    if kind == "both":
        # Entries of A and B of one size v, so that products of rank r are r v^4 in the square.
        entries = sum(site.out * site.width for site in sites.values())
        share = sum(B.index.numel() + (A.index.numel() if isinstance(A, Places) else 0) for A, B in made.values())
        scale, first = (energy / (entries * RANK)) ** 0.25 * sqrt(share / numbers), 0.5
    else:
        scale, first = even_scale(energy, numbers), 0.05
    vector = torch.randn(1, numbers, generator=torch.Generator().manual_seed(2)) * scale * first
    named = {name: Named(site.out, site.width, name=name) for name, site in sites.items()}
    coder: Coder[Shared] = Coder(Shared(made), Config(numbers), named, 1)
    tensors = Tensors({"vector": vector}, {name: {} for name in sites}, dict.fromkeys(sites, 1))
    return replace(problem, coder=coder, gains={}, tensors=tensors, scale=scale)


def in_frame(problem: Problem, modules: Mapping[str, LoraFactors], numbers: int, rows: dict[str, Tensor]) -> Problem:
    """The problem of training the largest components of all modules within frames, by energy for each number."""
    sites = {name: Named(*module.shape, name=name) for name, module in modules.items()}
    parts = {
        name: torch.linalg.svd(m.B.float() * m.scaling @ (m.A.float() @ rows[name].T), full_matrices=False)
        for name, m in modules.items()
    }
    sizes = {name: sites[name].out + len(rows[name]) for name in modules}
    best = sorted(((-(float(s) ** 2) / sizes[name], name) for name, part in parts.items() for s in part[1]))
    ranks: dict[str, int] = {}
    for _, name in best:
        if sizes[name] <= numbers:
            numbers -= sizes[name]
            ranks[name] = ranks.get(name, 0) + 1
    own = {
        name: {"U": (parts[name][0][:, :r] * parts[name][1][:r]).T.contiguous(),
               "C": parts[name][1][:r, None] * parts[name][2][:r]}
        for name, r in ranks.items()
    }  # fmt: skip
    tensors = Tensors({}, own, ranks)
    energy = problem.scale**2 * sum(tensor.numel() for _, tensor in problem.tensors.items())
    coder: Coder[InFrame] = Coder(InFrame(rows), Config(), sites, max(map(len, rows.values())))
    return replace(problem, coder=coder, gains={}, tensors=tensors, scale=even_scale(energy, tensors.numbers))


def block_bytes(step: float, coded: CodedAdapter) -> int:
    """Bytes of all blocks."""
    return len(coded.shared.chunk) + sum(len(module.chunk) for module in coded.modules.values())


def run(case: Case, setup: Setup, kind: str, numbers: int, size: int, steps: int) -> Row:
    """Train a student, and score it on the rows held out."""
    began = time.monotonic()
    teacher = setup.teacher
    if kind == "svd-frame":
        problem = in_frame(setup.problem, teacher.modules, numbers, start_frames(case, teacher))
    else:
        sites = sites_of(teacher)
        problem = sharing(setup.problem, sites, kind, numbers, lambda: start_frames(case, teacher))
    problem = replace(problem, size_of=block_bytes, limit=size)
    rate = None if kind == "svd-frame" else RATE
    schedule = Schedule(steps=steps, every=max(1, steps // 2), rate=rate)
    state = first_state(problem, problem.scale / 4)
    train(problem, schedule, state, setup.machines, save=lambda _: None, report=lambda _: None)
    written = problem.fill(problem.tensors.replaced(state.best), state.best_quantiser)
    factors = factors_of(problem.coder, {}, written.tensors)
    student = replace(teacher, modules={name: _module(teacher.modules[name], factors[name]) for name in factors})
    found = evaluate(case.base, teacher, {"student": student}, case.test, batch=64, max_tokens=case.max_tokens)
    minutes = (time.monotonic() - began) / 60
    kl, gain = found.rows["student"].kl or 0.0, found.gain("student") or 0.0
    return Row(kind, written.tensors.numbers, written.size, steps, kl, gain, minutes)


def _module(module: LoraFactors, update: object) -> LoraFactors:
    assert isinstance(update, tuple)
    A, B = update
    return replace(module, A=A, B=B, scaling=1.0)


def reference(case: Case, size: int, steps: int) -> Row:
    """What `distill --to svd` makes."""
    row = measure("lists", case, Run(REFERENCE, size, steps=steps))
    return Row(REFERENCE, row.numbers, row.bytes, steps, row.kl, row.gain, row.minutes)


KINDS = ("svd", "svd-frame", "signs", "frame", "both")


def main() -> None:
    """Train the students that are asked for, one after another, and print the table."""
    parser = results.parser(__doc__, "kind", KINDS)
    parser.add_argument("--bytes", type=int, default=600, help="of all blocks")
    parser.add_argument("--numbers", type=int, default=2000, help="of the shared vector, or of all factors")
    parser.add_argument("--steps", type=int, default=300)
    arguments = parser.parse_args()
    case = replace(lists(arguments.material), header=False)
    rows = results.read(arguments.results, Row)
    setup: Setup | None = None
    for kind in arguments.chosen:
        if kind == REFERENCE:
            rows.append(reference(case, arguments.bytes, arguments.steps))
        else:
            setup = setup or prepared(case)
            rows.append(run(case, setup, kind, arguments.numbers, arguments.bytes, arguments.steps))
        results.add(arguments.results, rows[-1])
        print(rows[-1], flush=True)
    print(table(rows))


def prepared(case: Case) -> Setup:
    """Model, texts and the teacher's answers, from a fit that is not looked at."""
    assert isinstance(case.teacher, Path)
    heads = adaptzip.compress(case.teacher, to=REFERENCE, budget="1MB")
    fixed = writer.size(heads) - heads.payload_bytes
    request = Request(REFERENCE, Budget.parse(f"{fixed + ROOM}B"), base=case.base)
    options = DataOptions(max_tokens=case.max_tokens)
    return prepare(
        None, teacher=case.teacher, base=case.base, data=case.train, request=request, schedule=Schedule(),
        options=options,
    )  # fmt: skip


def table(rows: list[Row]) -> str:
    """The rows, in the order in which they were made."""
    lines = [
        [
            *(row.kind, f"{row.numbers:,}", f"{row.bytes:,}", f"{row.steps:,}", f"{row.kl:.3f}"),
            *(f"{100 * row.gain:.1f} %", f"{row.minutes:.1f}"),
        ]
        for row in rows
    ]
    return page.table(HEAD, lines)


if __name__ == "__main__":
    main()
