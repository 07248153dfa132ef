"""What the sizes of an adapter's layers say about the model that it is of."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from adaptzip.checkpoints._image.rules import Family, Rule
from adaptzip.core.adapter import LoraFactors

Modules = Mapping[str, LoraFactors]
SMALLEST = 1152
"""Blocks that are narrower are those of a shrunk model, such as programs are tested with: their width tells nothing."""

_STREAMS = r"(?:single_)?transformer_blocks\.#\."
_LAYERS = r"(?:layers|noise_refiner|context_refiner)\.#\."
_INPUTS = re.compile(
    rf"{_STREAMS}(?:attn1?\.(?:to_[qkv]|add_[qkv]_proj|to_qkv_mlp_proj)|attn2\.to_q|norm1?(?:_context)?\.linear|proj_mlp"
    r"|ff(?:_context)?\.(?:net\.0\.proj|linear_in|gate|up)|(?:img|txt)_(?:mlp\.net\.0\.proj|mod\.1))"
    r"|blocks\.#\.(?:attn[12]\.to_q|attn1\.to_[kv]|ffn\.net\.0\.proj)"
    rf"|{_LAYERS}(?:attn|attention)\.to_[qkv]|{_LAYERS}feed_forward\.(?:w|linear_)[13]"
    r"|norm_out\.linear|proj_out|(?:all_final_layer\.2-1|final_layer)\.linear"
)
"""Layers of diffusers' models, # for a number, whose inputs are as wide as the model's blocks."""
_OUTPUTS = re.compile(
    rf"{_STREAMS}(?:attn\d?\.(?:to_out\.0|to_out|to_add_out)|proj_out|ff(?:_context)?\.(?:net\.2|linear_out|down)"
    r"|(?:img|txt)_mlp\.net\.2)"
    r"|blocks\.#\.(?:attn[12]\.to_out\.0|ffn\.net\.2)"
    rf"|{_LAYERS}(?:(?:attn|attention)\.to_out\.0|feed_forward\.(?:w|linear_)2)"
    r"|context_embedder|x_embedder(?:\.proj)?|all_x_embedder\.2-1|img_in|txt_in|pos_embed\.proj|patch_embed(?:ding|\.proj)"
    r"|time_text_embed\.\w+\.linear_[12]|time_guidance_embed\.\w+\.linear_[12]"
)
"""Layers whose outputs are."""


@dataclass(frozen=True)
class Fit:
    """A rule that a layer goes by.

    Attributes:
        rule: the rule.
        ratio: outputs for an input that it tells for the layer; None where it tells none.
        whole: whether the layer is all that the rule is of.
    """

    rule: Rule
    ratio: Fraction | None
    whole: bool


def misfit(family: Family, fits: Mapping[str, Fit], modules: Modules) -> str | None:
    """Why layers, which a family's rules name, are not its own; None where nothing says so."""
    for path, fit in fits.items():
        out, width = modules[path].shape
        if fit.ratio is not None and Fraction(out, width) != fit.ratio:
            return (
                f"module {path} has shape {[out, width]}, expected {fit.ratio} outputs for an input in {family.title}"
            )
        block, _, rest = path.partition(".")
        number = rest.partition(".")[0]
        depth = family.depths.get(block)
        if depth is not None and number.isdecimal() and int(number) >= depth:
            return f"module {path} is of a block beyond the {depth} of {family.title}"
        wide = _width(fit, out, width)
        if wide is not None and wide >= SMALLEST and wide not in family.widths:
            sizes = " or ".join(map(str, sorted(family.widths)))
            return f"module {path} is of blocks {wide} wide, expected {sizes} in {family.title}"
    return None


def _width(fit: Fit, out: int, width: int) -> int | None:
    """The width of a model's blocks, where one of its layers tells it."""
    name = fit.rule.diffusers[0]
    if _INPUTS.fullmatch(name):
        return width
    return out if fit.whole and _OUTPUTS.fullmatch(name) else None
