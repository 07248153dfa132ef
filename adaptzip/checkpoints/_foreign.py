"""Naming adapter files of kinds that no dialect reads, so that a refusal says what the file is."""

from __future__ import annotations

import re

from adaptzip.checkpoints._base import Checkpoint
from adaptzip.checkpoints._keys import PREFIX
from adaptzip.errors import AdaptzipError, CheckpointError, RefusedError

_CONVERT = "convert it to a PEFT LoRA first: PEFT's keys, and its adapter_config.json beside them"

# What a file is, by what one of its keys holds; the first kind that fits is named.
_KINDS: tuple[tuple[str, str], ...] = (
    (r"\.lokr_w[12]", "a LyCORIS LoKr"),
    (r"\.hada_w[12]_[ab]", "a LyCORIS LoHa"),
    (r"\.(oft_blocks|oft_diag|diff|diff_b)$", "a LyCORIS file"),
    (r"^lora_\w+\.(lora_(down|up)\.weight|alpha)$", "a kohya LoRA"),
    (r"\.processor\.\w*lora\w*\.(down|up)\.weight$", "a LoRA of attention processors"),
    (r"^text_encoder:\d+:(down|up)$|^unet:\d+:(down|up)$", "a cloneofsimo LoRA"),
    (r"\.lora_a$|\.lora_b$", "an MLX LoRA"),
    (r"^w_[ab]_\d+$", "a LoRA of a segment-anything model"),
    (r"^(unet|transformer|text_encoder\w*)\..*lora", "a diffusers LoRA"),
    (r"^diffusion_model\..*lora_", "a LoRA for ComfyUI or ai-toolkit"),
    (r"\.lora_(down|up)\.weight$", "a diffusers LoRA"),
    (r"\.lora_[AB]\.(default\.)?weight$", "a LoRA whose keys lack PEFT's prefix base_model.model"),
    (r"\.lora_[AB]$", "a loralib LoRA"),
    (r"lora", "a LoRA of another program"),
)

_BASIS = "adaptzip-basis"
"""The key in the metadata of our own basis files."""


def is_foreign(source: Checkpoint) -> bool:
    """Whether not one of the keys can be PEFT's, although a configuration of PEFT may lie beside them."""
    return bool(source.tensors) and not any(key.startswith(PREFIX) for key in source.tensors)


def foreign(source: Checkpoint) -> AdaptzipError:
    """The error about a checkpoint that no dialect knows: what it looks like, and what to do about it."""
    keys = list(source.tensors)
    if _BASIS in source.metadata:
        return CheckpointError(
            f"{source.weights}: is a basis that adapters share, expected an adapter",
            hint="`adaptzip basis show` tells what it holds; give it with --basis",
        )
    for pattern, what in _KINDS:
        if any(re.search(pattern, key) for key in keys):
            return RefusedError(f"{source.weights}: looks like {what}, expected a PEFT LoRA", hint=_CONVERT)
    if not keys:
        return CheckpointError(f"{source.weights}: holds no tensors", hint="save the adapter again")
    return CheckpointError(
        f"{source.weights}: is no LoRA adapter: its {len(keys)} keys, such as {keys[0]}, are none of a LoRA",
        hint="give the folder of a PEFT LoRA: adapter_config.json beside adapter_model.safetensors",
    )
