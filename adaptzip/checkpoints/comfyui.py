"""LoRAs in the names of an original implementation, as ComfyUI, ai-toolkit and others write them.

A key is `diffusion_model.<module>.<part>`, with the parts lora_A.weight (rank, in) and lora_B.weight (out, rank), or
kohya's, or LyCORIS's; text encoders' begin with `text_encoders.<name>.transformer.`. Without an alpha the scale is 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from adaptzip.checkpoints._base import Checkpoint, Signature
from adaptzip.checkpoints._image.beside import carried
from adaptzip.checkpoints._image.dialect import ImageDialect
from adaptzip.checkpoints._image.names import DENOISERS, ORIGINAL, denoiser, spelled
from adaptzip.checkpoints._image.spellings import in_original
from adaptzip.core.adapter import Adapter
from adaptzip.errors import CheckpointError, RefusedError

_TEXT = "text_encoders."
_CLIP = {"text_encoder": "clip_l", "text_encoder_2": "clip_g"}
_T5 = "t5xxl"


class _ComfyUi(ImageDialect):
    """The dialect `comfyui`."""

    name = "comfyui"
    title = "a LoRA for ComfyUI"
    judged_by = "diffusers, once in its own names"
    lacks = "heads and whole tensors"
    spelling = "lora_A"
    alphas = False
    signature = (
        Signature(rf"^({ORIGINAL}|text_encoders)\..+\.(lora_|lokr_|hada_|diff$|diff_b$)", "a LoRA for ComfyUI"),
    )

    def names(self, stems: Iterable[str], source: Checkpoint) -> Mapping[str, str]:
        stems = list(stems)
        encoders = {encoder: component for component, encoder in _encoders(stems).items()}
        begin = f"{ORIGINAL}."
        main = denoiser(stem.removeprefix(begin) for stem in stems if stem.startswith(begin))
        names = {}
        for stem in stems:
            first, _, path = stem.partition(".")
            if first == ORIGINAL and path:
                names[stem] = f"{main}.{path}"
                continue
            encoder, _, inner = path.partition(".transformer.")
            if f"{first}." != _TEXT or not inner:
                raise CheckpointError(
                    f"{source.weights}: {stem} has no meaning in a LoRA for ComfyUI",
                    hint=f"expected names that begin with {ORIGINAL}. or {_TEXT}<name>.transformer.",
                )
            names[stem] = f"{encoders[encoder]}.{inner}"
        return names

    def details(self, source: Checkpoint, names: Mapping[str, str]) -> Mapping[str, Any]:
        return {"encoders": _encoders(names)}

    def assumed(self, adapter: Adapter) -> Mapping[str, Any]:
        """CLIP has a `text_model`; T5 has none, and comes last, as a file is read that names no component."""
        found = {}
        for name in adapter.modules:
            component, _, path = name.partition(".")
            if path.startswith("text_model.") and component in _CLIP:
                found[component] = _CLIP[component]
            elif path.startswith("encoder.block."):
                found[component] = _T5
        told = _encoders(f"{_TEXT}{encoder}." for encoder in found.values())
        return {"encoders": {c: encoder for c, encoder in found.items() if told.get(c) == encoder}}

    def respelled(self, adapter: Adapter) -> Adapter:
        return carried(adapter, in_original(adapter.modules))

    def stem(self, name: str, config: Mapping[str, Any]) -> str:
        component, path = spelled(name, self.title)
        if component in DENOISERS:
            return f"{ORIGINAL}.{path}"
        encoder = config.get("encoders", {}).get(component)
        if encoder is None:
            raise RefusedError(
                f"module {name} is of a text encoder that adaptzip knows no name in ComfyUI for",
                hint="write it with `as_='diffusers'` or `as_='kohya'`",
            )
        return f"{_TEXT}{encoder}.transformer.{path}"


def _encoders(stems: Iterable[str]) -> dict[str, str]:
    """The names of text encoders by component, in the order of a pipeline: CLIP's, then others."""
    found = {stem.split(".")[1] for stem in stems if stem.startswith(_TEXT) and stem.count(".") > 1}
    known = {component: encoder for component, encoder in _CLIP.items() if encoder in found}
    free = [c for c in ("text_encoder", "text_encoder_2", "text_encoder_3", "text_encoder_4") if c not in known]
    if _T5 in found and "text_encoder" in free and len(found) == 1:
        free.remove("text_encoder")
    return known | dict(zip(free, sorted(found - set(known.values())), strict=False))


DIALECT = _ComfyUi()
