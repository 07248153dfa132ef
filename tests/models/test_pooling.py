"""Embeddings are pooled as the base model's folder says, which is what sentence-transformers would put out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import BertModel, CLIPConfig, CLIPModel, DPRConfig, DPRQuestionEncoder

from adaptzip.errors import AdaptzipWarning, BaseModelError, RefusedError
from adaptzip.fitting.calibration.gradients import module_gradients
from adaptzip.models.live.running import Loading, load_base, load_teacher
from tests.cases import tiny_peft
from tests.cases.models_on_disk import TEXTS, adapter, save
from tests.cases.teachers import CPU

ROWS = ([2, 3, 4, 5, 6, 7], [4, 3])
SIZES = {"num_hidden_layers": 1, "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2}
PLACE = "sentence_transformers.models."


def encoder() -> Any:
    tiny_peft.set_seed(0)
    return BertModel(tiny_peft.bert().config)


def sentences(folder: Path, pooling: object, *more: str) -> Path:
    """The base with the files of sentence-transformers; `more` are modules behind the pooling."""
    save(encoder, folder)
    kinds = ["Transformer", "Pooling", *more]
    places = ["", *(f"{number}_{kind}" for number, kind in enumerate(kinds[1:], 1))]
    modules = [{"path": place, "type": PLACE + kind} for place, kind in zip(places, kinds, strict=True)]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return folder


EXPECTED: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda states: states.mean(0),
    "cls": lambda states: states[0],
    "lasttoken": lambda states: states[-1],
    "max": lambda states: states.max(0).values,
    "mean_sqrt_len_tokens": lambda states: states.sum(0) / len(states) ** 0.5,
    "weightedmean": lambda states: torch.arange(1.0, len(states) + 1) @ states / (len(states) * (len(states) + 1) / 2),
}


def expected(base: Path, modes: tuple[str, ...]) -> Tensor:
    """Of the model without its adapter, from its hidden states, one text at a time."""
    model = BertModel.from_pretrained(base).eval()
    with torch.no_grad():
        states = [model(input_ids=torch.tensor([row])).last_hidden_state[0] for row in ROWS]
    return torch.stack([torch.cat([EXPECTED[mode](row) for mode in modes]) for row in states])


@pytest.mark.parametrize("mode", EXPECTED)
def test_the_folders_pooling_is_followed(mode: str, tmp_path: Path) -> None:
    base = sentences(tmp_path, {"embedding_dimension": 16, "pooling_mode": mode}, "Normalize")
    loaded = load_base(base, [], CPU)
    # Both in one batch, where the shorter one is padded.
    torch.testing.assert_close(loaded(loaded.batch(ROWS)), expected(base, (mode,)), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("pooling", "modes"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, ("cls",)),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}, ("cls", "mean")),
        ({"pooling_mode": ["mean", "max"]}, ("mean", "max")),
        ({"pooling_mode_mean_tokens": False}, ("mean",)),
    ],
)
def test_older_files_and_several_modes(pooling: object, modes: tuple[str, ...], tmp_path: Path) -> None:
    base = sentences(tmp_path, pooling)
    loaded = load_base(base, [], CPU)
    torch.testing.assert_close(loaded(loaded.batch(ROWS)), expected(base, modes), atol=1e-6, rtol=1e-5)


def test_gradients_go_through_the_pooling(tmp_path: Path) -> None:
    lora = adapter(encoder(), "query")
    mean, first = (sentences(tmp_path / mode, {"pooling_mode": mode}) for mode in ("mean", "cls"))
    found = [module_gradients(base, TEXTS, list(lora.modules)) for base in (mean, first)]
    assert all(bool(gradient.any()) for one in found for gradient in one.values())
    by_mean, by_first = (next(iter(one.values())) for one in found)
    assert not torch.allclose(by_mean, by_first)


def test_modules_that_are_not_run_are_told(tmp_path: Path) -> None:
    base = sentences(tmp_path, {"pooling_mode": "cls"}, "Dense")
    with pytest.warns(AdaptzipWarning, match="2_Dense of modules.json is not run: embeddings before it"):
        load_teacher(base, adapter(encoder(), "query"), CPU, loading=Loading(tell=True))


def test_what_is_not_known_is_refused(tmp_path: Path) -> None:
    base = sentences(tmp_path, {"pooling_mode": "attention"})
    lora = adapter(encoder(), "query")
    with pytest.raises(RefusedError, match=r"1_Pooling/config.json: the pooling 'attention' is not known"):
        load_teacher(base, lora, CPU)
    for damaged in ("{", "{}", '[{"path": "../x", "type": "a.Pooling"}]', '[{"path": ""}]'):
        (base / "modules.json").write_text(damaged)
        with pytest.raises(BaseModelError, match=r"modules.json: (is not readable|expected a list)"):
            load_teacher(base, lora, CPU)


def test_models_whose_embeddings_are_none_of_tokens(tmp_path: Path) -> None:
    def questions() -> Any:
        return DPRQuestionEncoder(DPRConfig(vocab_size=32, max_position_embeddings=16, **SIZES))

    def pictures() -> Any:
        text = {**SIZES, "vocab_size": 32, "max_position_embeddings": 16}
        return CLIPModel(CLIPConfig(text_config=text, vision_config={**SIZES, "image_size": 8, "patch_size": 4}))

    base = save(questions, tmp_path / "dpr")
    with pytest.raises(RefusedError, match="DPRQuestionEncoder puts out no hidden states"):
        load_teacher(base, adapter(questions(), "query"), CPU)
    base = save(pictures, tmp_path / "clip")
    with pytest.raises(RefusedError, match="CLIPModel is no encoder of texts alone"):
        load_teacher(base, adapter(pictures(), "q_proj"), CPU)
