"""What is known of an adapter's modules before any method fits them: shapes, frames and spectra."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from adaptzip.adz.coding.coders import numbered
from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.core.batching import group_by_shape, over_batches
from adaptzip.core.compressed import Site
from adaptzip.core.gains import divisor
from adaptzip.core.linalg import factored_svd
from adaptzip.core.method import AnyMethod, FitContext
from adaptzip.core.survey import Survey
from adaptzip.core.workers import on_one_core


def framed_sites(adapter: Adapter, method: AnyMethod, context: FitContext) -> Mapping[str, Site]:
    """Every module's shape and number, with its frame where the method takes frames."""
    sites = sites_of(adapter)
    if context.basis is None or not method.takes_frame:
        return numbered(sites)
    found = context.basis.modules
    return numbered(sites, [found[name].size if name in found else 0 for name in sites])


def sites_of(adapter: Adapter) -> dict[str, Site]:
    """Every module's shape, by sorted name."""
    return {name: Site(*m.shape, m.layout, m.kernel) for name, m in sorted(adapter.modules.items())}


@on_one_core()
def survey_of(adapter: Adapter, device: torch.device) -> Survey:
    """Shapes and spectra of an adapter; an update below rounding of nothing has no singular values."""
    modules = adapter.modules
    singular: dict[str, NDArray[np.float64]] = {}

    def spectra(names: list[str]) -> dict[str, NDArray[np.float64]]:
        found: dict[str, NDArray[np.float64]] = {}
        batch = {name: on_device(modules[name], device, 0) for name in names}
        for group in group_by_shape(batch):
            A, B = torch.stack([batch[n].A for n in group]), torch.stack([batch[n].B for n in group])
            _, S, _ = factored_svd(A, B, torch.tensor([batch[n].scaling for n in group], device=device))
            found |= {n: values for n, values in zip(group, S.double().cpu().numpy(), strict=True)}
        return found

    for part in over_batches(spectra, sorted(modules), modules, device):
        singular |= {name: values if values.sum() > 0 else values[:0] for name, values in part.items()}
    return Survey(sites_of(adapter), singular)


def on_device(module: LoraFactors, device: torch.device, index: int) -> LoraFactors:
    """The factors alone, in float32 on a device, multiplied by a gain."""
    A, B = module.A.to(device, torch.float32), module.B.to(device, torch.float32)
    return LoraFactors(A, B, module.scaling / divisor(index), module.layout)
