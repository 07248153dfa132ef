"""An adapter that does not fit its base is refused by the module's name, the nearest in the base, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.core.meta import Meta
from adaptzip.errors import AdaptzipError, BaseModelError, RefusedError
from adaptzip.restoring.merging import merge
from tests.cases.base_folders import MODULE, write_config, write_llama
from tests.cases.base_folders import adapter as lora

KEY = "base_model.model."
WHICH = "is this the base model that the adapter was trained on?"
RESIZED = "resize_token_embeddings"
STACK = "model.layers.0.mlp.experts"


def zeros(*shape: int) -> Tensor:
    return torch.zeros(shape)


def with_extra(key: str, tensor: Tensor, **config: Any) -> Adapter:
    return replace(lora(), extras={KEY + key: tensor}, meta=Meta("peft", config))


def by_input(adapter: Adapter, width: int) -> Adapter:
    return Adapter({name: replace(f, magnitude=torch.ones(1, width)) for name, f in adapter.modules.items()})


def embedding(tokens: int, width: int) -> Adapter:
    return Adapter({"model.embed_tokens": LoraFactors(zeros(2, tokens), zeros(width, 2), layout="embedding")})


LLAMA: dict[str, tuple[Adapter, str, str]] = {
    "a layer too many": (
        lora("model.layers.7.self_attn.q_proj"),
        r"lacks 1 of the adapter's 1 modules: model.layers.7.self_attn.q_proj; similar there: model.layers.0.self_attn."
        r"\w+, .*; it has 1 of model.layers.#.self_attn.q_proj, numbered from 0",
        WHICH,
    ),
    "another name": (
        lora("model.layers.0.self_attn.query"),
        r"modules: model.layers.0.self_attn.query; similar there: model.layers.0.self_attn.\w+",
        "transformers 4 and 5 name some",
    ),
    "another architecture": (lora("h.0.crossattention"), r"lacks 1 of .* 1 modules: h.0.crossattention$", WHICH),
    "another width": (
        lora(width=17),
        r"q_proj.weight is \[16, 16\], the adapter's model.layers.0.self_attn.q_proj expects \[16, 17\]",
        WHICH,
    ),
    "another vocabulary": (embedding(24, 16), r"embed_tokens.weight is \[20, 16\], .*expects \[24, 16\]", RESIZED),
    "another vocabulary of the head": (lora("lm_head", 24, 16), r"lm_head.weight is \[20, 16\], .*\[24, 16\]", RESIZED),
    "another width of the embedding": (embedding(20, 12), r"embed_tokens.weight is \[20, 16\], .*\[20, 12\]", WHICH),
    "a convolution": (
        Adapter({MODULE: LoraFactors(zeros(2, 36), zeros(16, 2), layout="conv", kernel=(3, 3))}),
        r"q_proj.weight is \[16, 16\], the adapter's model.layers.0.self_attn.q_proj expects \[16, 4, 3, 3\]",
        WHICH,
    ),
    "an extra without a place": (
        with_extra("model.layers.0.self_attn.q_proj.base_layer.bias", zeros(16)),
        r"lacks the tensor model.layers.0.self_attn.q_proj.bias, which the adapter's base_model.*base_layer.bias is to "
        r"replace; similar there: model.layers.0.self_attn.\w+.weight",
        WHICH,
    ),
    "an extra of another shape": (
        with_extra("model.embed_tokens.weight", zeros(20, 12), modules_to_save=["embed_tokens"]),
        r"embed_tokens.weight is \[20, 16\], but the adapter's base_model.*embed_tokens.weight is \[20, 12\]",
        WHICH,
    ),
    "token rows of another width": (
        with_extra(
            "model.embed_tokens.token_adapter.trainable_tokens_delta", zeros(2, 12), trainable_token_indices=[1, 2]
        ),
        r"embed_tokens.weight has rows of \[16\], but the adapter's .*trainable_tokens_delta \[12\]",
        WHICH,
    ),
}


def refused(kind: type[AdaptzipError], source: Adapter, base: Path, match: str, hint: str) -> None:
    with pytest.raises(kind, match=match) as error:
        merge(source, base, base.parent / "merged")
    assert hint in str(error.value.hint)
    assert "\n" not in str(error.value)
    assert not (base.parent / "merged").exists()


@pytest.mark.parametrize("case", LLAMA)
def test_what_does_not_fit(case: str, tmp_path: Path) -> None:
    source, match, hint = LLAMA[case]
    refused(BaseModelError, source, write_llama(tmp_path / "base"), match, hint)


EXPERTS: dict[str, tuple[type[AdaptzipError], Adapter, Mapping[str, Tensor], str, str]] = {
    "an expert too many, apart": (
        BaseModelError, lora(f"{STACK}.3.up_proj", 6), {f"{STACK}.gate_up_proj": zeros(3, 12, 16)},
        r"modules: model.layers.0.mlp.experts.3.up_proj.*; it has 3 of model.layers.0.mlp.experts.#.up_proj", WHICH,
    ),
    "an expert too many, stacked": (
        BaseModelError, Adapter({f"{STACK}.down_proj[2]": LoraFactors(zeros(2, 6), zeros(16, 2), layout="expert")}),
        {f"{STACK}.{e}.down_proj.weight": zeros(16, 6) for e in range(2)},
        r"modules: .*experts.down_proj\[2\].*; it has 2 of model.layers.0.mlp.experts.down_proj\[#\]", WHICH,
    ),
    "narrower experts": (
        BaseModelError, lora(f"{STACK}.1.up_proj", 8), {f"{STACK}.gate_up_proj": zeros(3, 12, 16)},
        r"gate_up_proj is \[12, 16\], the adapter's .*experts.1.up_proj expects \[16, 16\]", WHICH,
    ),
    "experts that are trained whole": (
        BaseModelError, with_extra(f"{STACK}.down_proj", zeros(2, 16, 8), modules_to_save=["experts"]),
        {f"{MODULE}.weight": zeros(16, 16), **{f"{STACK}.{e}.down_proj.weight": zeros(16, 6) for e in range(2)}},
        r"do not fit the adapter's \[2, 16, 8\]: .*experts.0.down_proj.weight is \[16, 6\], expected \[16, 8\]", WHICH,
    ),
    "a magnitude for each input": (
        RefusedError, by_input(lora("model.layers.0.attn", 24), 16), {"model.layers.0.attn.weight": zeros(16, 24)},
        r"attn.weight lies as transposed, but the adapter's model.layers.0.attn has a DoRA magnitude for each input",
        "in the form that it was trained on",
    ),
    "several places": (
        BaseModelError, lora("a.layers.0.q_proj"), {f"{t}.layers.0.q_proj.weight": zeros(16, 16) for t in ("x", "y")},
        r"the adapter's a.layers.0.q_proj fits at several places of the base, equally well: x.layers.0.q_proj.weight, "
        r"y.layers.0.q_proj.weight", "give the base model that",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", EXPERTS)
def test_what_does_not_fit_elsewhere(case: str, tmp_path: Path) -> None:
    kind, source, tensors, match, hint = EXPERTS[case]
    base = write_config(tmp_path / "base", model_type="unheard_of", architectures=None)
    save_file(dict(tensors), base / "model.safetensors", metadata={"format": "pt"})
    refused(kind, source, base, match, hint)
