"""Names of modules in image models: the component, a dot, and the path in it.

A component is a folder of a diffusers pipeline, in diffusers' and transformers' names, or `diffusion_model`, which is
the denoiser in the names of its original implementation.
"""

from __future__ import annotations

from collections.abc import Iterable

from adaptzip.errors import RefusedError

ORIGINAL = "diffusion_model"
SECOND = "transformer_2"
"""The second denoiser of a pipeline that has two, as Wan 2.2's."""
DENOISERS = ("unet", "transformer", SECOND, "prior", ORIGINAL)
COMPONENTS = (*DENOISERS, "text_encoder", "text_encoder_2", "text_encoder_3", "text_encoder_4")
UNET = ("down_blocks", "mid_block", "up_blocks")
"""What modules of diffusers' UNets begin with."""
TRANSFORMER = ("transformer_blocks", "single_transformer_blocks")
"""What modules of diffusers' transformers begin with."""


def denoiser(paths: Iterable[str]) -> str:
    """The component that paths within one denoiser are of, told by their first words: `unet`, `transformer`, or
    `diffusion_model` where none is a word of diffusers' alone."""
    firsts = {path.partition(".")[0] for path in paths}
    return "unet" if firsts & set(UNET) else "transformer" if firsts & set(TRANSFORMER) else ORIGINAL


def spelled(name: str, title: str) -> tuple[str, str]:
    """The component and the path of a module.

    Raises:
        RefusedError: if it begins with no component, as in an adapter of a single model.
    """
    component, _, path = name.partition(".")
    if component not in COMPONENTS or not path:
        raise RefusedError(
            f"module {name} is in none of the components of an image model, which {title} names",
            hint=f"expected a name that begins with {', '.join(COMPONENTS[:3])}, ...; write it with `as_='peft'`",
        )
    return component, path
