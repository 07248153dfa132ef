"""From trained tensors to bytes: the file's own quantiser, and the step at which a file keeps to its budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import nan, sqrt

from torch import Tensor

from adaptzip.adz.coding.coders import AnyCoder
from adaptzip.adz.coding.modules import CodedModule, code_as_they_are, rounded
from adaptzip.core.compressed import TensorSpec
from adaptzip.distillation.tensors import Place, Tensors, trained_places
from adaptzip.errors import CheckFailedError, NoRoomError
from adaptzip.fitting.fits import NOTHING_CODED, CodedAdapter
from adaptzip.fitting.steps import FINEST_ERROR, GRAIN, round_step

_LEFT = 0.008
"""A file that leaves no more than this share of its room is large enough."""
_FINE = 1.003
"""Steps that are closer than this, as a ratio, are not told apart."""
_MOST_TRIES = 24
_STRIDE = 1.6


@dataclass(frozen=True, eq=False)
class Written:
    """Tensors coded at a step.

    Attributes:
        coded: blocks as a file holds them; their squared errors are not measured.
        tensors: what they decode to.
        size: bytes of the whole file.
    """

    step: float
    coded: CodedAdapter
    tensors: Tensors
    size: int


def code(coder: AnyCoder, tensors: Tensors, step: float) -> tuple[CodedAdapter, Tensors]:
    """Code all tensors at `step`: the blocks, and what they decode to.

    Raises:
        CheckFailedError: if the step is so small that levels overflow the format.
    """
    method = coder.method
    shared_layout = method.shared_layout(coder.config)
    layouts = {name: method.layout(coder.sites[name], rank, coder.config) for name, rank in tensors.ranks.items()}
    most = max(coder.max_rank, 1)
    blocks = [(int(bool(shared_layout)), 1, shared_layout, _targets(shared_layout, tensors.shared))]
    blocks += [(tensors.ranks[n], most, layout, _targets(layout, tensors.modules[n])) for n, layout in layouts.items()]
    shared, *own = code_as_they_are(blocks, step)
    found = dict(zip(layouts, own, strict=True))
    modules = {name: CodedModule(b.chunk, nan, b.numbers, tensors.ranks[name], b.blocks) for name, b in found.items()}
    decoded = Tensors(dict(shared.tensors), {name: dict(b.tensors) for name, b in found.items()}, tensors.ranks)
    return CodedAdapter(shared, modules), decoded


def as_decoded(trained: Mapping[Place, Tensor], step: float) -> dict[Place, Tensor]:
    """Each tensor as the file's quantiser leaves it.

    Raises:
        CheckFailedError: as `code`.
    """
    values = rounded([tensor.detach() for tensor in trained.values()], step)
    return dict(zip(trained, values, strict=True))


def fill(
    coder: AnyCoder, tensors: Tensors, size_of: Callable[[float, CodedAdapter], int], limit: int, guess: float
) -> Written:
    """The smallest step, about, at which the file takes at most `limit` bytes, and not finer than is of any use.

    Args:
        size_of: bytes of the whole file for blocks coded at a step.
        guess: the step to begin with.

    Raises:
        NoRoomError: if no step does, or only one that leaves nothing but zeros.
    """
    best: Written | None = None
    room = limit - size_of(round_step(guess), NOTHING_CODED)
    finest = _finest(coder, tensors)
    low, high, step = 0.0, 0.0, max(guess, finest)
    for _ in range(_MOST_TRIES):
        written = _try(coder, tensors, size_of, round_step(step))
        if written is not None and written.size <= limit:
            high = step
            if best is None or written.step < best.step:
                best = written
            if limit - written.size <= max(_LEFT * room, GRAIN / 4) or step <= finest:
                break
        else:
            low = step
        if low and high and high / low < _FINE:
            break
        step = sqrt(low * high) if low and high else step * _STRIDE if low else max(step / _STRIDE, finest)
    if best is None or (finest and not _finest(coder, best.tensors)):
        least = _least(coder, tensors, size_of)
        raise NoRoomError(
            f"no step was found at which the file takes at most {limit} bytes",
            hint="allow more bytes" if least is None else f"allow at least {least}B",
            least=least,
        )
    return best


def _least(coder: AnyCoder, tensors: Tensors, size_of: Callable[[float, CodedAdapter], int]) -> int | None:
    """Bytes of the file at the coarsest step that leaves any number, about; None if none does."""
    step = sqrt(sum(float(tensor.detach().double().square().sum()) for _, tensor in tensors.items()))
    for _ in range(_MOST_TRIES):
        written = _try(coder, tensors, size_of, round_step(step)) if step else None
        if written is not None and _finest(coder, written.tensors):
            return written.size
        step /= _STRIDE
    return None


def _finest(coder: AnyCoder, tensors: Tensors) -> float:
    """The step at which next to no error is left; 0 if all numbers are."""
    every = dict(tensors.items())
    real = [every[place].detach() for place in trained_places(coder, tensors)]
    mean = float(sum(tensor.double().square().sum() for tensor in real)) / max(1, sum(t.numel() for t in real))
    return 2 * FINEST_ERROR * sqrt(mean)


def _try(
    coder: AnyCoder, tensors: Tensors, size_of: Callable[[float, CodedAdapter], int], step: float
) -> Written | None:
    """None where levels overflow."""
    try:
        coded, decoded = code(coder, tensors, step)
    except CheckFailedError:
        return None
    return Written(step, coded, decoded, size_of(step, coded))


def _targets(layout: Sequence[TensorSpec], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors as they are coded: shares of a simplex as whole numbers of its bound."""
    return {
        spec.role: (tensors[spec.role].detach() * spec.bound).round().long()
        if spec.kind == "simplex"
        else tensors[spec.role].detach()
        for spec in layout
    }
