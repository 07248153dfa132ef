"""`svd`: quantised singular factors, the rate-distortion-optimal reference that every other method is held against.

The update is U S V^T. Its coordinates are the rows s_k u_k and s_k v_k: there a squared error costs the same squared
error in the update wherever it falls, so that one step for the whole adapter is the optimal allocation of bits over
components and modules (reverse water-filling; Cover and Thomas, Elements of Information Theory, section 10.3.3).
V is fitted again by least squares after U was quantised.

Where calibration gives second moments M of a module's inputs, the error is tr(E M E^T), and U S comes from the SVD of
dW M^(1/2). V stays in plain coordinates, since a decoder has no M; as M has trace `in`, an error spread evenly over a
row of V costs there what it costs without M, and one step remains right.

Where a module has a frame F, orthonormal directions of inputs that the reader knows (the random numbers that A began
with, another adapter's A, singular directions of the base weight), a row of V is coded as coordinates C in it and the
rest: V = C F^T + W. What training left of the start then costs as many numbers as the frame has directions. A basis
that adapters share knows directions G of outputs as well, and a row of U is then coded as D G^T and its rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from adaptzip.core.adapter import LoraFactors
from adaptzip.core.basis import ModuleBasis
from adaptzip.core.batching import group_by_shape
from adaptzip.core.compressed import Site, TensorSpec
from adaptzip.core.family import BASIS_U, BASIS_V
from adaptzip.core.foresight import Foresight
from adaptzip.core.linalg import factored_svd
from adaptzip.core.method import FitContext, FrameShape, Method
from adaptzip.core.sensitivity import root
from adaptzip.core.trainable import Trainable
from adaptzip.errors import UsageError
from adaptzip.methods._svd_frames import outside_by_size, placed, unit_columns_of
from adaptzip.methods._svd_rates import SvdProfile, SvdRates
from adaptzip.methods._svd_rows import unit_columns
from adaptzip.methods._svd_sums import least_squares_rows, left_out

_SMALL = 4096
"""Numbers of a fit that is worth looking at together with others."""


@dataclass(frozen=True)
class Config:
    """Options of `svd`: none is needed, since one step decides ranks and bits.

    Attributes:
        sides: whose vectors are coded in frames, where modules have them: 1 for those of inputs, 2 for those of outputs
            as well. None leaves it to the fit, and is 1 in a file.
    """

    sides: int | None = None

    def __post_init__(self) -> None:
        if self.sides is not None and (type(self.sides) is not int or self.sides not in (1, 2)):
            raise UsageError(f"sides is {self.sides!r}, expected 1 or 2")


@dataclass(frozen=True, eq=False)
class SvdFit:
    """An update as U diag(S) V^T, float32.

    Attributes:
        U: (out, k), orthonormal columns.
        S: (k,) falling: the singular values, of dW M^(1/2) where there are moments.
        V: (in, k); orthonormal columns unless there are moments.
        moments: M (in, in), or None.
        frame: F (in, r0), orthonormal columns, or None.
        out_frame: G (out, r0), alike, or None.
    """

    U: Tensor
    S: Tensor
    V: Tensor
    moments: Tensor | None = None
    frame: Tensor | None = None
    out_frame: Tensor | None = None


class Svd(Method[Config, SvdFit, SvdProfile, None], Trainable[Config]):
    """The method; see the module's description."""

    name = "svd"
    version = 1
    summary = "quantised singular factors, rate-distortion-optimal; the reference"
    paper = "Cover and Thomas, Elements of Information Theory, section 10.3.3; Fischer and Wang 1992"
    config_type = Config
    roles = ("D", "U", "C", "V")
    takes_frame = True
    same_anywhere = True
    degree = 1
    far_rate = 0.1
    grows = True

    def frame_sides(self, config: Config) -> int:
        return config.sides or 1

    def with_sides(self, config: Config, sides: int) -> Config:
        # A file of one side says nothing of it.
        return config if config.sides or sides == 1 else replace(config, sides=sides)

    def rests(self, config: Config) -> tuple[str, ...]:
        return ("V",) if self.frame_sides(config) == 1 else ("U", "V")

    def layout(self, site: Site, rank: int, config: Config) -> tuple[TensorSpec, ...]:
        U, V = TensorSpec("U", rank, site.out, directions=True), TensorSpec("V", rank, site.width)
        if not site.frame:
            return U, V
        D, C = TensorSpec("D", rank, site.frame, directions=True), TensorSpec("C", rank, site.frame)
        return (U, C, V) if self.frame_sides(config) == 1 else (D, U, C, V)

    def fit(
        self, modules: Mapping[str, LoraFactors], config: Config, prepared: None, context: FitContext
    ) -> dict[str, SvdFit]:
        fits: dict[str, SvdFit] = {}
        for names in group_by_shape(modules):
            A = torch.stack([modules[name].A for name in names])
            B = torch.stack([modules[name].B for name in names])
            scaling = torch.tensor([modules[name].scaling for name in names], device=A.device)
            U, S, Vt = factored_svd(A, B, scaling)
            fits |= {name: SvdFit(U[i], S[i], Vt[i].T) for i, name in enumerate(names)}
        for name, sensitivity in context.sensitivities.items():
            if name in fits and sensitivity.moments is not None:
                fits[name] = _under_moments(fits[name], sensitivity.moments.to(fits[name].U))
        frames = {} if context.basis is None else context.basis.modules
        both = self.frame_sides(config) == 2
        return {name: _framed(name, f, frames[name], both) if name in frames else f for name, f in fits.items()}

    def profile(self, fitted: SvdFit) -> SvdProfile:
        stretch = None if fitted.moments is None else fitted.V.double().norm(dim=0).cpu().numpy()
        bare = SvdProfile(fitted.S.double().cpu().numpy(), fitted.U.shape[0], fitted.V.shape[0], stretch)
        if fitted.frame is None:
            return bare
        inputs = outside_by_size(fitted.V, fitted.frame)
        outputs = {} if fitted.out_frame is None else outside_by_size(fitted.U, fitted.out_frame)
        size = fitted.frame.shape[1]
        return replace(bare, frame=size, outside=inputs[size], out_outside=outputs.get(size), cuts=(inputs, outputs))

    def narrower(self, profile: SvdProfile, size: int) -> dict[FrameShape, SvdProfile]:
        return profile.narrower()

    def rank(self, profile: SvdProfile, step: float) -> int:
        return int(SvdRates([profile]).ranks(step)[0])

    def foresight(self, profiles: Sequence[SvdProfile]) -> Foresight:
        return SvdRates(profiles)

    def frame_gain(self, profile: SvdProfile, step: float, most: int | None = None) -> float:
        return float(SvdRates([profile]).frame_gains(step, None if most is None else np.array([most]))[0])

    def kept_in_frame(self, profile: SvdProfile) -> list[float]:
        kept = np.square(profile.singular)
        for outside in (profile.outside, profile.out_outside):
            kept = kept if outside is None else kept * (1 - outside)
        found: list[float] = kept.tolist()
        return found

    def relative_rate(self, role: str, site: Site) -> float:
        """Coordinates in a frame are few, and as much larger: what moves a row by the same share is as well."""
        return float(np.sqrt(site.out / site.frame)) if role in ("C", "D") else 1.0

    def predict(self, profile: SvdProfile, rank: int, step: float) -> tuple[float, float]:
        bits, error = SvdRates([profile]).predict(step, np.array([rank]))
        return float(bits[0]), float(error[0])

    def target(self, fitted: SvdFit, role: str, rank: int, done: Mapping[str, Tensor]) -> Tensor:
        if role in ("D", "U"):
            rows = (fitted.U[:, :rank] * fitted.S[:rank]).T.contiguous()
            if fitted.out_frame is None:
                return rows
            return rows @ fitted.out_frame if role == "D" else rows - done["D"] @ fitted.out_frame.T
        rows = least_squares_rows(fitted.U, fitted.S, fitted.V, _out_rows(fitted, done))
        if fitted.frame is None:
            return rows
        return rows @ fitted.frame if role == "C" else rows - done["C"] @ fitted.frame.T

    def squared_error(self, fitted: SvdFit, tensors: Mapping[str, Tensor]) -> float:
        """The part of the update outside the span of U', and the difference within it; no cancellation in either."""
        left = left_out(fitted.U, fitted.S, _out_rows(fitted, tensors))
        inside = left.core @ fitted.V.T - tensors["V"]
        if fitted.frame is not None:
            inside -= tensors["C"] @ fitted.frame.T
        return float(left.squared_error(inside, fitted.moments))

    def targets(self, asked: Sequence[tuple[SvdFit, str, int, Mapping[str, Tensor]]]) -> list[Tensor]:
        """Small modules of one shape together: what takes longest of them is to ask for each."""
        found: dict[int, Tensor] = {}
        for alike in _alike([(fitted, (role, rank)) for fitted, role, rank, _ in asked]):
            fits, role = [asked[i][0] for i in alike], asked[alike[0]][1]
            if len(alike) == 1 or role == "U":
                found |= {i: self.target(*asked[i]) for i in alike}
                continue
            U = torch.stack([asked[i][3]["U"] for i in alike])
            found |= dict(zip(alike, least_squares_rows(*_stacked(fits), U), strict=True))
        return [found[i] for i in range(len(asked))]

    def squared_errors(self, coded: Sequence[tuple[SvdFit, Mapping[str, Tensor]]]) -> list[float]:
        found: dict[int, float] = {}
        for alike in _alike([(fitted, len(tensors["U"])) for fitted, tensors in coded]):
            if len(alike) == 1:
                found[alike[0]] = self.squared_error(*coded[alike[0]])
                continue
            U, S, V = _stacked([coded[i][0] for i in alike])
            left = left_out(U, S, torch.stack([coded[i][1]["U"] for i in alike]))
            inside = left.core @ V.mT - torch.stack([coded[i][1]["V"] for i in alike])
            found |= dict(zip(alike, left.squared_error(inside).tolist(), strict=True))
        return [found[i] for i in range(len(coded))]

    def reconstruct(self, tensors: Mapping[str, Tensor], site: Site, config: Config) -> tuple[Tensor, Tensor]:
        if not site.frame:
            return tensors["V"], unit_columns(tensors["U"])
        A = placed(tensors["C"], tensors[BASIS_V], tensors["V"]).to(tensors["V"].dtype)
        if self.frame_sides(config) == 1:
            return A, unit_columns(tensors["U"])
        B = unit_columns_of(placed(tensors["D"], tensors[BASIS_U], tensors["U"]))
        return A, B.to(tensors["U"].dtype)


def _alike(fits: Sequence[tuple[SvdFit, object]]) -> list[list[int]]:
    """Places of fits that are looked at together: small plain ones of one shape and one other key; others alone."""
    groups: dict[object, list[int]] = {}
    for i, (fitted, key) in enumerate(fits):
        plain = fitted.moments is None and fitted.frame is None
        small = fitted.U.numel() + fitted.V.numel() <= _SMALL
        shape = (fitted.U.shape, fitted.V.shape[0], key)
        groups.setdefault(shape if plain and small else i, []).append(i)
    return list(groups.values())


def _stacked(fits: Sequence[SvdFit]) -> tuple[Tensor, Tensor, Tensor]:
    return torch.stack([f.U for f in fits]), torch.stack([f.S for f in fits]), torch.stack([f.V for f in fits])


def _under_moments(fitted: SvdFit, moments: Tensor) -> SvdFit:
    """The same update with its components ordered by what they are worth under the moments."""
    U, S, _ = factored_svd((fitted.V.T @ root(moments))[None], (fitted.U * fitted.S)[None])
    rows = (U[0].T @ (fitted.U * fitted.S)) @ fitted.V.T
    V = rows / S[0].clamp(min=torch.finfo(S.dtype).tiny).unsqueeze(1)
    return SvdFit(U[0], S[0], torch.where(S[0].unsqueeze(1) > 0, V, 0.0).T, moments)


def _framed(name: str, fitted: SvdFit, known: ModuleBasis, both: bool) -> SvdFit:
    """A fit that is coded in known directions of inputs, and of outputs where `both` are."""
    frame = known.V.to(fitted.V)
    if not both:
        return replace(fitted, frame=frame)
    if not known.both:
        raise UsageError(
            f"module {name!r}: sides is 2, and its frame has directions of inputs alone",
            hint="drop sides, or give `basis=FILE` in place of a start",
        )
    return replace(fitted, frame=frame, out_frame=known.U.to(fitted.U))


def _out_rows(fitted: SvdFit, tensors: Mapping[str, Tensor]) -> Tensor:
    """(rank, out): rows of U as they are coded."""
    return tensors["U"] if fitted.out_frame is None else tensors["D"] @ fitted.out_frame.T + tensors["U"]


METHOD = Svd()
