"""Names in UNets of Stable Diffusion: diffusers' and the original implementation's, both with two layers a block."""

from __future__ import annotations

import math
import re

from adaptzip.checkpoints._image.names import ORIGINAL

_RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_TOP = {
    "input_blocks.0.0": "conv_in",
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "label_emb.0.0": "add_embedding.linear_1",
    "label_emb.0.2": "add_embedding.linear_2",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
_FROM_RESNET = {name: original for original, name in _RESNET.items()}
_FROM_TOP = {name: original for original, name in _TOP.items()}
_CONVOLUTION = re.compile(
    r"(^|\.)(resnets\.\d+\.conv[12]|(down|up)samplers\.\d+\.conv|conv_in|conv_out)$"
    r"|(^|\.)(in_layers\.2|out_layers\.3|(input|output)_blocks\.\d+\.\d\.(op|conv)|input_blocks\.0\.0|out\.2)$"
)
_KERNEL = (3, 3)
"""Of every layer that `_CONVOLUTION` names."""
_LAYERS = 2
"""Of a block on the way down; there is one more on the way up."""
_ORIGINAL = re.compile(r"(input_blocks|output_blocks)\.(\d+)\.(\d)\.(.+)|middle_block\.([012])\.(.+)")
_DIFFUSERS = re.compile(
    r"(down|up)_blocks\.(\d)\.(resnets|attentions|downsamplers|upsamplers)\.(\d)\.(.+)"
    r"|mid_block\.(resnets|attentions)\.(\d)\.(.+)"
)


def is_original(path: str) -> bool:
    """Whether a path is one of the original implementation's alone."""
    return path.startswith(("input_blocks.", "output_blocks.", "middle_block.", "time_embed.", "label_emb.", "out."))


def kernel_of(name: str, inputs: int) -> tuple[int, ...]:
    """The kernel of a module by its name, where a file has it flattened into the inputs; () for any other."""
    component, _, path = name.partition(".")
    known = component == "unet" or (component == ORIGINAL and is_original(path))
    return _KERNEL if known and _CONVOLUTION.search(path) and inputs % math.prod(_KERNEL) == 0 else ()


def to_diffusers(path: str) -> str | None:
    """diffusers' name of a layer, or None where it has none."""
    if path in _TOP:
        return _TOP[path]
    found = _ORIGINAL.fullmatch(path)
    if found is None:
        return None
    side, number, place, rest, middle, inner = found.groups()
    if middle is not None:
        return f"mid_block.{_inner({'0': 'resnets.0', '1': 'attentions.0', '2': 'resnets.1'}[middle], inner)}"
    steps = _LAYERS + 1
    position = int(number) - 1 if side == "input_blocks" else int(number)
    block, layer = divmod(position, steps)
    if side == "input_blocks":
        if rest == "op":
            return f"down_blocks.{block}.downsamplers.0.conv" if layer == _LAYERS else None
        return f"down_blocks.{block}.{_inner(_kind(place, layer), rest)}"
    if rest == "conv" and layer == _LAYERS:
        return f"up_blocks.{block}.upsamplers.0.conv"
    return f"up_blocks.{block}.{_inner(_kind(place, layer), rest)}"


def to_original(path: str, *, attention_below: bool = True) -> str | None:
    """The original implementation's name of a layer, or None where it has none.

    Args:
        path: diffusers' name.
        attention_below: whether the first block on the way up has attention, as in SDXL and not in SD 1 and 2; its
            upsampler comes after it.
    """
    if path in _FROM_TOP:
        return _FROM_TOP[path]
    found = _DIFFUSERS.fullmatch(path)
    if found is None:
        return None
    side, number, kind, layer, rest, middle, place, inner = found.groups()
    if middle is not None:
        where = {("resnets", "0"): 0, ("attentions", "0"): 1, ("resnets", "1"): 2}.get((middle, place))
        return None if where is None else f"middle_block.{where}.{_FROM_RESNET.get(inner, inner)}"
    block, layer = int(number), int(layer)
    steps = _LAYERS + 1
    if kind == "downsamplers":
        return f"input_blocks.{steps * (block + 1)}.0.op" if rest == "conv" else None
    if kind == "upsamplers":
        place = 1 if block == 0 and not attention_below else 2
        return f"output_blocks.{steps * block + _LAYERS}.{place}.conv" if rest == "conv" else None
    name = f"{int(kind == 'attentions')}.{_FROM_RESNET.get(rest, rest) if kind == 'resnets' else rest}"
    if side == "down":
        return f"input_blocks.{steps * block + layer + 1}.{name}"
    return f"output_blocks.{steps * block + layer}.{name}"


def _kind(place: str, layer: int) -> str:
    return f"{'resnets' if place == '0' else 'attentions'}.{layer}"


def _inner(kind: str, rest: str) -> str:
    return f"{kind}.{_RESNET.get(rest, rest) if kind.startswith('resnets') else rest}"
