"""Gradients and what is made of them, against losses written by hand."""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, BertModel, CTRLConfig, CTRLLMHeadModel

from adaptzip.errors import BaseModelError, RefusedError
from adaptzip.fitting.calibration.gradients import (
    BETA,
    importance_of,
    module_gradients,
    tally_gradients,
)
from adaptzip.models.live.running import load_teacher
from adaptzip.restoring.reading import read
from tests.cases import tiny_peft
from tests.cases.models_on_disk import TEXTS, WORDS, adapter, head, save
from tests.cases.tasks import trained

CPU = torch.device("cpu")


def test_a_causal_models_gradient_is_that_of_the_next_token(tmp_path: Path) -> None:
    base = save(tiny_peft.gpt2, tmp_path)
    names = ["transformer.h.0.attn.c_attn", "transformer.h.1.mlp.c_proj"]
    found = module_gradients(base, TEXTS[:1], names)
    model = tiny_peft.gpt2().eval()
    ids = torch.tensor([[WORDS.index(letter) for letter in TEXTS[0].split()]])
    logits = model(input_ids=ids).logits[0, :-1]
    loss = -logits.log_softmax(1)[torch.arange(ids.shape[1] - 1), ids[0, 1:]].mean()
    loss.backward()
    for name in names:
        expected = model.get_submodule(name).weight.grad.T
        assert found[name].shape == expected.shape
        torch.testing.assert_close(found[name], expected, rtol=1e-4, atol=1e-7)


def test_batches_are_averaged(tmp_path: Path) -> None:
    base = save(tiny_peft.llama, tmp_path)
    name = "model.layers.0.mlp.down_proj"
    parts = [module_gradients(base, [text], [name])[name] for text in TEXTS]
    found = module_gradients(base, TEXTS, [name], batch=1)[name]
    torch.testing.assert_close(found, torch.stack(parts).mean(0), rtol=1e-4, atol=1e-6)


def test_an_encoders_gradient_tells_halves_apart(tmp_path: Path) -> None:
    config = tiny_peft.bert().config
    base = save(lambda: BertModel(config), tmp_path)
    name = "encoder.layer.0.attention.self.query"
    found = module_gradients(base, TEXTS, [name])[name]
    loaded = load_teacher(base, adapter(BertModel(config), "nothing"), CPU)
    weight = loaded.model.get_submodule(name).weight.requires_grad_(True)
    ids = sorted((loaded.tokeniser.encode(text) for text in TEXTS), key=len)

    def embed(tokens: list[int]) -> torch.Tensor:
        hidden = loaded.model(input_ids=torch.tensor([tokens])).last_hidden_state[0].mean(0)
        return functional.normalize(hidden, dim=0)

    a = torch.stack([embed(tokens[: len(tokens) // 2]) for tokens in ids])
    # The second half keeps its places, as it is run with the first half masked.
    b = []
    for tokens in ids:
        half = len(tokens) // 2
        mask = torch.tensor([[0] * half + [1] * (len(tokens) - half)])
        hidden = loaded.model(input_ids=torch.tensor([tokens]), attention_mask=mask).last_hidden_state[0, half:]
        b.append(functional.normalize(hidden.mean(0), dim=0))
    loss = functional.cross_entropy(a @ torch.stack(b).T / 0.05, torch.arange(len(ids)))
    torch.autograd.backward(loss)
    torch.testing.assert_close(found, weight.grad, rtol=1e-3, atol=1e-6)


def test_the_tally_is_of_the_outputs_gradients(tmp_path: Path) -> None:
    base = save(tiny_peft.bert, tmp_path)
    lora = head(adapter(tiny_peft.bert(), "layer.1.output.dense"))
    loaded = load_teacher(base, lora, CPU)
    (batch,) = loaded.batches(TEXTS, 8, 64)
    (tally,) = tally_gradients(loaded, [batch], 3).values()
    kept = {}

    def keep(module: object, args: tuple[torch.Tensor], output: torch.Tensor) -> None:
        output.retain_grad()
        kept["x"], kept["y"] = args[0].detach(), output

    loaded.model.requires_grad_(True)
    loaded.model.get_submodule("bert.encoder.layer.1.output.dense").register_forward_hook(keep)
    generator = torch.Generator().manual_seed(3)
    logits = loaded(batch)
    x, energies = kept["x"], torch.zeros(batch.mask.shape)
    for _ in range(2):
        label = torch.multinomial(logits.detach().softmax(1), 1, generator=generator)[:, 0]
        kept["y"].grad = None
        torch.autograd.backward(functional.cross_entropy(logits, label, reduction="sum"), retain_graph=True)
        gradient = kept["y"].grad
        assert gradient is not None
        energies += gradient.square().sum(2)
    assert tally.output_energy == pytest.approx(float(energies.sum()), rel=1e-4)
    expected = torch.einsum("nt,nti,ntj->ij", energies * batch.mask, x, x)
    torch.testing.assert_close(tally.gram.float(), expected, rtol=1e-3, atol=1e-6)  # type: ignore[union-attr]
    assert tally.energy == pytest.approx(float(expected.trace()), rel=1e-4)


def test_importance_is_increloras(tmp_path: Path) -> None:
    base = save(tiny_peft.gpt2, tmp_path)
    lora = adapter(tiny_peft.gpt2(), "h.0.attn.c_attn")
    (name,) = lora.modules
    loaded = load_teacher(base, lora, CPU)
    found = importance_of(loaded, lora, loaded.batches(TEXTS, 3, 64), 5)
    weight = loaded.layers[name].parameter.requires_grad_(True)
    batches = loaded.batches(TEXTS, 3, 64)
    delta = lora.modules[name].delta()
    U, S, Vt = torch.linalg.svd(delta)
    average = uncertainty = 0.0
    parts = torch.zeros(2)
    for place in torch.randperm(2, generator=torch.Generator().manual_seed(5)).tolist():
        batch = batches[place]
        output = loaded.model(input_ids=batch.ids, attention_mask=batch.mask.long()).logits
        losses = functional.cross_entropy(output[:, :-1].transpose(1, 2), batch.ids[:, 1:], reduction="none")
        (gradient,) = torch.autograd.grad(losses[batch.mask[:, 1:]].mean(), weight)
        score = float((delta * gradient.T).abs().sum()) / sqrt(delta.numel())
        average = BETA * average + (1 - BETA) * score
        uncertainty = BETA * uncertainty + (1 - BETA) * abs(score - average)
        parts += torch.stack([(S[k] * U[:, k] @ gradient.T @ Vt[k]).abs() for k in range(2)])
    assert found.modules[name] == pytest.approx(average * uncertainty, rel=1e-4)
    torch.testing.assert_close(found.components[name], parts / 2, rtol=1e-3, atol=1e-6)


def test_texts_too_short_for_a_loss_are_refused(tmp_path: Path) -> None:
    base = save(tiny_peft.llama, tmp_path)
    with pytest.raises(RefusedError, match="none of the texts is long enough"):
        module_gradients(base, ["a", "b"], ["model.layers.0.mlp.down_proj"])


def test_a_module_that_the_base_lacks_is_named(tmp_path: Path) -> None:
    base = save(tiny_peft.llama, tmp_path)
    with pytest.raises(BaseModelError, match="the model has no model.layers.0.mlp.nothing"):
        module_gradients(base, TEXTS, ["model.layers.0.mlp.nothing"])


def ctrl() -> CTRLLMHeadModel:
    """It scales what its embeddings put out in place."""
    tiny_peft.set_seed(0)
    return CTRLLMHeadModel(CTRLConfig(vocab_size=32, n_positions=16, n_embd=16, dff=24, n_layer=1, n_head=2))


@pytest.mark.parametrize(
    ("make", "config"),
    [
        (tiny_peft.t5, {"target_modules": ["q"], "modules_to_save": ["shared"]}),
        (tiny_peft.t5, {"target_modules": ["q"], "trainable_token_indices": {"shared": [2], "lm_head": [3]}}),
        (tiny_peft.bart, {"target_modules": ["q_proj"], "modules_to_save": ["shared"]}),
        (ctrl, {"target_modules": ["Wq"]}),
    ],
)
def test_gradients_start_at_every_embedding(make: Callable[[], Any], config: dict[str, Any], tmp_path: Path) -> None:
    seq2seq = make is not ctrl
    loads = AutoModelForSeq2SeqLM if seq2seq else AutoModelForCausalLM
    task = trained(tmp_path, make, loads, task_type="SEQ_2_SEQ_LM" if seq2seq else "CAUSAL_LM", **config)
    loaded = load_teacher(task.base, read(task.adapter), CPU)
    batches = loaded.batches(TEXTS, 8, 64)
    found = tally_gradients(loaded, batches, 3)
    loaded.model.requires_grad_(True)
    for name, tally in tally_gradients(loaded, batches, 3).items():
        assert found[name].output_energy > 0
        assert found[name].output_energy == pytest.approx(tally.output_energy, rel=1e-5)
