"""What mlx-lm calls the modules of models for which transformers has other names."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from adaptzip.core.adapter import LoraFactors


@dataclass(frozen=True)
class _Family:
    """One kind of model.

    Attributes:
        model_type: as config.json has it.
        layer: a pattern of the modules of its layers, after the layer's number, by which it is known.
        prefixes: the beginnings of names, transformers' and mlx-lm's, the layers' first.
        transposed: whether transformers' weights of the layers lie as (in, out), which mlx-lm turns.
    """

    model_type: str
    layer: str
    prefixes: tuple[tuple[str, str], ...]
    transposed: bool = False

    def holds(self, module: str, side: int) -> bool:
        """Whether a module is of its layers; `side` 0 is transformers' names, 1 mlx-lm's."""
        return re.fullmatch(rf"{re.escape(self.prefixes[0][side])}\d+\.(?:{self.layer})", module) is not None

    def renamed(self, module: str, side: int) -> str:
        """A name of that side by the other's."""
        found = next((pair for pair in self.prefixes if module.startswith(pair[side])), None)
        return module if found is None else found[1 - side] + module.removeprefix(found[side])


_GPT = (("transformer.h.", "model.h."), ("transformer.", "model."))
_NEOX = (("gpt_neox.layers.", "model.h."), ("lm_head", "model.embed_out"), ("gpt_neox.", "model."))
_FAMILIES = (
    _Family("gpt2", r"attn\.c_attn|attn\.c_proj|mlp\.c_fc|mlp\.c_proj", _GPT, transposed=True),
    _Family("gptj", r"attn\.[qkv]_proj|attn\.out_proj|mlp\.fc_(in|out)", _GPT),
    _Family("gpt_neox", r"(attention|mlp)\.dense\w*|attention\.query_key_value", _NEOX),
)


def in_memory(modules: Mapping[str, LoraFactors]) -> dict[str, LoraFactors]:
    """The modules by the names that transformers 5 has for them, of which only GPT-NeoX's head has another in files."""
    neox = any(_FAMILIES[-1].holds(name, 0) for name in modules)
    return {("lm_head" if neox and name == "embed_out" else name): factors for name, factors in modules.items()}


def to_mlx(modules: Mapping[str, LoraFactors], base: Mapping[str, Any] | None) -> dict[str, LoraFactors]:
    """The modules by mlx-lm's names.

    Args:
        base: the base model's config.json, where it is known. Else the names of the layers tell it, and of GPT-2, whose
            names another has that mlx-lm calls as transformers does, that its weights lie transposed.
    """
    kind = None if base is None else base.get("model_type")
    for family in _FAMILIES:
        own = [name for name in modules if family.holds(name, 0)]
        across = any(modules[name].layout == "transposed" for name in own)
        if family.model_type == kind or (kind is None and own and across == family.transposed):
            return {family.renamed(name, 0): factors for name, factors in modules.items()}
    return dict(modules)


def from_mlx(modules: Mapping[str, LoraFactors]) -> dict[str, LoraFactors]:
    """The modules by transformers' names, in sorted order, as its weights lie."""
    family = _of_mlx(modules)
    if family is None:
        return dict(sorted(modules.items()))
    found = {}
    for name, factors in modules.items():
        turned = family.transposed and family.holds(name, 1)
        found[family.renamed(name, 1)] = replace(factors, layout="transposed") if turned else factors
    return dict(sorted(found.items()))


def _of_mlx(modules: Collection[str]) -> _Family | None:
    return next((family for family in _FAMILIES if any(family.holds(name, 1) for name in modules)), None)
