"""Where the models of a pipeline lie in one file: what stands before the names of each."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from adaptzip.models.folder import BaseModel

DENOISER = ("model.diffusion_model.", "diffusion_model.")
_ENCODERS: Mapping[str, tuple[str, ...]] = {
    # Of Stable Diffusion 1, XL, and 2, whose one text encoder is OpenCLIP's.
    "text_encoder": (
        "cond_stage_model.transformer.",
        "conditioner.embedders.0.transformer.",
        "cond_stage_model.model.",
    ),
    # Of Stable Diffusion XL, and of its refiner, which has no other.
    "text_encoder_2": ("conditioner.embedders.1.model.", "conditioner.embedders.0.model."),
}
_COMFYUI = "text_encoders."
_CLIP = {"clip_l": "text_encoder", "clip_g": "text_encoder_2"}
_T5 = "t5xxl"
_NUMBERED = ("text_encoder", "text_encoder_2", "text_encoder_3", "text_encoder_4")


def places_of(file: BaseModel) -> dict[str, str]:
    """What stands before the names of each component; the denoiser is "denoiser".

    Empty where nothing tells, as in a file that is one model alone.
    """
    found: dict[str, str] = {}
    for prefix in DENOISER:
        if _begins(file, prefix):
            found.setdefault("denoiser", prefix)
    for component, prefixes in _ENCODERS.items():
        for prefix in prefixes:
            if _begins(file, prefix):
                found.setdefault(component, prefix)
    named = {name.split(".")[1] for name in file.tensors if name.startswith(_COMFYUI) and name.count(".") > 1}
    return found | _of_comfyui(named)


def _of_comfyui(names: Collection[str]) -> dict[str, str]:
    """CLIP's come first in a pipeline, then others; a T5 alone may be any, as it has names of its own."""
    prefixes = {name: f"{_COMFYUI}{name}.transformer." for name in sorted(names)}
    if set(names) == {_T5}:
        return dict.fromkeys(_NUMBERED, prefixes[_T5])
    found = {_CLIP[name]: prefix for name, prefix in prefixes.items() if name in _CLIP}
    free = [component for component in _NUMBERED if component not in found]
    others = [prefix for name, prefix in prefixes.items() if name not in _CLIP]
    return found | dict(zip(free, others, strict=False))


def _begins(file: BaseModel, prefix: str) -> bool:
    return any(name.startswith(prefix) for name in file.tensors)
