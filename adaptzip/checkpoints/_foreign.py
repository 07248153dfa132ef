"""Naming adapter files of kinds that no dialect reads, so that a refusal says what the file is."""

from __future__ import annotations

from collections.abc import Iterable

from adaptzip.checkpoints._base import Source

_PEFT_HINT = "convert it to a PEFT LoRA first: adapter_config.json beside adapter_model.safetensors"

# (what the file is, pieces of which one must occur in a key); the first kind that fits is named.
_KINDS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("a LyCORIS LoKr", ("lokr_w1", "lokr_w2")),
    ("a LyCORIS LoHa", ("hada_w1_a", "hada_w2_a")),
    ("a kohya LoRA", ("lora_unet_", "lora_te_", "lora_te1_", "lora_te2_", "lora_transformer_")),
    ("a LoRA of diffusers' old attention processors", ("_lora.down.weight", "_lora.up.weight")),
    ("a cloneofsimo LoRA", (":down", ":up")),
    ("an MLX LoRA", (".lora_a", ".lora_b")),
    ("a SAM LoRA (w_a_000, w_b_000, ...)", ("w_a_0", "w_b_0")),
    ("a diffusers LoRA", ("unet.", "text_encoder.", "transformer.")),
    ("a loralib LoRA", (".lora_A", ".lora_B")),
)


def describe(source: Source) -> tuple[str, str]:
    """What a checkpoint that no dialect knows looks like, and what to do about it: (message, hint)."""
    keys = list(source.tensors)
    for what, pieces in _KINDS:
        if _any(keys, pieces) and (what != "a diffusers LoRA" or _any(keys, ("lora",))):
            return f"looks like {what}, which is not supported; expected a PEFT LoRA", _PEFT_HINT
    if not keys:
        return "holds no tensors; expected a PEFT LoRA", "check that the adapter was saved completely"
    return (
        f"is not a LoRA adapter: no lora_A and lora_B among its {len(keys)} keys, such as {keys[0]}",
        _PEFT_HINT,
    )


def _any(keys: Iterable[str], pieces: tuple[str, ...]) -> bool:
    return any(piece in key for key in keys for piece in pieces)
