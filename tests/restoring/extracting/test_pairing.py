"""Models that are not named, tied or shaped alike: matched where merging back can hold it, else refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from torch import Tensor

import adaptzip
from adaptzip.errors import AdaptzipWarning, BaseModelError
from adaptzip.restoring.extracting import extraction
from tests.cases.base_folders import write_weights
from tests.cases.live_models import SIZES, llama
from tests.cases.tuned_models import largest_difference, mixtral, tensors_of, tune, write_pair

shared = pytest.mark.filterwarnings("ignore:the embedding shares its weight")


def untied() -> tf.PreTrainedModel:
    return llama(tie_word_embeddings=False)


def rewrite(folder: Path, change: Any) -> None:
    write_weights(folder / "model.safetensors", change(tensors_of(folder)))


def merged(adapter: adaptzip.Adapter, base: Path, tmp_path: Path) -> dict[str, Tensor]:
    folder = adaptzip.export(adapter, tmp_path / "adapter").path
    return tensors_of(adaptzip.merge(folder, base, tmp_path / "merged").path)


def test_a_new_head(tmp_path: Path) -> None:
    tf.set_seed(0)
    sizes = {"vocab_size": 32, "num_key_value_heads": 1, "pad_token_id": 0, **SIZES}
    tf.LlamaForCausalLM(tf.LlamaConfig(**sizes)).save_pretrained(tmp_path / "base")
    model = tf.LlamaForSequenceClassification.from_pretrained(tmp_path / "base", num_labels=3)
    torch.nn.init.normal_(model.model.layers[0].mlp.up_proj.weight)
    model.save_pretrained(tmp_path / "tuned")
    with pytest.warns(AdaptzipWarning, match="the tuned model lacks lm_head.weight: merged into the base"):
        found = extraction(tmp_path / "base", tmp_path / "tuned", rank="full")
    assert list(found.adapter.modules) == ["model.layers.0.mlp.up_proj"]
    assert list(found.adapter.extras) == ["base_model.model.score.weight"]
    assert found.missing == ("lm_head.weight",)
    again, tuned = merged(found.adapter, tmp_path / "base", tmp_path), tensors_of(tmp_path / "tuned")
    assert max(float((again[name] - tuned[name]).abs().max()) for name in tuned) < 1e-5
    assert tf.AutoConfig.from_pretrained(tmp_path / "merged").architectures == ["LlamaForSequenceClassification"]


@shared
def test_a_larger_vocabulary(tmp_path: Path) -> None:
    base, tuned = tune(tmp_path, llama)
    model = tf.AutoModelForCausalLM.from_pretrained(tuned)
    model.resize_token_embeddings(36, mean_resizing=False)
    model.save_pretrained(tuned)
    adapter = adaptzip.extract(base, tuned, rank="full")
    assert adapter.extras["base_model.model.model.embed_tokens.weight"].shape == (36, 16)
    merged(adapter, base, tmp_path)
    assert largest_difference(tmp_path / "merged", tuned) < 1e-6


@shared
def test_tied_embeddings_that_no_longer_are(tmp_path: Path) -> None:
    base, tuned = tune(tmp_path, llama)
    rewrite(tuned, lambda tensors: {**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"] + 1})
    adapter = adaptzip.extract(base, tuned, rank="full")
    assert "model.embed_tokens" in adapter.modules
    assert "base_model.model.lm_head.weight" in adapter.extras
    merged(adapter, base, tmp_path)
    assert largest_difference(tmp_path / "merged", tuned) < 1e-6


@shared
@pytest.mark.parametrize("which", ["base", "tuned"])
def test_a_tied_head_that_is_stored_as_well(which: str, tmp_path: Path) -> None:
    base, tuned = tune(tmp_path, llama)
    rewrite(
        tmp_path / which, lambda tensors: {**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"].clone()}
    )
    adapter = adaptzip.extract(base, tuned, rank="full")
    assert not any("lm_head" in name for name in (*adapter.modules, *adapter.extras))
    again, expected = merged(adapter, base, tmp_path), tensors_of(tuned)["model.embed_tokens.weight"]
    for name in again.keys() & {"model.embed_tokens.weight", "lm_head.weight"}:
        assert torch.allclose(again[name], expected, atol=1e-6)


def test_a_head_that_has_become_tied(tmp_path: Path) -> None:
    base, tuned = tune(tmp_path, untied)
    config = (tuned / "config.json").read_text()
    (tuned / "config.json").write_text(config.replace('"tie_word_embeddings": false', '"tie_word_embeddings": true'))
    rewrite(tuned, lambda tensors: {name: t for name, t in tensors.items() if name != "lm_head.weight"})
    adapter = adaptzip.extract(base, tuned, rank="full")
    again, expected = merged(adapter, base, tmp_path), tensors_of(tuned)["model.embed_tokens.weight"]
    assert torch.allclose(again["lm_head.weight"], expected, atol=1e-6)
    assert torch.allclose(again["model.embed_tokens.weight"], expected, atol=1e-6)


@pytest.mark.parametrize("which", ["base", "tuned"])
def test_another_prefix(which: str, tmp_path: Path) -> None:
    """As where a backbone was saved alone, or a language model lies within a larger one."""
    base, tuned = tune(tmp_path, untied)
    expected = tensors_of(tuned)

    def within(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name.replace("model.", "language_model.model.", 1): tensor for name, tensor in tensors.items()}

    rewrite(tmp_path / which, within)
    adapter = adaptzip.extract(base, tuned, rank="full")
    again = merged(adapter, base, tmp_path)
    want = within(expected) if which == "base" else expected
    assert again.keys() == want.keys()
    assert all(torch.allclose(again[name], tensor, atol=1e-6) for name, tensor in want.items())


def stacked(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Mixtral's experts as one parameter for each projection, as transformers 5 has them in memory."""
    place, found = "model.layers.0.block_sparse_moe", {}
    experts = [[tensors.pop(f"{place}.experts.{e}.{w}.weight") for w in ("w1", "w3", "w2")] for e in range(3)]
    found["model.layers.0.mlp.experts.gate_up_proj"] = torch.stack(
        [torch.cat([one, three]) for one, three, _ in experts]
    )
    found["model.layers.0.mlp.experts.down_proj"] = torch.stack([two for _, _, two in experts])
    return found | {name.replace("block_sparse_moe", "mlp"): tensor for name, tensor in tensors.items()}


@pytest.mark.parametrize("which", ["base", "tuned", "both"])
def test_stacked_experts(which: str, tmp_path: Path) -> None:
    base, tuned = tune(tmp_path, mixtral)
    for folder in (base, tuned):
        if which in (folder.name, "both"):
            rewrite(folder, stacked)
    expected = tensors_of(tuned)
    if which == "tuned":
        expected = tensors_of(tune(tmp_path / "again", mixtral)[1])
    adapter = adaptzip.extract(base, tuned, rank="full")
    names = [name for name in adapter.modules if "experts" in name]
    assert len(names) == (9 if which == "base" else 6)
    again = merged(adapter, base, tmp_path)
    want = stacked(expected) if which == "base" else expected
    assert again.keys() == want.keys()
    assert all(torch.allclose(again[name], tensor, atol=1e-6) for name, tensor in want.items())


def test_experts_that_did_not_change_beside_others_that_did(tmp_path: Path) -> None:
    before = {"model.layers.0.mlp.experts.down_proj": torch.randn(3, 8, 6)}
    after = {name: tensor.clone() for name, tensor in before.items()}
    after["model.layers.0.mlp.experts.down_proj"][1] += torch.randn(8, 6)
    base, tuned = write_pair(tmp_path, before, after)
    adapter = adaptzip.extract(base, tuned, rank=6)
    assert [factors.rank for factors in adapter.modules.values()] == [1, 6, 1]
    merged(adapter, base, tmp_path)
    assert largest_difference(tmp_path / "merged", tuned) < 1e-5


Q, K = "model.layers.0.self_attn.q_proj.weight", "model.layers.0.self_attn.k_proj.weight"


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (
            {Q: (4, 4)},
            {Q: (4, 4), K: (4, 4)},
            "base: lacks 1 of the tuned model's 2 modules: .*k_proj; similar there: .*q_",
        ),
        (
            {Q: (4, 4), K: (4, 4)},
            {Q: (4, 4)},
            "tuned: lacks .*k_proj.weight, which the base model has; similar there: .*q_",
        ),
        (
            {Q: (4, 4)},
            {Q: (4, 4), Q.replace("weight", "bias"): (4,)},
            "base: lacks .*q_proj.bias, which the tuned model",
        ),
        ({Q: (4, 4)}, {Q: (4, 6)}, r"tuned: .*q_proj.weight is \[4, 6\], the base's .*q_proj.weight is \[4, 4\]"),
        ({Q: (4, 4)}, {Q: (6, 4)}, r"tuned: .*q_proj.weight is \[6, 4\], the base's .*q_proj.weight is \[4, 4\]"),
        (
            {"norm.weight": (4,), Q: (4, 4)},
            {"norm.weight": (6,), Q: (4, 4)},
            r"norm.weight is \[6\], the base's .* \[4\]",
        ),
        (
            {"conv.weight": (4, 4, 3)},
            {"conv.weight": (4, 4, 5)},
            r"conv.weight is \[4, 4, 5\], the base's .* \[4, 4, 3\]",
        ),
    ],
)
def test_other_architectures_are_refused_by_name(
    before: dict[str, tuple[int, ...]], after: dict[str, tuple[int, ...]], message: str, tmp_path: Path
) -> None:
    one, other = ({name: torch.randn(shape) for name, shape in shapes.items()} for shapes in (before, after))
    with pytest.raises(BaseModelError, match=message):
        adaptzip.extract(*write_pair(tmp_path, one, other))


def test_buffers_of_older_files_count_for_nothing(tmp_path: Path) -> None:
    weight = torch.randn(4, 4)
    mask = torch.ones(4, 4).tril()[None, None]
    before = {"h.0.attn.c.weight": weight, "h.0.attn.bias": mask, "position_ids": torch.arange(4)[None]}
    after = {"h.0.attn.c.weight": weight + 1, "h.0.attn.rotary_emb.inv_freq": torch.ones(2)}
    found = extraction(*write_pair(tmp_path, before, after))
    assert (list(found.adapter.modules), list(found.adapter.extras)) == (["h.0.attn.c"], [])
