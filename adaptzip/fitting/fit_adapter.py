"""Fitting every module of an adapter by one method."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice

from adaptzip.adz.coding.coders import Coder
from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.core.batching import over_batches
from adaptzip.core.family import MethodConfig
from adaptzip.core.gains import LIMIT, divisor, gain_index
from adaptzip.core.method import AnyMethod, FitContext, Profile
from adaptzip.core.progress import Progress, share_of
from adaptzip.core.sensitivity import Sensitivity
from adaptzip.core.survey import Survey
from adaptzip.core.workers import on_one_core
from adaptzip.fitting.fits import FittedAdapter
from adaptzip.fitting.surveys import framed_sites, survey_of

KEPT_NUMBERS = 12_000_000
"""Fits of adapters up to this size stay in memory; larger ones are fitted again for every pass."""


@on_one_core()
def fit_adapter(
    method: AnyMethod,
    config: MethodConfig,
    adapter: Adapter,
    context: FitContext,
    *,
    survey: Survey | None = None,
    progress: Progress | None = None,
) -> FittedAdapter:
    """Fit every module, keeping the fits of small adapters and summaries of all.

    Args:
        survey: of the adapter, where one was made already.
        progress: told how far it is (`adaptzip.core.progress.Progress`).
    """
    modules = adapter.modules
    gains = _gains(context.sensitivities, modules) if method.gained else {}
    if method.gained:
        unweighted = {name: replace(s, weight=1.0) for name, s in context.sensitivities.items()}
        context = replace(context, sensitivities=unweighted)
    if progress is not None:
        context = replace(context, progress=share_of(progress, "preparing"))
    sites = framed_sites(adapter, method, context)
    context = replace(context, sites=sites)
    prepared: object = None
    if method.spans_modules:
        alive = (survey or survey_of(adapter, context.device)).singular
        nonzero = {name: _gained(modules[name], gains.get(name, 0)) for name in modules if len(alive[name])}
        if nonzero:
            config, prepared = method.prepare(nonzero, config, context)
            modules = {name: modules[name] for name in nonzero}
        else:
            modules = {}
    coder = Coder(method, config, sites, 0, context.basis)
    bare = FittedAdapter(coder, prepared, context, adapter, gains, {}, {}, ())
    return _fitted(bare, list(modules), small=adapter.parameters <= KEPT_NUMBERS, progress=progress)


def _fitted(bare: FittedAdapter, names: list[str], *, small: bool, progress: Progress | None) -> FittedAdapter:
    """Fit the modules called `names`."""
    found: dict[str, Profile] = {}
    kept: dict[str, object] = {}

    def fit(batch: list[str]) -> tuple[dict[str, Profile], dict[str, object]]:
        fits = bare.fit_of(batch)
        return {name: bare.method.profile(fitted) for name, fitted in fits.items()}, fits if small else {}

    for part, fits in over_batches(fit, names, bare.adapter.modules, bare.context.device):
        found |= part
        kept |= fits
        if progress is not None:
            progress("fitting", len(found), len(names))
    profiles = {name: profile for name, profile in sorted(found.items()) if profile.energy > 0}
    sample = _sample(list(profiles), bare, kept=small)
    coder = replace(bare.coder, max_rank=max((len(p.scores) for p in profiles.values()), default=0))
    return replace(bare, coder=coder, profiles=profiles, kept=kept, sample=sample)


def _gains(sensitivities: Mapping[str, Sensitivity], modules: Mapping[str, LoraFactors]) -> dict[str, int]:
    """Gain index of every module that has a sensitivity."""
    found = {
        name: gain_index(s.gain) if s.weight > 0 else -LIMIT for name, s in sensitivities.items() if name in modules
    }
    return {name: index for name, index in found.items() if index}


def _gained(module: LoraFactors, index: int) -> LoraFactors:
    return replace(module, scaling=module.scaling / divisor(index)) if index else module


def _sample(names: Sequence[str], bare: FittedAdapter, *, kept: bool) -> list[str]:
    """A random choice of modules of about as many numbers as a sample has.

    All where fits are kept; but where little work may be spent a sample is taken too, if it is less than half.
    """
    modules, most, context = bare.adapter.modules, bare.sample_numbers, bare.context
    whole = sum(modules[name].parameters for name in names)
    if not names or kept and (context.effort != "fast" or whole <= 2 * most):
        return list(names)
    shuffled = random.Random(context.seed).sample(names, len(names))
    return sorted(islice(shuffled, max(1, round(most * len(names) / whole))))
