"""Naming adapter files that no dialect reads, so that a refusal says what the file is."""

from __future__ import annotations

from adaptzip.checkpoints._base import Checkpoint, Signature
from adaptzip.checkpoints._image.keys import refusal
from adaptzip.checkpoints._registry import dialects
from adaptzip.errors import AdaptzipError, CheckpointError, RefusedError

_CONVERT = "convert it with the program that made it to a dialect that adaptzip reads, such as PEFT's or kohya's"
_EXPECTED = "a LoRA of a dialect that adaptzip reads"

# Kinds that no dialect has as its own; the first that fits is named.
_KINDS = (
    Signature(r"\.lokr_w[12]", "a LyCORIS LoKr"),
    Signature(r"\.hada_w[12]_[ab]", "a LyCORIS LoHa"),
    Signature(r"\.(diff|diff_b|w_norm|b_norm)$", "a LyCORIS file"),
    Signature(r"^w_[ab]_\d+$", "a LoRA of a segment-anything model"),
    Signature(r"\.lora_(down|up)\.weight$", "a diffusers LoRA"),
    Signature(r"\.lora_[AB]\.(default\.)?weight$", "a LoRA whose keys lack PEFT's prefix base_model.model"),
    Signature(r"lora", "a LoRA of another program"),
)

_OWN = {"adaptzip-basis": "basis", "adaptzip-bank": "bank"}
"""Our own files that are no adapters, by the key in their metadata."""


def foreign(source: Checkpoint) -> AdaptzipError:
    """The error about a checkpoint that no dialect knows: what it looks like, and what to do about it."""
    keys = list(source.tensors)
    for own in (_OWN[key] for key in _OWN.keys() & source.metadata.keys()):
        return CheckpointError(
            f"{source.weights}: is a {own} that adapters share, expected an adapter",
            hint=f"`adaptzip {own} show` tells what it holds; give it with `basis=`",
        )
    refused = refusal(source)
    if refused is not None:
        return refused
    for kind in (*(own for each in dialects().values() for own in each.signature), *_KINDS):
        if kind.fits(keys):
            return RefusedError(f"{source.weights}: looks like {kind.what}, expected {_EXPECTED}", hint=_CONVERT)
    if not keys:
        return CheckpointError(f"{source.weights}: holds no tensors", hint="save the adapter again")
    return CheckpointError(
        f"{source.weights}: is no LoRA adapter: its {len(keys)} keys, such as {keys[0]}, are none of a LoRA",
        hint="give the folder of a PEFT LoRA, or the file of one for image models",
    )
