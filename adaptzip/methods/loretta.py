"""`loretta`: tensor trains of an update's two singular factors (Yang et al. 2024), quantised in the update's units.

The outputs' width and the inputs' width are folded into modes of about 8. The update is one chain of cores over all
modes (TT-LoRA, Anjum et al. 2024), or two trains joined at the LoRA rank (LoRETTA_rep): the same chain, with the bond
in the middle left whole. Cores on both sides have orthonormal columns, which are stored as directions scaled by the
singular values of their bonds; the last core carries the norm. So a squared error costs the same wherever it falls,
and one step serves all cores. Each core is fitted again to what those before it became.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from operator import mul
from typing import Literal

import torch
from torch import Tensor

from adaptzip.core.adapter import LoraFactors
from adaptzip.core.batching import group_by_shape
from adaptzip.core.compressed import Site, TensorSpec
from adaptzip.core.linalg import factored_svd
from adaptzip.core.method import FitContext, Method
from adaptzip.core.survey import Allowance, Candidate, Survey
from adaptzip.core.trainable import Trainable
from adaptzip.errors import UsageError
from adaptzip.methods._train_profile import TrainProfile
from adaptzip.methods._trains import Half, Shape, chain_shape, contract, factorise, spectra
from adaptzip.methods._trains.chains import largest_rank
from adaptzip.methods._trains.ladders import MIDDLE, Bond, Floats, Ladder, ladder
from adaptzip.methods._trains.updates import Frame, fit_chain, frame_of, next_core, pseudo_inverse, right_rows

_MEASURED = (1, 2, 4, 8, 16, 32, 64)
"""TT ranks at which a fit measures what the chain keeps; between them it is estimated."""
_MEASURED_SMALL = (*range(1, 17), 20, 24, 28, 32, 40, 48, 56, 64)
"""The same for updates of at most `_SMALL` numbers in both factors."""
_SMALL = 65536


@dataclass(frozen=True)
class Config:
    """Options of `loretta`.

    Attributes:
        order: "delta": one train over the whole update. "rep": a train for either factor, joined at the whole LoRA
            rank. None: both are tried.
        rank: largest TT rank of a bond; None leaves it to the budget.
        tolerance: relative error that a chain may have before it is quantised; the TT rank is at most what this
            takes. None sets no such bound.
        sweeps: rounds of alternating least squares after TT-SVD.
        lora_rank: most directions of the bond in the middle; None: the adapter's largest rank.
    """

    order: Literal["delta", "rep"] | None = None
    rank: int | None = None
    tolerance: float | None = None
    sweeps: int = 5
    lora_rank: int | None = None

    def __post_init__(self) -> None:
        if self.order not in (None, "delta", "rep"):
            raise UsageError(f"order is {self.order!r}, expected delta or rep")
        for name, least in (("rank", 1), ("lora_rank", 1), ("sweeps", 0)):
            value = getattr(self, name)
            if name == "sweeps" and value is None or value is not None and (type(value) is not int or value < least):
                raise UsageError(f"{name} is {value!r}, expected a whole number of at least {least}")
        if self.tolerance is not None and not (isinstance(self.tolerance, float) and 0 < self.tolerance < 1):
            raise UsageError(f"tolerance is {self.tolerance!r}, expected a relative error between 0 and 1")

    @property
    def whole(self) -> bool:
        """Whether the bond in the middle is kept whole."""
        return self.order == "rep"


@dataclass(eq=False)
class TrainFit:
    """One update U S V^T: B = U S (1, out, k) and W = V (1, in, k), float32 on the device, and its profile.

    It remembers, in `frames`, the frame of the TT rank that was asked for last.
    """

    B: Tensor
    W: Tensor
    profile: TrainProfile
    sweeps: int
    frames: dict[int, Frame] = field(default_factory=dict)

    def shape(self, rank: int) -> Shape:
        return self.profile.ladder.shapes[rank - 1]

    def frame(self, rank: int) -> Frame:
        """What the cores are fitted against at a TT rank."""
        if rank not in self.frames:
            self.frames.clear()
            self.frames[rank] = frame_of(
                self.B, self.W, fit_chain(self.B, self.W, self.shape(rank), sweeps=self.sweeps)
            )
        return self.frames[rank]


class Loretta(Method[Config, TrainFit, TrainProfile, None], Trainable[Config]):
    """The method; see the module's description."""

    name = "loretta"
    version = 1
    summary = "tensor trains of the factors or of the whole update"
    paper = "Yang, Zhou, Wong and Zhang 2024 (LoRETTA, arXiv:2402.11417); Anjum et al. 2024 (TT-LoRA, arXiv:2408.01008)"
    config_type = Config
    roles = ("core",)
    degree = 1
    spans_modules = True

    def candidates(self, survey: Survey, config: Config, allowance: Allowance) -> Sequence[Candidate[Config]]:
        """Both orders where none is given; they differ only below the LoRA rank, so "rep" is left out where the TT
        rank is free to rise above it."""
        if config.order is not None:
            return (Candidate(config),)
        capped = allowance.parameters is not None or config.rank is not None or config.tolerance is not None
        orders: tuple[Literal["delta", "rep"], ...] = ("delta", "rep") if capped else ("delta",)
        return tuple(Candidate(replace(config, order=order)) for order in orders)

    def prepare(self, modules: Mapping[str, LoraFactors], config: Config, context: FitContext) -> tuple[Config, None]:
        """Settle the LoRA rank of the middle bond, and the order."""
        largest = max(min(module.rank, *module.shape) for module in modules.values())
        return replace(config, order=config.order or "delta", lora_rank=min(largest, config.lora_rank or largest)), None

    def fit(
        self, modules: Mapping[str, LoraFactors], config: Config, prepared: None, context: FitContext
    ) -> dict[str, TrainFit]:
        fits: dict[str, TrainFit] = {}
        for names in group_by_shape(modules):
            A = torch.stack([modules[name].A for name in names])
            B = torch.stack([modules[name].B for name in names])
            scaling = torch.tensor([modules[name].scaling for name in names], device=A.device)
            U, S, Vt = factored_svd(A, B, scaling)
            caps = [None if context.ranks is None else context.ranks.get(name) for name in names]
            fits |= dict(zip(names, _fit_batch(U * S.unsqueeze(1), Vt.mT, S, caps, config), strict=True))
        return fits

    def profile(self, fitted: TrainFit) -> TrainProfile:
        return fitted.profile

    def rank(self, profile: TrainProfile, step: float) -> int:
        return profile.best_rank(step)

    def predict(self, profile: TrainProfile, rank: int, step: float) -> tuple[float, float]:
        if not rank:
            return 0.0, profile.energy
        bits, error = profile.costs((rank,), step)
        return float(bits[0]), float(error[0])

    def max_rank(self, site: Site, config: Config) -> int:
        return largest_rank(site.out, site.width, _middle(site, config))

    def factor_rank(self, site: Site, rank: int, config: Config) -> int:
        return chain_shape(site.out, site.width, rank, _middle(site, config), whole=config.whole).middle

    def layout(self, site: Site, rank: int, config: Config) -> tuple[TensorSpec, ...]:
        """The cores of the outputs' side, then those of the inputs', each from its far end; only the last is real."""
        shape = chain_shape(site.out, site.width, rank, _middle(site, config), whole=config.whole)
        sizes = [*shape.out.shapes, *shape.width.shapes]
        return tuple(
            TensorSpec(f"core.{i}", right, left * mode, directions=i < len(sizes) - 1)
            for i, (left, mode, right) in enumerate(sizes)
        )

    def target(self, fitted: TrainFit, role: str, rank: int, done: Mapping[str, Tensor]) -> Tensor:
        shape, frame, index = fitted.shape(rank), fitted.frame(rank), int(role.rpartition(".")[2])
        count = len(shape.out.modes)
        out = _cores(shape.out, done, 0, min(index, count))
        if index < count:
            core = next_core(frame.projected, out, frame.out[index:], shape.out.modes[index])
        else:
            projected = fitted.W @ (pseudo_inverse(contract(out)) @ fitted.B).mT
            width = _cores(shape.width, done, count, index - count)
            right = right_rows(projected, frame.width)[index - count :]
            core = next_core(projected, width, right, shape.width.modes[index - count])
        return core[0].T.contiguous()

    def squared_error(self, fitted: TrainFit, tensors: Mapping[str, Tensor]) -> float:
        """The part of the update outside the span of the outputs' side, and the difference within it."""
        left, right = (side[None].to(fitted.B.dtype) for side in _sides(tensors, fitted.B.shape[1]))
        core = pseudo_inverse(left) @ fitted.B
        outside = fitted.B - left @ core
        inside = core @ fitted.W.mT - right.mT
        gram = (left.mT @ left).double() * (inside @ inside.mT).double()
        return float(outside.double().square().sum() + gram.sum())

    def reconstruct(self, tensors: Mapping[str, Tensor], site: Site, config: Config) -> tuple[Tensor, Tensor]:
        """A = V'^T and B = U', contracted in float64 and rounded once."""
        left, right = _sides({role: tensor.double() for role, tensor in tensors.items()}, site.out)
        return right.T.float().contiguous(), left.float()


def _middle(site: Site, config: Config) -> int:
    return min(site.out, site.width, config.lora_rank or min(site.out, site.width))


def _fit_batch(B: Tensor, W: Tensor, S: Tensor, caps: Sequence[int | None], config: Config) -> list[TrainFit]:
    """Fits of updates of one shape, B (n, out, k) and W (n, in, k), singular values S (n, k)."""
    out, width = B.shape[1], W.shape[1]
    middle = _middle(Site(out, width), config)
    # Zeros up to the middle bond: the file has one LoRA rank for all modules.
    B, W, S = (torch.nn.functional.pad(t, (0, max(0, middle - S.shape[1]))) for t in (B, W, S))
    every = ladder(out, width, middle, whole=config.whole, most=config.rank)
    bonds = _spectra(B, W, S)
    energy = S.double().square().sum(1).cpu().numpy()
    candidates = _MEASURED_SMALL if B[0].numel() + W[0].numel() <= _SMALL else _MEASURED
    ranks = sorted({*(r for r in candidates if r < len(every.shapes)), len(every.shapes)})
    chains = [fit_chain(B, W, every.shapes[r - 1], sweeps=config.sweeps).energy.cpu().numpy() for r in ranks]
    fits = []
    for i, cap in enumerate(caps):
        own = {bond: values[i] for bond, values in bonds.items()}
        measured = {r: min(1.0, float(c[i] / max(energy[i], 1e-300))) for r, c in zip(ranks, chains, strict=True)}
        kept = every.corrected(every.kept(own), measured)
        most = _most(kept, cap, config.tolerance)
        profile = TrainProfile(float(energy[i]), own, _upto(every, most), kept[:most])
        fits.append(TrainFit(B[i : i + 1], W[i : i + 1], profile, config.sweeps))
    return fits


def _most(kept: Floats, cap: int | None, tolerance: float | None) -> int:
    """The largest TT rank: at most the cap, and no more than the tolerance takes."""
    most = min(len(kept), max(1, cap) if cap is not None else len(kept))
    if tolerance is None:
        return most
    return min(most, int((kept < 1 - tolerance**2).sum()) + 1)


def _upto(whole: Ladder, most: int) -> Ladder:
    if most >= len(whole.shapes):
        return whole
    return Ladder(whole.shapes[:most], whole.numbers[:most], whole.bonds, whole.ranks[:most])


def _spectra(B: Tensor, W: Tensor, S: Tensor) -> dict[Bond, Floats]:
    """Singular values (n, any) of every bond that a chain of these updates can have."""
    n, _, rank = B.shape
    found: dict[Bond, Floats] = {MIDDLE: S.double().cpu().numpy()}
    for side, factor in (("out", B), ("width", W * S.unsqueeze(1))):
        modes = factorise(factor.shape[1])
        products = list(accumulate(modes, mul))[:-1]
        values = spectra(factor.reshape(n, -1), (*modes, rank))
        found |= {(side, product): v.cpu().numpy() for product, v in zip(products, values, strict=False)}  # type: ignore[misc]
    return found


def _cores(half: Half, tensors: Mapping[str, Tensor], first: int, count: int) -> list[Tensor]:
    """The first `count` cores of a side of orthonormal columns, whose roles begin at `first`."""
    return [
        _unit(tensors[f"core.{first + i}"]).T.reshape(1, left, mode, right)
        for i, (left, mode, right) in enumerate(half.shapes[:count])
    ]


def _unit(rows: Tensor) -> Tensor:
    """Rows of unit length; zero rows stay zero, and have no gradient."""
    squares = rows.double().square().sum(1, keepdim=True)
    norm = torch.where(squares > 0, squares, 1.0).sqrt().to(rows.dtype)
    return torch.where(squares > 0, rows / norm, 0.0)


def _sides(tensors: Mapping[str, Tensor], out: int) -> tuple[Tensor, Tensor]:
    """U' (out, r) and V' (in, r) from stored cores; the side of the outputs ends where its modes multiply to `out`."""
    count = sum(role.startswith("core.") for role in tensors)
    cores: list[Tensor] = []
    split, left, product = 0, 1, 1
    for i in range(count):
        stored = tensors[f"core.{i}"]
        rows = _unit(stored) if i < count - 1 else stored
        right, mode = len(rows), rows.shape[1] // left
        cores.append(rows.T.reshape(1, left, mode, right))
        left, product = right, product * mode
        if not split and product == out:
            split, left = i + 1, 1
    return contract(cores[:split])[0], contract(cores[split:])[0]


METHOD = Loretta()
