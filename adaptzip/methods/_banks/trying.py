"""Settings of a bank for many adapters: tried on a part of the sample, and judged by adapters outside that part.

What spectra foretell of one adapter's bank leaves out what a fleet's bank is for, pieces that adapters have in common.
So each setting is measured against the bits that independent Gaussian numbers of these spectra would take for its error
(reverse water-filling; Cover and Thomas, Elements of Information Theory, section 10.3.3), and the one that saves most
is taken.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import gcd, sqrt

import numpy as np
import torch
from numpy.typing import NDArray

from adaptzip.core.adapter import LoraFactors
from adaptzip.errors import CheckFailedError
from adaptzip.methods._banks.codes import piece_count
from adaptzip.methods._banks.factors import groups, squared_errors
from adaptzip.methods._banks.fit import Shape, fit_bank
from adaptzip.methods._banks.fleet import Sample, coded_groups
from adaptzip.methods._banks.refining import decoded
from adaptzip.methods._banks.search import Setting, piece_bits

_NUMBERS = 2**18
"""Numbers of the factors that settings are tried on."""
_KEPT = 0.9975
"""Share of the energy that the rank keeps: what it leaves out is a relative error of 0.05."""
_FAR = 0.4
"""Settings of a larger relative error are not compared with others."""
_LEAST_LENGTH, _LENGTHS = 4, 6
_SIZES = (1, 4)
"""What the largest bank that is tried of a length is divided by."""
_PER_VECTOR = 3
"""Pieces for each vector of the largest bank."""
_LARGEST = 2**14
_PRODUCTS = 2**26
"""Pieces times vectors."""
_OTHERS = 4
"""One adapter in so many judges."""
_BANK_BITS = 5.0
"""Bits of a number in a bank, about."""
_MIXED = 2


@dataclass(frozen=True)
class _Judged:
    """A setting, the relative error that it leaves of other adapters, and its bits as a share of Gaussian ones."""

    setting: Setting
    error: float
    share: float


def settled(sample: Sample, wanted: Setting, levels: int, memory: float, device: torch.device) -> Setting:
    """The settings with all that is open decided.

    Args:
        levels: weights of mixtures are multiples of 1 / levels.
        memory: bytes of dense logits that an adapter of mean size may have in PEFT.

    Raises:
        CheckFailedError: if no bank has so few logits.
    """
    wanted = replace(wanted, rank=wanted.rank or _rank(sample, device), top_k=wanted.top_k or _MIXED)
    if wanted.length and wanted.vectors:
        return wanted
    fitted, judges = _parts(sample)
    shapes = list(_shapes(sample, fitted, wanted, memory))
    if not shapes:
        raise CheckFailedError(
            f"PEFT would need more than the {memory / 2**30:.3g} GiB of the option memory for the dense logits",
            hint="use a smaller rank or longer vectors, or allow more with `memory=GIB`",
        )
    if len(shapes) == 1:
        return shapes[0]
    judged = [_judged(shape, sample, fitted, judges, levels, device) for shape in shapes]
    near = [one for one in judged if one.error <= _FAR]
    return (min(near, key=lambda one: one.share) if near else min(judged, key=lambda one: one.error)).setting


def _rank(sample: Sample, device: torch.device) -> int:
    """The smallest rank for all modules that keeps `_KEPT` of the energy."""
    kept = np.zeros(1)
    for energies in _spectra(sample.modules, sample.weights, device).values():
        size = max(len(kept), len(energies))
        kept = np.pad(kept, (0, size - len(kept))) + np.pad(energies, (0, size - len(energies)))
    return 1 + int(np.searchsorted(kept.cumsum(), _KEPT * kept.sum()))


def _spectra(
    modules: Mapping[str, LoraFactors], weights: Mapping[str, float], device: torch.device
) -> dict[str, NDArray[np.float64]]:
    """Weighted squares of each module's singular values."""
    return {
        name: group.S[i].double().square().cpu().numpy() * weights[name]
        for group in groups(modules, dict.fromkeys(modules, 1), weights, device)
        for i, name in enumerate(group.names)
    }


def _parts(sample: Sample) -> tuple[dict[str, LoraFactors], dict[str, LoraFactors]]:
    """Modules to fit to, and modules of other adapters to judge by; of a single adapter the same."""
    few, left = {}, _NUMBERS
    for name, module in sample.modules.items():
        if left > 0:
            few[name] = module
            left -= module.parameters
    numbers = sorted({int(name.partition("/")[0]) for name in few})
    others = set(numbers[_OTHERS - 1 :: _OTHERS])
    judges = {name: module for name, module in few.items() if int(name.partition("/")[0]) in others}
    fitted = {name: module for name, module in few.items() if name not in judges}
    return (fitted, judges) if judges else (few, few)


def _shapes(sample: Sample, fitted: Mapping[str, LoraFactors], wanted: Setting, memory: float) -> Iterator[Setting]:
    """The settings that are tried."""
    for length in (wanted.length,) if wanted.length else _lengths(sample.modules):
        setting = replace(wanted, length=length)
        pieces = _pieces(fitted, setting)
        own = _pieces(sample.modules, setting) / max(sample.share * sample.adapters, 1e-9)
        most = min(pieces // _PER_VECTOR, _LARGEST, _PRODUCTS // max(pieces, 1), int(memory / (4 * own)))
        least = (wanted.top_k or 1) + 1
        sizes = {wanted.vectors} if wanted.vectors else {max(least, most // part) for part in _SIZES}
        for h in sorted(sizes):
            if 4 * own * h <= memory:
                yield replace(setting, vectors=h)


def _lengths(modules: Mapping[str, LoraFactors]) -> list[int]:
    """Lengths that divide all widths, which PEFT needs, or powers of two where widths share no divisor."""
    common = gcd(*(size for module in modules.values() for size in module.shape))
    widest = max(size for module in modules.values() for size in module.shape)
    found = [size for size in range(_LEAST_LENGTH, common + 1) if common % size == 0]
    found = found or [2**i for i in range(2, widest.bit_length())] or [1]
    places = np.unique(np.linspace(0, len(found) - 1, _LENGTHS).round().astype(int))
    return [found[i] for i in places]


def _pieces(modules: Mapping[str, LoraFactors], setting: Setting) -> int:
    rank, length = setting.rank or 1, setting.length or 1
    return sum(rank * sum(piece_count(size, length) for size in module.shape) for module in modules.values())


def _judged(
    setting: Setting,
    sample: Sample,
    fitted: Mapping[str, LoraFactors],
    judges: Mapping[str, LoraFactors],
    levels: int,
    device: torch.device,
) -> _Judged:
    rank, length, h, k = setting.rank or 1, setting.length or 1, setting.vectors or 1, setting.top_k or 1
    shape = Shape(h, length, k, levels)
    found = list(groups(fitted, dict.fromkeys(fitted, rank), sample.weights, device))
    bank = torch.nn.functional.pad(fit_bank(found, replace(shape, h=h - 1), 0).bank, (0, 0, 0, 1))
    others = list(groups(judges, dict.fromkeys(judges, rank), sample.weights, device))
    coded = coded_groups(others, bank, shape, levels)
    left = sum(
        float((squared_errors(g, *decoded(g, c, bank)) * g.weight).sum()) for g, c in zip(others, coded, strict=True)
    )
    energy = sum(float((g.energy * g.weight).sum()) for g in others)
    share = sum(module.parameters for module in judges.values()) / sample.numbers
    bits = _pieces(judges, setting) * piece_bits(h, k, levels) + share * h * length * _BANK_BITS
    spectra = _spectra(judges, sample.weights, device)
    plain = _gaussian_bits([(spectra[name], sum(judges[name].shape)) for name in spectra], left)
    return _Judged(setting, sqrt(left / energy), bits / max(plain, 1e-9))


def _gaussian_bits(components: Sequence[tuple[NDArray[np.float64], int]], error: float) -> float:
    """Bits of components of these energies, each of so many numbers, at a squared error of all together."""
    energies = np.concatenate([energy for energy, _ in components])
    numbers = np.concatenate([np.full(len(energy), float(count)) for energy, count in components])
    low, high = 0.0, float((energies / numbers).max())
    for _ in range(60):
        level = (low + high) / 2
        low, high = (level, high) if np.minimum(energies, level * numbers).sum() < error else (low, level)
    kept = energies > high * numbers
    return float((numbers[kept] / 2 * np.log2(energies[kept] / (max(high, 1e-300) * numbers[kept]))).sum())
