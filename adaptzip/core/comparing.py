"""How far two adapters are apart, module by module, from their factors alone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor

from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.core.sensitivity import Sensitivity
from adaptzip.core.showing import Shown
from adaptzip.core.words import count, number
from adaptzip.errors import UsageError


@dataclass(frozen=True)
class ModuleDiff:
    """How far one module's updates are apart.

    Attributes:
        name: the module.
        norm: Frobenius norm of the first adapter's update dWa.
        error: Frobenius norm of dWa - dWb.
    """

    name: str
    norm: float
    error: float

    @property
    def relative_error(self) -> float | None:
        """error / norm; 0 where both updates are zero, None where only the first is."""
        return _relative(self.error, self.norm)


@dataclass(frozen=True, repr=False)
class DiffReport(Shown):
    """How far two adapters are apart.

    Attributes:
        modules: the modules of both, in the first's order.
        only_in_a: modules that the second lacks, with their norm as error.
        only_in_b: modules that the first lacks, with norm 0.
        extras_equal: extras that are bit for bit the same in both.
        extras_different: extras that differ, or that only one of them has; a module's DoRA magnitude and bias
            are among them as `<module>.magnitude` and `<module>.bias`.
        weighted_error: the relative error under the sensitivities that were given; None without.
    """

    modules: tuple[ModuleDiff, ...]
    only_in_a: tuple[ModuleDiff, ...]
    only_in_b: tuple[ModuleDiff, ...]
    extras_equal: tuple[str, ...]
    extras_different: tuple[str, ...]
    weighted_error: float | None = None

    @property
    def relative_error(self) -> float | None:
        """sqrt(sum |dWa - dWb|^2 / sum |dWa|^2) over all modules; a missing update counts as zero.

        0 where both adapters' updates are zero, None where only the first's are.
        """
        every = (*self.modules, *self.only_in_a, *self.only_in_b)
        return _relative(math.hypot(*(m.error for m in every)), math.hypot(*(m.norm for m in every)))

    @property
    def same(self) -> bool:
        """Whether no difference was found at all."""
        apart = self.only_in_a or self.only_in_b or self.extras_different
        return not apart and all(m.error == 0 for m in self.modules)

    def _told(self) -> Iterator[str]:
        error = self.relative_error
        yield "the same" if self.same else f"error {'infinite' if error is None else number(error)}"
        yield count(len(self.modules), "module")
        yield f"{len(self.only_in_a)} only in the first" if self.only_in_a else ""
        yield f"{len(self.only_in_b)} only in the second" if self.only_in_b else ""
        yield f"{count(len(self.extras_different), 'extra')} different" if self.extras_different else ""

    def _rows(self) -> tuple[Sequence[str], Iterator[Sequence[str]]]:
        every = (*self.modules, *self.only_in_a, *self.only_in_b)
        errors = ((m.name, number(m.norm), m.relative_error) for m in every)
        rows = ((name, norm, "infinite" if error is None else number(error)) for name, norm, error in errors)
        return ("module", "norm", "relative error"), rows

    def as_dict(self) -> dict[str, object]:
        """The report as JSON values."""
        return {
            "relative_error": self.relative_error,
            "weighted_error": self.weighted_error,
            "same": self.same,
            "modules": [
                {"name": m.name, "norm": m.norm, "error": m.error, "relative_error": m.relative_error}
                for m in self.modules
            ],
            "only_in_a": [m.name for m in self.only_in_a],
            "only_in_b": [m.name for m in self.only_in_b],
            "extras_equal": list(self.extras_equal),
            "extras_different": list(self.extras_different),
        }


def diff(a: Adapter, b: Adapter, sensitivities: Mapping[str, Sensitivity] | None = None) -> DiffReport:
    """Compare the updates and extras of two adapters.

    The updates are never formed: with QR of the stacked factors, [s_a B_a, -s_b B_b] = Q R and
    [A_a; A_b]^T = Q' R', the norm of the difference is that of R R'^T. In float64 a relative error is exact
    to about 1e-15, where a difference of squared norms would lose all below 1e-8. Equal factors give 0.

    Args:
        a: the reference.
        b: what is compared with it.
        sensitivities: how much each module's error matters, from calibration, for `weighted_error`.

    Raises:
        UsageError: if a module has another shape in one than in the other.
    """
    both = [name for name in a.modules if name in b.modules]
    modules = tuple(_compare(name, a.modules[name], b.modules[name]) for name in both)
    only_in_a = tuple(_alone(n, m, is_first=True) for n, m in a.modules.items() if n not in b.modules)
    only_in_b = tuple(_alone(n, m, is_first=False) for n, m in b.modules.items() if n not in a.modules)
    extras_a, extras_b = _extras(a), _extras(b)
    equal = [k for k, tensor in extras_a.items() if k in extras_b and same_bits(tensor, extras_b[k])]
    different = sorted((extras_a.keys() | extras_b.keys()) - set(equal))
    weighted = None if sensitivities is None else weighted_error(a, b, sensitivities)
    return DiffReport(modules, only_in_a, only_in_b, tuple(equal), tuple(different), weighted)


def _compare(name: str, a: LoraFactors, b: LoraFactors) -> ModuleDiff:
    if a.shape != b.shape:
        raise UsageError(
            f"module {name} is {list(a.shape)} in one adapter and {list(b.shape)} in the other",
            hint="compare adapters of the same base model",
        )
    if a.scaling == b.scaling and same_bits(a.A, b.A) and same_bits(a.B, b.B):
        return ModuleDiff(name, _alone(name, a, is_first=True).norm, 0.0)
    (B, A), (B2, A2) = _factors(a), _factors(b)
    left = _triangle(torch.cat([B, -B2], dim=1))
    right = _triangle(torch.cat([A, A2]).T)
    first = slice(a.rank)
    return ModuleDiff(name, _norm(left[:, first] @ right[:, first].T), _norm(left @ right.T))


def _alone(name: str, module: LoraFactors, *, is_first: bool) -> ModuleDiff:
    norm = _norm(_triangle(module.B.double() * module.scaling) @ _triangle(module.A.double().T).T)
    return ModuleDiff(name, norm if is_first else 0.0, norm)


def _triangle(matrix: Tensor) -> Tensor:
    """R of the QR decomposition, (min(rows, columns), columns)."""
    triangle: Tensor = torch.linalg.qr(matrix, mode="r").R
    return triangle


def _norm(matrix: Tensor) -> float:
    return float(torch.linalg.matrix_norm(matrix))


def _relative(error: float, norm: float) -> float | None:
    if norm == 0:
        return 0.0 if error == 0 else None
    return error / norm


def _extras(adapter: Adapter) -> Mapping[str, Tensor]:
    """The extras, with what a module holds besides its factors."""
    found = dict(adapter.extras)
    for name, module in adapter.modules.items():
        for what, tensor in (("magnitude", module.magnitude), ("bias", _bias(module))):
            if tensor is not None:
                found[f"{name}.{what}"] = tensor
    return found


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors on any device have one dtype, one shape and the same bits: NaN equals NaN, 0 does not equal
    -0."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return torch.equal(*(t.detach().cpu().contiguous().reshape(-1).view(torch.uint8) for t in (a, b)))


def _bias(module: LoraFactors) -> Tensor | None:
    """What a module adds to the base bias."""
    if module.bias is None or module.scaling == 1.0:
        return module.bias
    return module.bias.float() * module.scaling


def weighted_error(teacher: Adapter, student: Adapter, sensitivities: Mapping[str, Sensitivity]) -> float:
    """sqrt(sum of weight tr(E M E^T) / sum of weight tr(dW M dW^T)), E = dW - dW', over the teacher's modules.

    From the factors, in float64; modules without a sensitivity count with weight 1 and M = I.
    """
    error = energy = 0.0
    for name, module in teacher.modules.items():
        sensitivity = sensitivities.get(name, Sensitivity())
        other = student.modules.get(name)
        B, A = _factors(module)
        energy += sensitivity.weight * _energy(B, A, sensitivity.moments)
        if other is not None:
            B2, A2 = _factors(other)
            B, A = torch.cat([B, -B2], 1), torch.cat([A, A2])
        error += sensitivity.weight * _energy(B, A, sensitivity.moments)
    return sqrt(error / energy) if energy > 0 else 0.0


def _factors(module: LoraFactors) -> tuple[Tensor, Tensor]:
    # What is compared may have come from a GPU, while what is decoded has not.
    return module.B.detach().cpu().double() * module.scaling, module.A.detach().cpu().double()


def _energy(B: Tensor, A: Tensor, moments: Tensor | None) -> float:
    """tr(B A M A^T B^T), by a QR of B so that a small difference of two updates does not cancel in a Gram matrix."""
    core = torch.linalg.qr(B)[1] @ A
    seen = core if moments is None else core @ moments.cpu().double()
    return max(0.0, float((seen * core).sum()))


def products(
    teacher: Adapter, student: Adapter, sensitivities: Mapping[str, Sensitivity] | None = None
) -> tuple[float, float, float]:
    """(|dW|^2, <dW, dW'>, |dW'|^2) over the teacher's modules, dW the teacher's; weighed as by `weighted_error`."""
    found = [0.0, 0.0, 0.0]
    for name, module in teacher.modules.items():
        sensitivity = (sensitivities or {}).get(name, Sensitivity())
        pair = [_factors(one) for one in (module, student.modules.get(name)) if one is not None]
        moments = None if sensitivity.moments is None else sensitivity.moments.cpu().double()
        seen = [A if moments is None else A @ moments for _, A in pair]
        for place, (i, j) in enumerate(((0, 0), (0, 1), (1, 1))):
            if j < len(pair):
                product = (pair[i][0].T @ pair[j][0]) * (seen[i] @ pair[j][1].T)
                found[place] += sensitivity.weight * float(product.sum())
    return found[0], found[1], found[2]
