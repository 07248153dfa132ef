"""kohya's LoRA for image models, of sd-scripts, LyCORIS, OneTrainer and musubi: names with underscores for dots.

A key is `<prefix><module>.<part>`: lora_unet_ stands before modules of the denoiser, lora_te_, lora_te1_, ... before
those of the text encoders, lora_transformer_ and lycoris_ before others'. Parts are lora_down.weight (rank, in),
lora_up.weight (out, rank) and alpha, or LyCORIS's. Modules of SD 1 are called as in diffusers, those of SDXL and newer
models as in the original implementation.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from adaptzip.checkpoints._base import Checkpoint, Signature
from adaptzip.checkpoints._image.beside import carried
from adaptzip.checkpoints._image.dialect import ImageDialect
from adaptzip.checkpoints._image.named_by_base import base_names
from adaptzip.checkpoints._image.names import DENOISERS, denoiser, spelled
from adaptzip.checkpoints._image.spellings import in_original
from adaptzip.checkpoints._image.vocabulary import dotted, words_for
from adaptzip.core.adapter import Adapter
from adaptzip.errors import CheckpointError, RefusedError

_PREFIXES = {
    "lora_unet_": "",
    "lora_te_": "text_encoder",
    "lora_te1_": "text_encoder",
    "lora_te2_": "text_encoder_2",
    "lora_te3_": "text_encoder_3",
    "lora_te4_": "text_encoder_4",
    "lora_transformer_": "transformer",
    "lora_prior_unet_": "prior",
    "lycoris_": "",
    "lora_": "",
}
"""What stands before a module's name, and the component that it is in; "" where the name tells that."""
_PREFERRED = {
    "unet": "lora_unet_",
    "transformer": "lora_unet_",
    "diffusion_model": "lora_unet_",
    "prior": "lora_prior_unet_",
    "text_encoder_2": "lora_te2_",
    "text_encoder_3": "lora_te3_",
    "text_encoder_4": "lora_te4_",
}
_THREE = ("lora_te2_", "lora_te4_", "lora_unet_joint_blocks_", "lora_unet_double_stream_", "lora_unet_single_stream_")
"""What tells that `lora_te3_` is the third text encoder, as in Stable Diffusion 3, and not Flux's second."""
_VERSIONS = ("modelspec.architecture", "ss_base_model_version")
_SD3 = re.compile(r"^(stable-diffusion-3|sd_?3)", re.IGNORECASE)
_STEM = re.compile(rf"({'|'.join(_PREFIXES)})([^.]+)")


class _Kohya(ImageDialect):
    """The dialect `kohya`."""

    name = "kohya"
    title = "a kohya LoRA"
    judged_by = "diffusers; LyCORIS for its products"
    lacks = "heads and whole tensors; what is no LoRA is written as one, but byte for byte as it was without a loss"
    signature = (
        Signature(
            rf"^({'|'.join(_PREFIXES)})[^.]+\.(lora_(down|up|mid)\.weight|hada_|lokr_|diff$|diff_b$)", "a kohya LoRA"
        ),
    )

    def names(self, stems: Iterable[str], source: Checkpoint) -> Mapping[str, str]:
        found = {stem: _STEM.fullmatch(stem) for stem in stems}
        words, base = words_for(match[2] for match in found.values() if match), base_names(source)
        inside = {**_PREFIXES, "lora_te3_": "text_encoder_2"} if _two_encoders(found, source.metadata) else _PREFIXES
        paths = {
            stem: base.path(match[2], source, inside[match[1]]) or dotted(match[2], words)
            for stem, match in found.items()
            if match
        }
        main = denoiser(paths[stem] for stem, match in found.items() if match and not inside[match[1]])
        names = {}
        for stem, match in found.items():
            if match is None:
                raise CheckpointError(
                    f"{source.weights}: {stem} has no meaning in a kohya LoRA, expected a name without dots after "
                    f"{', '.join(_PREFIXES)}",
                    hint="it may be of another program; convert it with that",
                )
            names[stem] = f"{inside[match[1]] or main}.{paths[stem]}"
        return names

    def details(self, source: Checkpoint, names: Mapping[str, str]) -> Mapping[str, Any]:
        prefixes: dict[str, str] = {}
        for stem, name in names.items():
            prefix = stem[: len(stem) - len(name.partition(".")[2])]
            component = name.partition(".")[0]
            if prefixes.setdefault(component, prefix) != prefix:
                raise RefusedError(
                    f"{source.weights}: {prefixes[component]} and {prefix} both stand before names of one component",
                    hint="split it into two files",
                )
        return {"prefixes": prefixes}

    def assumed(self, adapter: Adapter) -> Mapping[str, Any]:
        """Stable Diffusion 1, whose UNet is called as in diffusers, has one text encoder, which has no number."""
        numbered = ("text_encoder_", *(f"{name}." for name in DENOISERS if name != "unet"))
        prefixes = {"text_encoder": "lora_te1_"} if any(name.startswith(numbered) for name in adapter.modules) else {}
        if any(name.startswith("text_encoder_2.encoder.block.") for name in adapter.modules):
            prefixes["text_encoder_2"] = "lora_te3_"
        return {"prefixes": prefixes}

    def respelled(self, adapter: Adapter) -> Adapter:
        return carried(adapter, in_original(adapter.modules, keep_sd1=True))

    def metadata(self, adapter: Adapter, config: Mapping[str, Any], own: bool) -> dict[str, str]:
        """With the model's version, where no name tells that a third text encoder is not Flux's second."""
        found = super().metadata(adapter, config, own)
        third = any(name.startswith("text_encoder_3.") for name in adapter.modules)
        if third and _two_encoders((self.stem(name, config) for name in adapter.modules), found):
            found["ss_base_model_version"] = "sd3"
        return found

    def stem(self, name: str, config: Mapping[str, Any]) -> str:
        component, path = spelled(name, self.title)
        prefixes = config.get("prefixes", {})
        prefix: str = prefixes.get(component, _PREFERRED.get(component, "lora_te_"))
        return prefix + path.replace(".", "_")


def _two_encoders(stems: Iterable[str], metadata: Mapping[str, Any]) -> bool:
    """Whether `lora_te3_` is the second text encoder: Flux has one CLIP and one T5, which sd-scripts numbers as in
    Stable Diffusion 3."""
    if any(_SD3.match(str(metadata.get(key, ""))) for key in _VERSIONS):
        return False
    return not any(stem.startswith(_THREE) for stem in stems)


DIALECT = _Kohya()
