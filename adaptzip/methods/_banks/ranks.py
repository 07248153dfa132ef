"""How many components of each module a bank is fitted to."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from adaptzip.core.adapter import LoraFactors
from adaptzip.core.compressed import Site
from adaptzip.core.survey import Survey
from adaptzip.methods._banks.factors import groups


def survey(modules: Mapping[str, LoraFactors], device: torch.device) -> Survey:
    """Shapes and singular values of some modules."""
    singular = {
        name: group.S[i].double().cpu().numpy()
        for group in groups(modules, dict.fromkeys(modules, 1), {}, device)
        for i, name in enumerate(group.names)
    }
    return Survey({name: Site(*module.shape) for name, module in modules.items()}, singular)


def worthwhile(found: Survey, most: int, floor: float) -> dict[str, int]:
    """The components of each module, up to `most`, that hold a share `floor` of |dW|^2 per number of their rows."""
    return {
        name: min(most, int((np.square(found.singular[name]) >= floor * found.energy * (site.out + site.width)).sum()))
        for name, site in found.sites.items()
    }
