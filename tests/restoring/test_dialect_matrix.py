"""From every dialect through a lossless `.adz` to every dialect: the same update and the same keys, or a reason.

A pair that is refused stands in the tables with what is said of it, so that one that begins or ceases to be possible
fails here. Where two dialects call or cut modules otherwise, what is compared has come back into the first.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

import adaptzip
from adaptzip.checkpoints import NativeWriter, Reader, Writer, conventions, dialects
from adaptzip.core.adapter import Adapter
from adaptzip.errors import AdaptzipError, RefusedError
from adaptzip.restoring.exporting import PORTABLE
from adaptzip.testing.dialects import DialectTests
from tests.cases.adapters_of_models import ADAPTERS, LLAMA_CONFIG
from tests.cases.same_updates import farthest, keys_of
from tests.checkpoints import test_dialects_conform as suites

SOURCES = tuple(name for name, found in dialects().items() if isinstance(found, Writer) and isinstance(found, Reader))
TARGETS = (*SOURCES, PORTABLE)
IMAGE = tuple(name for name in SOURCES if conventions(name).pipelines)
LANGUAGE = ("gguf", "mlx")
NATIVE = tuple(name for name, found in dialects().items() if isinstance(found, NativeWriter))
READ_ALONE = tuple(name for name, found in dialects().items() if isinstance(found, Reader) and name not in SOURCES)

NO_PIPELINE = "no component of an image pipeline"
FOR_LANGUAGE = "is for language models"
NO_TENSOR = "modules that have no tensor of their own in llama"
EXTRAS = "cannot hold tensors beside the factors"
MAGNITUDES = "cannot hold DoRA magnitudes"
SEVERAL = "is of several models"
NO_ATTENTION, NO_FLUX = "is no projection of a UNet's attention", "is no attention of Flux"
OTHER_NAMES = "is of a model that is not told by its bare names"
TEXTS = "is of a text encoder, for which"
FEED_FORWARD = "updates the feed-forward layer"

Reasons = Mapping[str, str]
_TEXT = dict.fromkeys(IMAGE, NO_PIPELINE)
_ONE = {"gguf": NO_TENSOR, "attention-processors": NO_ATTENTION, "xlabs": NO_FLUX}
"""Of the denoiser alone."""
_TWO = {**_ONE, "bfl": TEXTS, **dict.fromkeys((*LANGUAGE, "peft", PORTABLE), SEVERAL)}
"""With text encoders."""
REFUSED: Mapping[str, Reasons] = {
    "a llama": _TEXT,
    "a llama with a head": {**_TEXT, **dict.fromkeys((*LANGUAGE, PORTABLE), EXTRAS)},
    "a llama with DoRA": {**_TEXT, "gguf": MAGNITUDES, PORTABLE: MAGNITUDES},
    "a llama with an embedding": _TEXT,
    "a CLIP": {**_ONE, "bfl": OTHER_NAMES},
    "a UNet by PEFT": {**_ONE, **dict.fromkeys(LANGUAGE, "cannot hold convolutions")},
    "Stable Diffusion 1": _TWO,
    "the attention of Stable Diffusion 1": {"gguf": NO_TENSOR, "xlabs": NO_FLUX},
    "Stable Diffusion 1 with DoRA": {"gguf": NO_TENSOR, "xlabs": NO_FLUX, PORTABLE: MAGNITUDES},
    "Stable Diffusion 1 with a norm": {
        **dict.fromkeys(("bfl", "comfyui", "diffusers", "xlabs", PORTABLE), EXTRAS),
        "attention-processors": NO_ATTENTION,
        "peft": "cannot hold differences that are added",
    },
    "SDXL": _TWO,
    "Flux": {**_ONE, "xlabs": FEED_FORWARD},
    "the attention of Flux": {name: said for name, said in _ONE.items() if name != "xlabs"},
    "Flux with its text encoders": {**_TWO, "xlabs": FEED_FORWARD},
    "Stable Diffusion 3": {**_ONE, "mlx": "cannot hold convolutions"},
    "Qwen-Image": {**_ONE, "bfl": OTHER_NAMES},
    "Wan": {**_ONE, "mlx": "cannot hold convolutions"},
    "Z-Image": {**_ONE, "bfl": OTHER_NAMES},
}
"""What is said of each model to the dialects that cannot hold it."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configuration of a llama, which GGUF asks for."""
    folder = tmp_path_factory.mktemp("base")
    (folder / "config.json").write_text(json.dumps(LLAMA_CONFIG))
    return folder


def reason(model: str, source: str, target: str) -> str:
    """What is said where a model's adapter in one dialect is refused by another, or "" where it is held."""
    if target in LANGUAGE and conventions(source).pipelines:
        return FOR_LANGUAGE
    return REFUSED[model].get(target, "")


def written(source: Adapter | Path, folder: Path, target: str, base: Path, *, drop: bool = False) -> Path | str:
    """What was written, or the reason why nothing was."""
    try:
        return adaptzip.export(source, folder, as_=target, base=base, drop_extras=drop).path
    except AdaptzipError as error:
        assert not folder.exists()
        return str(error)


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("model", ADAPTERS)
def test_an_update_goes_wherever_it_can_be_held(model: str, source: str, tmp_path: Path, base: Path) -> None:
    given = ADAPTERS[model]
    first = written(given, tmp_path / "first", source, base)
    if isinstance(first, str):
        wanted = reason(model, given.meta.dialect, source)
        assert wanted, first
        assert wanted in first
        return
    adaptzip.compress(first, tmp_path / "x.adz", lossless=True)
    for target in TARGETS:
        there = written(tmp_path / "x.adz", tmp_path / target, target, base)
        wanted = reason(model, source, target)
        assert bool(wanted) == isinstance(there, str), f"{source} to {target}: {there}"
        if isinstance(there, str):
            assert wanted in there, target
        else:
            _same(adaptzip.read(first), first, there, tmp_path / f"{target}-back", source, base)


def _same(given: Adapter, first: Path, there: Path, back: Path, source: str, base: Path) -> None:
    """What was written means the same update, at once or after it came back, and then with the same keys."""
    found = adaptzip.read(there)
    if source in LANGUAGE and conventions(found.meta.dialect).pipelines:
        assert farthest(_bare(given), _bare(found)) < 1e-6  # A text encoder's, for which there is no way back.
        return
    if found.modules.keys() != given.modules.keys():
        again = written(there, back, source, base)
        assert isinstance(again, Path), again
        there, found = again, adaptzip.read(again)
    assert farthest(given, found) < 1e-6, there.name
    if found.meta.dialect == given.meta.dialect:
        assert keys_of(there) == keys_of(first), there.name


def _bare(adapter: Adapter) -> Adapter:
    """The modules alone, without the component of a pipeline in their names."""
    pipeline = conventions(adapter.meta.dialect).pipelines
    return Adapter({name.partition(".")[2] if pipeline else name: m for name, m in adapter.modules.items()})


QUERY_CONFIG = {**LLAMA_CONFIG, "num_attention_heads": 3, "num_key_value_heads": 1}
"""Of the base of what is read alone, whose query has 24 rows."""
_LOSSLESS = dict.fromkeys(NATIVE, "is a lossless file of method")
_OF_ENCODER = {**_ONE, **dict.fromkeys(LANGUAGE, FOR_LANGUAGE), "bfl": OTHER_NAMES}
_OF_ROBERTA = {**_TEXT, "gguf": NO_TENSOR}
READ_ALONE_REFUSED: Mapping[str, Reasons] = {
    **dict.fromkeys(READ_ALONE, _TEXT),
    **dict.fromkeys(("adalora", "increlora", "loralib", "vblora-nlu"), _OF_ROBERTA),
    "cloneofsimo": _OF_ENCODER,
}
"""What is said, beside of tensors that are no factors, of each dialect that is read alone."""


@pytest.mark.parametrize("source", READ_ALONE)
def test_what_is_read_alone_goes_wherever_it_can_be_held(source: str, tmp_path: Path) -> None:
    suite = next(found for found in DialectTests.__subclasses__() if found.dialect.name == source)()
    (tmp_path / "base").mkdir()
    suite.base = suites.one_layer(tmp_path / "base")
    (suite.base / "config.json").write_text(json.dumps(QUERY_CONFIG))
    first = suite.checkpoint(tmp_path / "first")
    needed = suite.base if source == "peft-miss" else None
    given = _bare(adaptzip.read(first, base=needed))
    adaptzip.compress(first, tmp_path / "x.adz", lossless=True, base=needed)
    for target in (*TARGETS, *NATIVE):
        there = written(tmp_path / "x.adz", tmp_path / target, target, suite.base, drop=True)
        wanted = {**READ_ALONE_REFUSED[source], **_LOSSLESS}.get(target, "")
        assert bool(wanted) == isinstance(there, str), f"{source} to {target}: {there}"
        if isinstance(there, str):
            assert wanted in there, target
        else:
            assert farthest(given, _bare(adaptzip.read(there))) < 1e-6, target


def test_functions_are_of_their_own_dialect_alone(tmp_path: Path, base: Path) -> None:
    packed = suites.TestLorettaAdp().compressed()
    for target in TARGETS:
        with pytest.raises(RefusedError, match="its functions behind layers are no update of weights"):
            adaptzip.export(packed, tmp_path / target, as_=target, base=base)
    first = adaptzip.export(packed, tmp_path / "first", as_="loretta-adp")
    adaptzip.compress(first.path, tmp_path / "x.adz", lossless=True)
    again = adaptzip.export(tmp_path / "x.adz", tmp_path / "again", as_="loretta-adp")
    assert [(again.path / name).read_bytes() for name in again.files] == [
        (first.path / name).read_bytes() for name in first.files
    ]
