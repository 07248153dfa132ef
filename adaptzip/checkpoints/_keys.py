"""Keys as PEFT writes them, from the spellings that wrappers and plain state_dict()s leave in files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from adaptzip.errors import CheckpointError, RefusedError, warn

PREFIX = "base_model.model."
"""What PEFT puts before the module's path in the base model."""

TOKENS = ".token_adapter.trainable_tokens_delta"
"""How the key of replaced embedding rows ends."""

# Modules that wrap others under a name of their own: torch.compile, FSDP, activation checkpointing.
_WRAPPERS = re.compile(r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_checkpoint_wrapped)\.")
# Modules that wrap a whole model: data-parallel training, DeepSpeed and Lightning.
_OUTER = re.compile(r"^(module\.|_forward_module\.)+")
# The adapter's name, which PEFT leaves out when it saves.
_NAMED = re.compile(
    r"(?P<part>(?:\.lora_[AB]|\.lora_magnitude_vector|\.gralora_[AB]_general)(?=\.[^.]+\.(?:weight|bias)$)"
    r"|(?:\.lora_embedding_[AB]|\.lora_magnitude_vector|\.vblora_logits_[AB]|\.vblora_vector_bank"
    r"|\.lora_[ABE]|\.delora_(?:A|B|lambda|w_norm)|\.gralora_[AB]|\.hada_(?:w[12]_[ab]|t[12])"
    r"|\.lokr_(?:w[12](?:_[ab])?|t2)|\.miss_block|\.tinylora_[ABP]|\.vera_(?:lambda_[bd]|[AB])"
    r"|\.unilora_(?:(?:indices|scales)_[AB]|theta_d)|\.token_adapter\.trainable_tokens_delta)(?=\.[^.]+$)"
    r"|^base_model\.tinylora_v(?=\.[^.]+\.\d+$))\.(?P<name>[^.]+)"
)
_KIN = (
    r"delora_\w+|gralora_[AB]|gralora_[AB]_general\.weight|hada_\w+|lokr_\w+|miss_block|tinylora_[ABP]"
    r"|unilora_(?:indices|scales)_[AB]|vera_lambda_\w"
)
_FACTOR = re.compile(rf"\.(lora_(A|B|E|embedding_A|embedding_B)(\.|$)|({_KIN})$)")
_SAVED = re.compile(rf"\.(lora_([AB]\.weight|embedding_[AB])|{_KIN})$")
_SAVED_ADALORA = re.compile(r"\.lora_[ABE]$")
# What stands first in the models of the transformers library that hold a backbone and a head: a "model." before it
# is not of the model, but the rest of PEFT's prefix.
_BACKBONES = ("model.", "transformer.", "bert.", "roberta.", "distilbert.", "deberta.", "electra.", "gpt_neox.", "vit.")

_PIPELINES = ("unet.", "text_encoder.", "text_encoder_2.", "diffusion_model.", "transformer.transformer_blocks.")
"""What the keys of image pipelines begin with."""

_PLAIN = "it is not W + s*B@A"
_METHODS = {
    ".lora_diag": f"KaSA, whose diagonal stands between A and B and whose base weight is truncated; {_PLAIN}",
    ".lora_E": f"AdaLoRA, whose singular values stand between A and B; {_PLAIN}",
    ".lora_arrow": "Arrow, which routes between several LoRAs",
    ".lora_monteclora": "MonteCLoRA, which samples its factors",
    ".base_layer.out_proj.lora_": "a LoRA on nn.MultiheadAttention, whose out_proj PEFT updates twice",
    ".lokr_w": "LoKr",
    ".hada_w": "LoHa",
    ".oft_": "OFT",
    ".boft_": "BOFT",
    ".ia3_l": "IA3",
    ".vera_lambda": "VeRA",
    ".vblora_": "VB-LoRA",
    ".tinylora_": "TinyLoRA",
    ".unilora_": "UniLoRA",
    ".fourierft_spectrum": "FourierFT",
    ".delora_": "DeLoRA",
    ".gralora_": "GraLoRA",
    ".miss_block": "MiSS",
    ".randlora_": "RandLoRA",
    ".hira_": "HiRA",
    ".c3a_kernel": "C3A",
}


def plain_keys(keys: Iterable[str], config: Mapping[str, Any] | None, where: object) -> dict[str, str]:
    """The key that PEFT's save_pretrained would have written, by the key in the file.

    Left out are the names of wrappers around modules, a second prefix, and the adapter's name where all factors carry
    the same one. PEFT's prefix is added where a configuration of PEFT lies beside and no factor has it.

    Raises:
        CheckpointError: if the names of several adapters are in the keys, or two keys become one.
    """
    plain = {key: unwrapped(key) for key in keys}
    plain = _unnamed(plain, where)
    if config is not None and isinstance(config.get("peft_type"), str):
        plain = _prefixed(plain, _SAVED_ADALORA if config["peft_type"] == "ADALORA" else _SAVED)
    seen: dict[str, str] = {}
    for key, found in plain.items():
        if found in seen:
            raise CheckpointError(f"{where}: the keys {seen[found]} and {key} mean the same tensor")
        seen[found] = key
    return plain


def warn_of_spelling(plain: Mapping[str, str], where: object) -> None:
    """Warn, with an AdaptzipWarning, where keys are not read as they stand in the file, naming one of them.

    Args:
        plain: what `plain_keys` made of them.
    """
    changed = [key for key, found in plain.items() if key != found]
    if changed:
        warn(
            f"{where}: {len(changed)} of {len(plain)} keys are not as PEFT saves them: {changed[0]} is read as "
            f"{plain[changed[0]]}"
        )


def unwrapped(key: str) -> str:
    """A key without the names of wrappers, and with one prefix at most."""
    key = _WRAPPERS.sub("", _OUTER.sub("", key))
    while key.startswith(PREFIX * 2):
        key = key.removeprefix(PREFIX)
    return key


def _unnamed(plain: Mapping[str, str], where: object) -> dict[str, str]:
    """The keys without the adapter's name in them."""
    named = {key: found for key, text in plain.items() if (found := _match(text)) is not None}
    names = sorted({found["name"] for found in named.values()})
    bare = [key for key, text in plain.items() if key not in named and _FACTOR.search(text)]
    if len(names) > 1 or (names and bare):
        others = names[1] if len(names) > 1 else "one without a name"
        raise CheckpointError(
            f"{where}: holds several adapters under their names in the keys: {names[0]} and {others}",
            hint="save one of them with save_pretrained(..., selected_adapters=[name])",
        )
    return {
        key: text[: named[key].end("part")] + text[named[key].end("name") :] if key in named else text
        for key, text in plain.items()
    }


def _match(key: str) -> re.Match[str] | None:
    found = _NAMED.search(key)
    if found is None or found["name"] in ("weight", "bias"):
        return None
    # IncreLoRA numbers the entries of its lists.
    listed = (
        found["name"].isdecimal() and found["part"] in (".lora_A", ".lora_B", ".lora_E") and found.end() == len(key)
    )
    return None if listed else found


def _prefixed(plain: Mapping[str, str], saved: re.Pattern[str]) -> dict[str, str]:
    """The keys with PEFT's prefix, where it is missing from every factor as a whole or in its first half."""
    factors = [text for text in plain.values() if _FACTOR.search(text)]
    if any(text.startswith(_PIPELINES) for text in factors):
        return dict(plain)  # A LoRA of an image pipeline has another's configuration beside it.
    if not factors or not all(map(saved.search, factors)) or any(t.startswith("base_model.") for t in plain.values()):
        return dict(plain)
    halved = all(text.startswith("model.") and text[6:].startswith(_BACKBONES) for text in factors)
    return {key: ("base_model." if halved else PREFIX) + text for key, text in plain.items()}


def refuse_methods(key: str, where: object) -> None:
    """Raises: RefusedError: if a key belongs to another method than LoRA."""
    for piece, what in _METHODS.items():
        if piece in key:
            hint = "merge it into its base model with the library that trained it, then extract a LoRA"
            if piece == ".vblora_":
                hint = "a VB-LoRA needs its own adapter_config.json and all tensors of its file: save it again"
            raise RefusedError(f"{where}: the key {key} belongs to {what}", hint=hint)
