"""Other people's adapters, and the keys of image LoRAs filled with numbers: every dialect keeps their update, or says
why it cannot; the one that they came in gives back their bytes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import adaptzip
from adaptzip.checkpoints import Writer, dialect
from adaptzip.core.adapter import Adapter
from adaptzip.errors import AdaptzipError
from adaptzip.restoring.exporting import PORTABLE
from adaptzip.restoring.opening import weight_file
from tests.cases.dialect_pairs import (
    DENOISER,
    EXTRAS,
    FEED_FORWARD,
    FOR_LANGUAGE,
    LANGUAGE,
    NO_FLUX,
    OTHER_NAMES,
    PIPELINE,
    SEVERAL,
    TARGETS,
    TEXT,
    TEXTS,
    Reasons,
    as_told,
    check_same,
    written,
)

pytestmark = pytest.mark.filterwarnings("ignore:module .* is taken for one of Flux")
Shapes = Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class Told:
    """What is expected of a file.

    Attributes:
        refused: what is said of it to the dialects that cannot hold it.
        unread: why it is not read, instead.
        no_way: why what was written does not come back under its own names, by dialect.
        own: a dialect with the same names, where theirs is read alone.
        file: its name in its folder, where the folder is not read as a whole.
        bytes: whether its own dialect gives back every byte.
        reading: how it is read.
    """

    refused: Reasons = field(default_factory=dict)
    unread: str = ""
    no_way: Reasons = field(default_factory=dict)
    own: str = ""
    file: str = ""
    bytes: bool = True
    reading: Mapping[str, Any] = field(default_factory=dict)


IMAGE = {**DENOISER, **dict.fromkeys(LANGUAGE, FOR_LANGUAGE)}
ENCODERS = {**PIPELINE, **dict.fromkeys(LANGUAGE, FOR_LANGUAGE)}
FLUX = {**IMAGE, "xlabs": FEED_FORWARD}
ADDED = {name: EXTRAS for name in TARGETS if name not in ("peft", PORTABLE, *LANGUAGE)}
NO_GGUF = {**TEXT, "gguf": "whose tensors in GGUF are not known here"}
HEADED = {**NO_GGUF, **dict.fromkeys(("mlx", PORTABLE), EXTRAS)}
CLIP = {**DENOISER, "gguf": NO_GGUF["gguf"], "bfl": OTHER_NAMES}
OTHERS = {**IMAGE, "bfl": OTHER_NAMES}
AMBIGUOUS = "may be of Flux"
SEVERAL_MODELS = dict.fromkeys(("peft", PORTABLE), SEVERAL)
ODD_ROWS = dict.fromkeys(("attention-processors", "diffusers"), "expected 3 outputs for an input in Flux")

ADAPTERS: Mapping[str, Told] = {
    "bk7195-delta": Told(NO_GGUF),
    "bloom-lora-wujindou": Told(NO_GGUF, bytes=False),
    "cloneofsimo-analog": Told(ENCODERS, own="diffusers", bytes=False),
    "cloneofsimo-disney": Told({**ENCODERS, **ADDED}, bytes=False),
    "diffusers-catundchat": Told({**IMAGE, "attention-processors": ""}),
    "gpt2-tigrinya": Told(TEXT),
    "loralib-roberta-mnli": Told(HEADED, bytes=False, reading={"alpha": 16}),
    "lycoris-lokr": Told(ENCODERS, file="smart_falcon_4_lokr.safetensors", bytes=False),
    "minilm-trec-r8": Told(HEADED),
    "mlx-wyek1n": Told(TEXT),
    "movies-lora-sara": Told(NO_GGUF),
    "roberta-agnews-aguleon": Told(HEADED),
    "roberta-pt-paulo": Told(HEADED),
    "sam-lora-mathieu": Told(unread="looks like a LoRA of a segment-anything model", file="lora_rank2.safetensors"),
    "sd15-te-hansjohn": Told(CLIP),
    "sdxl-te-hansjohn": Told(CLIP),
    "smollm2-trec-r8": Told(TEXT),
}
KEYS: Mapping[str, Told] = {
    "anima_lora_kohya_format": Told(OTHERS),
    "anima_lora_kohya_with_te_format": Told(
        {**OTHERS, **SEVERAL_MODELS, "comfyui": "is of a text encoder that adaptzip knows no name in ComfyUI for"},
        no_way={
            "diffusers": "may be of Stable Diffusion 3, Anima or LTX-Video"
        },  # Of two blocks, and narrower than either's.
    ),
    "anima_lora_lokr_format": Told(unread="has a DoRA magnitude [128], expected [2048, 1], a number for each output"),
    "anima_lora_peft_format": Told(OTHERS, no_way=dict.fromkeys(("diffusers", "peft", PORTABLE), "or LTX-Video")),
    "flux_control_lora_format": Told({**IMAGE, **ADDED, PORTABLE: EXTRAS, "bfl": ""}),
    "flux_dora_onetrainer_format": Told(
        {
            **IMAGE,
            **SEVERAL_MODELS,
            "diffusers": "cannot hold DoRA magnitudes for each input",
            "attention-processors": "cannot hold DoRA magnitudes",
            **dict.fromkeys(
                ("bfl", "comfyui", "xlabs"), "has a DoRA magnitude of its inputs, and one layer has room for one"
            ),
        }
    ),
    "flux_lokr_bfl_format": Told({**FLUX, **ODD_ROWS}, bytes=False),
    "flux_lora_aitoolkit_format": Told(FLUX),
    "flux_lora_diffusers_base_model_format": Told(FLUX),
    "flux_lora_diffusers_format": Told(FLUX),
    "flux_lora_diffusers_no_proj_mlp_format": Told({**IMAGE, "xlabs": NO_FLUX}),
    "flux_lora_kohya_format": Told(FLUX),
    "flux_lora_kohya_with_te1_format": Told({**FLUX, **SEVERAL_MODELS, "bfl": TEXTS}),
    "flux_lora_xlabs_format": Told(
        {**IMAGE, "xlabs": ""}, no_way=dict.fromkeys(("diffusers", "peft", PORTABLE), AMBIGUOUS)
    ),
    "krea2_lora_kohya_format": Told(OTHERS),
    "qwen_image_lora_diffusers_format": Told(
        {**IMAGE, **dict.fromkeys(("bfl", "comfyui", "kohya", "xlabs"), AMBIGUOUS)}
    ),
    "qwen_image_lora_kohya_format": Told({**IMAGE, "bfl": OTHER_NAMES}, bytes=False),
}
HEAVY = ("lycoris-lokr",)
"""Whose products have twenty million numbers as plain factors."""
WHOLE = (
    "flux_dora_onetrainer_format", "flux_lora_diffusers_base_model_format", "flux_lora_kohya_with_te1_format",
    "flux_lora_xlabs_format", "krea2_lora_kohya_format",
)  # fmt: skip
"""With up to twenty million numbers, as they are."""

_GPT2 = {"model_type": "gpt2", "n_embd": 768, "n_layer": 12, "n_head": 12, "tie_word_embeddings": True}
_QWEN = {"num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2, "hidden_size": 896}
_SMOL = {"num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "hidden_size": 576}
BASES: Mapping[str, Mapping[str, Any]] = {
    "gpt2-tigrinya": _GPT2,
    "mlx-wyek1n": {"model_type": "qwen2", **_QWEN},
    "smollm2-trec-r8": {"model_type": "llama", **_SMOL},
}
"""What the config.json of bases says that llama.cpp knows."""


def based(folder: Path, name: str) -> Path:
    """A folder with what is known of an adapter's base model."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(BASES.get(name, {"model_type": "some-other"})))
    return folder


def check(source: Path, told: Told, tmp_path: Path, base: Path) -> None:
    """Hold one file against all that is written of it."""
    if told.unread:
        with pytest.raises(AdaptzipError, match=re.escape(told.unread)):
            adaptzip.read(source, **told.reading)
        return
    given = adaptzip.read(source, **told.reading)
    packed = tmp_path / "x.adz"
    adaptzip.compress(source, packed, lossless=True, **told.reading)
    check_own(source, given, told, tmp_path, base)
    for target in TARGETS:
        pair = f"{source.name} to {target}"
        there = as_told(written(packed, tmp_path / target, target, base), told.refused.get(target, ""), pair)
        if there is not None:
            back = tmp_path / f"{target}-back"
            check_same(given, source, there, back, base, own=told.own, no_way=told.no_way.get(target, ""))


def check_own(source: Path, given: Adapter, told: Told, tmp_path: Path, base: Path) -> None:
    """Where nothing else is asked for, a file of plain factors comes back as it was."""
    own = isinstance(dialect(given.meta.dialect), Writer) and not given.meta.config.get("made_of")
    assert own == told.bytes
    if own:
        found = written(tmp_path / "x.adz", tmp_path / "own", None, base)
        assert isinstance(found, Path), found
        assert weight_file(found).read_bytes() == weight_file(source).read_bytes()


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in HEAVY else []) for name in ADAPTERS]
)
@pytest.mark.filterwarnings("ignore:.*products of:adaptzip.errors.AdaptzipWarning")
@pytest.mark.filterwarnings("ignore:.*is left alone:adaptzip.errors.AdaptzipWarning")
def test_other_peoples_adapters_go_wherever_they_can_be_held(name: str, material: Path, tmp_path: Path) -> None:
    told = ADAPTERS[name]
    check(material / "adapters" / name / told.file, told, tmp_path, based(tmp_path / "base", name))


def filled(shapes: Shapes) -> dict[str, Tensor]:
    """Numbers for a table of keys."""
    generator = torch.Generator().manual_seed(0)
    return {
        key: 0.1 * torch.randn(*shape, generator=generator).abs() if shape else torch.tensor(4.0)
        for key, shape in shapes.items()
    }


def cut(shapes: Shapes) -> Shapes:
    """The first two blocks of each kind, with widths by a factor smaller that all of them have."""
    first = {key: shape for key, shape in shapes.items() if int((*re.findall(r"[._](\d+)[._]", key), 0)[0]) < 2}
    return {key: [_smaller(size, "lokr" in key) for size in shape] for key, shape in first.items()}


def _smaller(size: int, product: bool) -> int:
    """Factors of a product have small sides."""
    least, by = (32, (48, 8)) if product else (256, (48, 16))
    return next((size // number for number in by if size >= least and size % number == 0), size)


@pytest.mark.parametrize("name", KEYS)
@pytest.mark.filterwarnings("ignore:.*products of:adaptzip.errors.AdaptzipWarning")
def test_the_keys_of_other_peoples_adapters_go_wherever_they_can_be_held(
    name: str, material: Path, tmp_path: Path
) -> None:
    shapes = json.loads((material / "keydumps" / f"{name}.json").read_text())
    source = tmp_path / f"{name}.safetensors"
    save_file(filled(cut(shapes)), source, {"format": "pt", "ss_output_name": name})
    check(source, KEYS[name], tmp_path, based(tmp_path / "base", name))


@pytest.mark.slow
@pytest.mark.parametrize("name", WHOLE)
def test_whole_tables_of_keys_go_wherever_they_can_be_held(name: str, material: Path, tmp_path: Path) -> None:
    shapes = json.loads((material / "keydumps" / f"{name}.json").read_text())
    save_file(filled(shapes), tmp_path / f"{name}.safetensors")
    check(tmp_path / f"{name}.safetensors", KEYS[name], tmp_path, based(tmp_path / "base", name))


def test_nothing_of_the_material_is_left_out(material: Path) -> None:
    assert {path.name for path in (material / "adapters").iterdir()} == ADAPTERS.keys()
    assert {path.stem for path in (material / "keydumps").glob("*.json")} == KEYS.keys()
