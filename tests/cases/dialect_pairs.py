"""One adapter in two dialects: what is refused and why, and whether what was written means the same."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from torch import Tensor

import adaptzip
from adaptzip.checkpoints import NativeWriter, Reader, Writer, conventions, dialects
from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.core.comparing import same_bits
from adaptzip.errors import AdaptzipError
from adaptzip.restoring.exporting import PORTABLE
from adaptzip.restoring.opening import open_checkpoint
from adaptzip.testing._adapters import by_target

SOURCES = tuple(name for name, found in dialects().items() if isinstance(found, Writer) and isinstance(found, Reader))
"""What is read and written."""
TARGETS = (*SOURCES, PORTABLE)
NATIVE = tuple(name for name, found in dialects().items() if isinstance(found, NativeWriter))
LANGUAGE = ("gguf", "mlx")
IMAGE = tuple(name for name in SOURCES if conventions(name).pipelines)

NO_PIPELINE = "no component of an image pipeline"
FOR_LANGUAGE = "is for language models"
NO_TENSOR = "modules that have no tensor of their own in"
EXTRAS = "cannot hold tensors beside the factors"
MAGNITUDES = "cannot hold DoRA magnitudes"
SEVERAL = "is of several models"
NO_ATTENTION, NO_FLUX = "is no projection of a UNet's attention", "is no attention of Flux"
OTHER_NAMES = "is of a model that is not told by its bare names"
TEXTS = "is of a text encoder, for which"
FEED_FORWARD = "updates the feed-forward layer"

_SMALL, _INPUTS = 64, 16
"""Up to which width whole updates are compared, and on how many random inputs wider ones are."""

Reasons = Mapping[str, str]
TEXT: Reasons = dict.fromkeys(IMAGE, NO_PIPELINE)
"""What is said of a language model to other dialects, by their names."""
DENOISER: Reasons = {"gguf": NO_TENSOR, "attention-processors": NO_ATTENTION, "xlabs": NO_FLUX}
"""Of the layers of a UNet or a transformer."""
PIPELINE: Reasons = {**DENOISER, "bfl": TEXTS, **dict.fromkeys((*LANGUAGE, "peft", PORTABLE), SEVERAL)}
"""Of these and text encoders."""


def written(source: Adapter | Path, folder: Path, target: str | None, base: Path, *, drop: bool = False) -> Path | str:
    """What was written, or the reason why nothing was; `base` has a configuration and no weights."""
    try:
        needed = base if target == "gguf" else None
        return adaptzip.export(source, folder, as_=target, base=needed, drop_extras=drop).path
    except AdaptzipError as error:
        assert not folder.exists()
        return str(error)


def as_told(found: Path | str, wanted: str, pair: str) -> Path | None:
    """What was written, or None where it was refused for the reason that was expected."""
    assert bool(wanted) == isinstance(found, str), f"{pair}: {found}"
    if isinstance(found, str):
        assert wanted in found, f"{pair}: {found}"
        return None
    return found


def check_same(
    given: Adapter, first: Path, there: Path, back: Path, base: Path, *, own: str = "", no_way: str = ""
) -> bool:
    """What was written means the same update; where its modules have other names, once it has come back.

    Args:
        given: what was read.
        first: where it was read.
        there: what was written of it.
        back: where it is written once more.
        base: a folder with the base's configuration.
        own: the dialect to come back to; "" for the one that it was read in.
        no_way: why there is no way back.

    Returns:
        Whether the keys are the same as well.
    """
    found = adaptzip.read(there)
    if found.modules.keys() != given.modules.keys():
        own = own or given.meta.dialect
        again = as_told(written(there, back, own, base), no_way, f"{found.meta.dialect} back to {own}")
        if again is None:
            assert no_way not in (NO_PIPELINE, FOR_LANGUAGE) or farthest(bare(given), bare(found)) < 1e-6, there.name
            return True
        there, found = again, adaptzip.read(again)
    assert farthest(given, found) < 1e-6, there.name
    return found.meta.dialect != given.meta.dialect or keys_of(there) == keys_of(first)


def farthest(wanted: Adapter, found: Adapter) -> float:
    """The greatest |dW - dW'| / |dW| of a module; modules and what lies beside their updates have to be the same."""
    assert found.modules.keys() == wanted.modules.keys()
    extras = [by_target(adapter) for adapter in (wanted, found)]
    assert extras[0].keys() == extras[1].keys()
    assert all(same_bits(tensor, extras[1][name]) for name, tensor in extras[0].items())
    return max(_apart(module, found.modules[name]) for name, module in wanted.modules.items())


def _apart(wanted: LoraFactors, found: LoraFactors) -> float:
    assert (found.shape, found.kernel) == (wanted.shape, wanted.kernel)
    for ours, theirs in ((wanted.magnitude, found.magnitude), (wanted.bias, found.bias)):
        assert (ours is None) == (theirs is None)
        assert ours is None or theirs is None or torch.allclose(ours.double(), theirs.double(), rtol=1e-6)
    width = wanted.A.shape[1]
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(width, _INPUTS, generator=generator, dtype=torch.float64)
    whole, other = (
        _of(factors, torch.eye(width).double() if width <= _SMALL else inputs) for factors in (wanted, found)
    )
    return float((whole - other).norm() / whole.norm().clamp_min(1e-30))


def _of(factors: LoraFactors, inputs: Tensor) -> Tensor:
    """What the update makes of inputs (in, n), in float64, a kernel flattened into the inputs."""
    return factors.B.double() @ (factors.A.double() @ inputs) * factors.scaling


def bare(adapter: Adapter) -> Adapter:
    """The modules alone, without the component of a pipeline in their names."""
    pipeline = conventions(adapter.meta.dialect).pipelines
    return Adapter({name.partition(".")[2] if pipeline else name: m for name, m in adapter.modules.items()})


def keys_of(path: Path) -> Collection[str]:
    """The keys of a checkpoint."""
    return open_checkpoint(path).tensors.keys()
