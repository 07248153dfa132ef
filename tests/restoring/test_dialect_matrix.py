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
from adaptzip.checkpoints import Reader, conventions, dialects
from adaptzip.errors import RefusedError
from adaptzip.restoring.exporting import PORTABLE
from adaptzip.testing.dialects import DialectTests
from tests.cases.adapters_of_models import ADAPTERS, LLAMA_CONFIG
from tests.cases.dialect_pairs import (
    DENOISER,
    EXTRAS,
    FEED_FORWARD,
    FOR_LANGUAGE,
    LANGUAGE,
    MAGNITUDES,
    NATIVE,
    NO_FLUX,
    NO_TENSOR,
    OTHER_NAMES,
    PIPELINE,
    SOURCES,
    TARGETS,
    TEXT,
    Reasons,
    as_told,
    bare,
    check_same,
    farthest,
    written,
)
from tests.checkpoints import test_dialects_conform as suites

pytestmark = pytest.mark.filterwarnings("ignore:module .* is taken for one of Flux")
READ_ALONE = tuple(name for name, found in dialects().items() if isinstance(found, Reader) and name not in SOURCES)
CONVOLUTIONS = "cannot hold convolutions"
REFUSED: Mapping[str, Reasons] = {
    "a llama": TEXT,
    "a llama with a head": {**TEXT, **dict.fromkeys((*LANGUAGE, PORTABLE), EXTRAS)},
    "a llama with DoRA": {**TEXT, "gguf": MAGNITUDES, PORTABLE: MAGNITUDES},
    "a llama with an embedding": TEXT,
    "a CLIP": {**DENOISER, "bfl": OTHER_NAMES},
    "a UNet by PEFT": {**DENOISER, **dict.fromkeys(LANGUAGE, CONVOLUTIONS)},
    "Stable Diffusion 1": PIPELINE,
    "the attention of Stable Diffusion 1": {"gguf": NO_TENSOR, "xlabs": NO_FLUX},
    "Stable Diffusion 1 with DoRA": {
        "gguf": NO_TENSOR,
        **dict.fromkeys(("attention-processors", "xlabs", PORTABLE), MAGNITUDES),
    },
    "Stable Diffusion 1 with a norm": {
        **dict.fromkeys(("attention-processors", "diffusers", PORTABLE), EXTRAS),
        "xlabs": NO_FLUX,
        "peft": "cannot hold differences that are added",
    },
    "SDXL": PIPELINE,
    "Flux": {**DENOISER, "xlabs": FEED_FORWARD},
    "the attention of Flux": {name: said for name, said in DENOISER.items() if name != "xlabs"},
    "Flux with its text encoders": {**PIPELINE, "xlabs": FEED_FORWARD},
    "Stable Diffusion 3": {**DENOISER, "mlx": CONVOLUTIONS},
    "Qwen-Image": {**DENOISER, "bfl": OTHER_NAMES},
    "Wan": {**DENOISER, "mlx": CONVOLUTIONS},
    "Z-Image": {**DENOISER, "bfl": OTHER_NAMES},
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


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("model", ADAPTERS)
def test_an_update_goes_wherever_it_can_be_held(model: str, source: str, tmp_path: Path, base: Path) -> None:
    given = ADAPTERS[model]
    wanted = reason(model, given.meta.dialect, source)
    first = as_told(written(given, tmp_path / "first", source, base), wanted, f"{model} to {source}")
    if first is None:
        return
    adaptzip.compress(first, tmp_path / "x.adz", lossless=True)
    for target in TARGETS:
        wanted = reason(model, source, target)
        there = as_told(written(tmp_path / "x.adz", tmp_path / target, target, base), wanted, f"{source} to {target}")
        if there is not None:
            # A text encoder is a model to MLX, and a part of a pipeline to others.
            no_way = FOR_LANGUAGE if source in LANGUAGE and conventions(target).pipelines else ""
            back = tmp_path / f"{target}-back"
            assert check_same(adaptzip.read(first), first, there, back, base, no_way=no_way), target


QUERY_CONFIG = {**LLAMA_CONFIG, "num_attention_heads": 3, "num_key_value_heads": 1}
"""Of the base of what is read alone, whose query has 24 rows."""
_LOSSLESS = dict.fromkeys(NATIVE, "is a lossless file of method")
READ_ALONE_REFUSED: Mapping[str, Reasons] = {
    **dict.fromkeys(READ_ALONE, TEXT),
    **dict.fromkeys(("adalora", "increlora", "loralib", "vblora-nlu"), {**TEXT, "gguf": NO_TENSOR}),
    "cloneofsimo": {**DENOISER, **dict.fromkeys(LANGUAGE, FOR_LANGUAGE), "bfl": OTHER_NAMES},
}
"""What is said of each dialect that is read alone, without the tensors that are no factors."""


@pytest.mark.parametrize("source", READ_ALONE)
def test_what_is_read_alone_goes_wherever_it_can_be_held(source: str, tmp_path: Path) -> None:
    suite = next(found for found in DialectTests.__subclasses__() if found.dialect.name == source)()
    (tmp_path / "base").mkdir()
    suite.base = suites.one_layer(tmp_path / "base")
    (suite.base / "config.json").write_text(json.dumps(QUERY_CONFIG))
    first = suite.checkpoint(tmp_path / "first")
    needed = suite.base if source == "peft-miss" else None
    given = bare(adaptzip.read(first, base=needed))
    adaptzip.compress(first, tmp_path / "x.adz", lossless=True, base=needed)
    for target in (*TARGETS, *NATIVE):
        found = written(tmp_path / "x.adz", tmp_path / target, target, suite.base, drop=True)
        there = as_told(found, {**READ_ALONE_REFUSED[source], **_LOSSLESS}.get(target, ""), f"{source} to {target}")
        assert there is None or farthest(given, bare(adaptzip.read(there))) < 1e-6, target


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
