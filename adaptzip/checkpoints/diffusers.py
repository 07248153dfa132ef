"""diffusers' LoRA: pytorch_lora_weights.safetensors, with the component of the pipeline before each module's path.

A key is `<component>.<module>.lora_A.weight` (rank, in) or lora_B.weight (out, rank); older files have lora.down.weight
and lora.up.weight, text encoders lora_linear_layer.down.weight, and some an alpha. The scale is that of the file's
metadata `lora_adapter_metadata`, JSON with PEFT's configuration by component, else alpha / rank, else 1. Some trainers
leave the component out, or write PEFT's prefix in its place.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from adaptzip.checkpoints._base import Checkpoint, Files, Signature, WriteOptions
from adaptzip.checkpoints._config import anchored, parse_config
from adaptzip.checkpoints._image.dialect import ImageDialect
from adaptzip.checkpoints._image.families import FAMILIES
from adaptzip.checkpoints._image.keys import has_update
from adaptzip.checkpoints._image.names import COMPONENTS, ORIGINAL, TRANSFORMER, UNET, denoiser, spelled
from adaptzip.checkpoints._image.spellings import to_diffusers
from adaptzip.checkpoints._keys import PREFIX
from adaptzip.checkpoints._losses import Loss, losses_of
from adaptzip.checkpoints.peft.targeting import exact_targets
from adaptzip.core.adapter import Adapter
from adaptzip.core.effects import Effect
from adaptzip.errors import CheckpointError

WEIGHTS = "pytorch_lora_weights"
METADATA = "lora_adapter_metadata"
_PARTS = r"(lora_[AB]\.(default\.)?weight|lora(_|\.|_linear_layer\.)(down|up)\.weight|lokr_w\d(_[ab])?|hada_w\d_[ab])$"
_KNOWN = "|".join(name for name in COMPONENTS if name not in (ORIGINAL, "transformer"))
_LAYERS = r"(transformer_blocks|to_[qkv]\w*|to_out|(add|to)_[qkv]_proj|to_add_out|ffn?(_context)?\.net|qkv)"
"""Layers of transformers that are no language models, whose names begin with `transformer.` as well."""
_FIRSTS = {path.partition(".")[0] for family in FAMILIES for path in family.parts}
_BESIDE = "|".join(sorted(_FIRSTS - {"blocks", "layers"}))
"""What modules of such transformers begin with, but for what those of language models may begin with too."""
_BARE = re.compile(rf"^({re.escape(PREFIX)})?({'|'.join((*UNET, *TRANSFORMER))})\..*{_PARTS}")

_CLIP = "text_model."


class _Diffusers(ImageDialect):
    """The dialect `diffusers`."""

    name = "diffusers"
    title = "a diffusers LoRA"
    judged_by = "diffusers"
    lacks = "tensors beside the factors"
    files = Files((f"{WEIGHTS}.safetensors", f"{WEIGHTS}.bin"), None, (f"{WEIGHTS}.safetensors",))
    spelling = "lora_A"
    peft_dora = True
    alphas = False
    signature = (
        Signature(rf"^({_KNOWN})\.(?!.*\.processor\.).*\.{_PARTS}", "a diffusers LoRA"),
        Signature(rf"^transformer\.(?!.*\.processor\.)(.*[._])?{_LAYERS}\..*{_PARTS}", "a diffusers LoRA"),
        Signature(rf"^transformer\.({_BESIDE})\.(.*\.)?{_PARTS}", "a diffusers LoRA"),
        Signature(r"\.lora(_linear_layer)?\.(down|up)\.weight$", "a diffusers LoRA"),
    )

    def sniff(self, source: Checkpoint) -> float:
        """Without a component the names of diffusers' own models tell; PEFT's configuration tells that it is PEFT's."""
        sure = super().sniff(source)
        if sure or source.config is not None or source.alpha is not None:
            return sure
        bare = any(_BARE.match(key) and ".processor." not in key for key in source.tensors)
        return 0.95 if bare and has_update(source.tensors) else 0.0

    def lost(self, adapter: Adapter, options: WriteOptions) -> tuple[Loss, ...]:
        by_input = [n for n, m in adapter.modules.items() if m.magnitude is not None and m.magnitude.ndim > 1]
        own = adapter.meta.dialect == self.name
        return (
            *super().lost(adapter, options),
            *losses_of(("DoRA magnitudes for each input", "magnitude", [] if own else by_input)),
        )

    def holds(self, effect: Effect) -> bool:
        return False

    def names(self, stems: Iterable[str], source: Checkpoint) -> Mapping[str, str]:
        stems = list(stems)
        bare = {stem: stem.removeprefix(PREFIX) for stem in stems if stem.partition(".")[0] not in COMPONENTS}
        main = denoiser(bare.values())
        return {stem: f"{main}.{bare[stem]}" if stem in bare else stem for stem in stems}

    def details(self, source: Checkpoint, names: Mapping[str, str]) -> Mapping[str, Any]:
        prefixes: dict[str, str] = {}
        for stem, name in names.items():
            component, _, path = name.partition(".")
            prefix = stem.removesuffix(path)
            if prefixes.setdefault(component, prefix) != prefix:
                raise CheckpointError(
                    f"{source.weights}: names of {component} begin with {prefixes[component]!r} and with {prefix!r}",
                    hint="save the adapter again with the program that trained it",
                )
        return {"prefixes": prefixes}

    def respelled(self, adapter: Adapter) -> Adapter:
        return replace(adapter, modules=to_diffusers(adapter.modules))

    def unusual(self, config: Mapping[str, Any]) -> bool:
        """diffusers raises at PEFT's prefix, and overlooks names without a component."""
        return any(prefix != f"{component}." for component, prefix in config.get("prefixes", {}).items())

    def stem(self, name: str, config: Mapping[str, Any]) -> str:
        component, path = spelled(name, self.title)
        return f"{config.get('prefixes', {}).get(component, f'{component}.')}{path}"

    def scalings(self, metadata: Mapping[str, Any], names: Iterable[str], where: object) -> Mapping[str, float]:
        raw = metadata.get(METADATA)
        if raw is None:
            return {}
        found: dict[str, float] = {}
        for component, config in _by_component(raw, where).items():
            told = parse_config(config, f"{where}: {METADATA} of {component}")
            begin = f"{component}."
            found |= {name: told.scaling(name.removeprefix(begin)) for name in names if name.startswith(begin)}
        return found

    def metadata(self, adapter: Adapter, config: Mapping[str, Any], own: bool) -> dict[str, str]:
        """With PEFT's configuration of each component, by which diffusers tells ranks apart; it would give modules of
        another than the commonest rank another scale without."""
        found = super().metadata(adapter, config, own)
        found.pop(METADATA, None)
        if config.get("alpha", self.alphas):
            return found  # diffusers refuses a file with both.
        told: dict[str, Any] = {}
        for component in {name.partition(".")[0] for name in adapter.modules}:
            if config.get("prefixes", {}).get(component, f"{component}.") == f"{component}.":
                told |= {f"{component}.{field}": value for field, value in _config_of(adapter, component).items()}
        return found | ({METADATA: json.dumps(told, indent=2, sort_keys=True)} if told else {})


def _by_component(text: str, where: object) -> dict[str, dict[str, Any]]:
    """The configurations in a file's metadata, by component.

    Raises:
        CheckpointError: if it is no JSON object.
    """
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError):
        raw = None
    if not isinstance(raw, dict):
        raise CheckpointError(
            f"{where}: its metadata {METADATA} is no JSON object", hint="save the adapter again with diffusers"
        )
    found: dict[str, dict[str, Any]] = {}
    for key, value in raw.items():
        component, _, field = key.partition(".")
        found.setdefault(component, {})[field] = value
    return {component: config for component, config in found.items() if {"r", "lora_alpha"} <= config.keys()}


def _config_of(adapter: Adapter, component: str) -> dict[str, Any]:
    """PEFT's configuration of one component, whose scales are 1."""
    begin = f"{component}."
    paths = {name.removeprefix(begin): m for name, m in adapter.modules.items() if name.startswith(begin)}
    # transformers 5 has left out the first word of CLIP's names; without it they fit the names of both, as their ends.
    modules = {name.removeprefix(_CLIP): factors for name, factors in paths.items()}
    pattern = anchored if modules.keys() == paths.keys() else re.escape
    ranks = {name: max(factors.rank, 1) for name, factors in modules.items()}
    rank = max(Counter(ranks.values()).items(), key=lambda item: (item[1], item[0]))[0]
    others = {pattern(name): value for name, value in sorted(ranks.items()) if value != rank}
    return {
        "alpha_pattern": others,
        "lora_alpha": rank,
        "lora_bias": any(factors.bias is not None for factors in modules.values()),
        "peft_type": "LORA",
        "r": rank,
        "rank_pattern": others,
        "target_modules": exact_targets(modules),
        "use_dora": any(factors.magnitude is not None for factors in modules.values()),
    }


DIALECT = _Diffusers()
