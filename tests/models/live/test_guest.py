"""Updates from outside do what merged ones do, and their gradients are those through a merged weight."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import ViTConfig, ViTForImageClassification

from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.distillation.student import Guest, magnitudes_of
from adaptzip.models.live.layers import add_adapter, place_extras
from adaptzip.models.live.running import LoadedModel, load_teacher
from tests.cases import tiny_peft
from tests.cases.models_on_disk import TEXTS, adapter, save
from tests.cases.teachers import CPU, classifier, encoder, guest_of, teacher_of


def gpt_oss() -> Any:
    model = tiny_peft.gpt_oss()
    model.config.num_experts_per_tok = 2
    return model


def factors(out: int, width: int, *, seed: int, rank: int = 2, **options: object) -> LoraFactors:
    generator = torch.Generator().manual_seed(seed)
    A, B = torch.randn(rank, width, generator=generator), torch.randn(out, rank, generator=generator)
    return LoraFactors(A, 0.2 * B, 0.5, **options)  # type: ignore[arg-type]


def experts(model: nn.Module) -> Adapter:
    """Updates of two experts in every stacked weight."""
    found = {}
    for name, module in model.named_modules():
        if name.endswith("mlp.experts"):
            for attribute in ("gate_up_proj", "down_proj"):
                rows, columns = getattr(module, attribute).shape[1:]
                transposed = isinstance(module, type(gpt_oss().model.layers[0].mlp.experts))
                shape = (columns, rows) if transposed else (rows, columns)
                layout = "expert_transposed" if transposed else "expert"
                for index in (0, 2):
                    found[f"{name}.{attribute}[{index}]"] = factors(*shape, seed=index, layout=layout)
    return Adapter(dict(sorted(found.items())))


def embeddings(model: nn.Module) -> Adapter:
    rows, width = model.get_input_embeddings().weight.shape  # type: ignore[operator]
    name = next(name for name, module in model.named_modules() if module is model.get_input_embeddings())  # type: ignore[operator]
    return Adapter({name: factors(width, rows, seed=3, layout="embedding")})


def dora(source: Adapter) -> Adapter:
    """The adapter with magnitudes."""
    return replace(
        source,
        modules={
            name: replace(m, magnitude=1 + 0.1 * torch.arange(float(m.shape[0]))) for name, m in source.modules.items()
        },
    )


CASES: dict[str, tuple[Callable[[], Any], Callable[[nn.Module], Adapter]]] = {
    "linear": (tiny_peft.llama, lambda m: adapter(m, "q_proj", "down_proj")),
    "transposed": (tiny_peft.gpt2, lambda m: adapter(m, "c_attn", "c_proj")),
    "encoder": (encoder, lambda m: adapter(m, "query")),
    "seq2seq": (tiny_peft.t5, lambda m: adapter(m, ".q", ".wo")),
    "embedding": (tiny_peft.llama, embeddings),
    "tied embedding": (tiny_peft.gpt2, embeddings),
    "tied head": (tiny_peft.gpt2, lambda m: adapter(m, "lm_head", "c_attn")),
    "experts": (tiny_peft.mixtral, experts),
    "transposed experts": (gpt_oss, experts),
    "DoRA": (tiny_peft.llama, lambda m: dora(adapter(m, "q_proj", "down_proj"))),
    "DoRA, transposed": (tiny_peft.gpt2, lambda m: dora(adapter(m, "c_attn"))),
    "DoRA, embedding": (tiny_peft.llama, lambda m: dora(embeddings(m))),
}


@pytest.mark.parametrize("case", CASES)
def test_updates_act_as_merged_ones_do(case: str, tmp_path: Path) -> None:
    make, adapt = CASES[case]
    base, teacher = save(make, tmp_path), adapt(make())
    guest, updates = guest_of(base, teacher)
    (batch,) = guest.loaded.batches(TEXTS, 8, 64)
    before = {key: value.clone() for key, value in guest.loaded.model.state_dict().items()}
    expected = load_teacher(base, teacher, CPU)(batch)
    found = guest(batch, updates)
    assert (guest(batch, {}) - expected).abs().max() > 1e-4
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    after = guest.loaded.model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[key], value) for key, value in before.items())


@pytest.mark.parametrize("case", [case for case in CASES if not case.startswith("DoRA")])
def test_gradients_are_those_through_a_merged_weight(case: str, tmp_path: Path) -> None:
    make, adapt = CASES[case]
    base, teacher = save(make, tmp_path), adapt(make())
    guest, updates = guest_of(base, teacher)
    leaves = {name: (A.requires_grad_(), B.requires_grad_()) for name, (A, B) in updates.items()}
    (batch,) = guest.loaded.batches(TEXTS, 8, 64)
    torch.autograd.backward(guest(batch, leaves).square().sum())
    merged = load_teacher(base, teacher, CPU)
    parameters = {layer.parameter for layer in merged.layers.values()}
    for parameter in parameters:
        parameter.requires_grad_(True)
    torch.autograd.backward(merged(batch).square().sum())
    for name, (A, B) in leaves.items():
        layer = merged.layers[name]
        assert layer.parameter.grad is not None
        gradient = layer.as_update(layer.parameter.grad)
        size = float(gradient.abs().max()) + 1e-6
        torch.testing.assert_close(A.grad, B.detach().T @ gradient, atol=1e-4 * size, rtol=1e-3)
        torch.testing.assert_close(B.grad, gradient @ A.detach().T, atol=1e-4 * size, rtol=1e-3)


def test_doras_norm_is_taken_for_a_constant(tmp_path: Path) -> None:
    base = save(tiny_peft.llama, tmp_path)
    teacher = dora(adapter(tiny_peft.llama(), "layers.1.mlp.down_proj"))
    guest, updates = guest_of(base, teacher)
    ((name, (A, B)),) = updates.items()
    leaf = B.clone().requires_grad_()
    (batch,) = guest.loaded.batches(TEXTS, 8, 64)
    torch.autograd.backward(guest(batch, {name: (A, leaf)}).square().sum())
    merged = load_teacher(base, teacher, CPU)
    weight = merged.layers[name].parameter.requires_grad_(True)
    torch.autograd.backward(merged(batch).square().sum())
    magnitude = teacher.modules[name].magnitude
    assert weight.grad is not None
    assert magnitude is not None
    total = guest.loaded.layers[name].weight + B @ A
    expected = (weight.grad * (magnitude / total.norm(dim=1)).unsqueeze(1)) @ A.T
    torch.testing.assert_close(leaf.grad, expected, atol=1e-5, rtol=1e-3)


def test_a_module_without_an_update_keeps_its_magnitude(tmp_path: Path) -> None:
    base = save(tiny_peft.llama, tmp_path)
    full = dora(adapter(tiny_peft.llama(), "q_proj"))
    empty = {n: replace(m, A=m.A[:0], B=m.B[:, :0]) for n, m in full.modules.items()}
    teacher = replace(full, modules=empty)
    guest, updates = guest_of(base, teacher)
    (batch,) = guest.loaded.batches(TEXTS, 8, 64)
    torch.testing.assert_close(guest(batch, updates), load_teacher(base, teacher, CPU)(batch), atol=1e-5, rtol=1e-4)
    assert (guest(batch, updates) - guest(batch, {})).abs().max() > 1e-4


def test_convolutions(tmp_path: Path) -> None:
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24, image_size=8, patch_size=4
    )
    name = "vit.embeddings.patch_embeddings.projection"

    def make() -> Any:
        tiny_peft.set_seed(0)
        return ViTForImageClassification(config).eval()

    module = factors(16, 3 * 16, seed=1, layout="conv", kernel=(4, 4))
    teacher = Adapter({name: module})
    merged, bare = make(), make()
    add_adapter(merged, teacher, tmp_path)
    layers = place_extras(bare, teacher, tmp_path)
    no_tokeniser: Any = None
    guest = Guest(LoadedModel(bare, "classifier", no_tokeniser, layers), magnitudes_of(teacher.modules))
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = merged(pixel_values=images).logits
        with guest.under({name: (module.A * module.scaling, module.B)}):
            found = bare(pixel_values=images).logits
        before = bare(pixel_values=images).logits
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert (before - expected).abs().max() > 1e-4


def test_the_model_is_itself_again_after_an_error(tmp_path: Path) -> None:
    base, teacher = teacher_of(tiny_peft.gpt2, tmp_path, "lm_head", "c_attn")
    guest, updates = guest_of(base, teacher)
    (batch,) = guest.loaded.batches(TEXTS, 8, 64)
    bare = guest(batch, {})
    with pytest.raises(ZeroDivisionError), guest.under(updates):
        _ = 1 / 0
    assert torch.equal(guest(batch, {}), bare)


@pytest.mark.parametrize("make", [tiny_peft.llama, tiny_peft.t5, tiny_peft.bart, encoder])
def test_what_is_inside_is_that_of_the_merged_model(make: Callable[[], Any], tmp_path: Path) -> None:
    base, teacher = teacher_of(make, tmp_path, "q_proj", ".q", "query")
    guest, updates = guest_of(base, teacher)
    (batch,) = guest.loaded.batches(TEXTS, 8, 64)
    seen = guest.look(batch, updates, hidden=True, modules=True)
    merged = load_teacher(base, teacher, CPU)
    put_out: list[Tensor] = []
    for layer in merged.layers.values():
        layer.module.register_forward_hook(lambda module, arguments, output: put_out.append(output))
    options = {"labels": batch.targets} if merged.kind == "seq2seq" else {}
    output = merged.model(input_ids=batch.ids, attention_mask=batch.mask.long(), output_hidden_states=True, **options)
    expected = [
        state[batch.mask]
        for key in ("hidden_states", "encoder_hidden_states", "decoder_hidden_states")
        for state in getattr(output, key, None) or ()
    ]
    assert len(seen.hidden) == len(expected) > 2
    for ours, theirs in zip(seen.hidden, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
    assert len(seen.modules) == len(teacher.modules)
    for found, state in zip(seen.modules, put_out, strict=True):
        torch.testing.assert_close(found, state[batch.mask], atol=1e-5, rtol=1e-4)
    assert not guest.look(batch, updates).hidden


def test_a_head_of_classes_stays_in_its_place(tmp_path: Path) -> None:
    base, teacher = classifier(tmp_path)
    guest, updates = guest_of(base, teacher)
    (batch,) = guest.loaded.batches(TEXTS, 8, 64)
    torch.testing.assert_close(guest(batch, updates), load_teacher(base, teacher, CPU)(batch), atol=1e-5, rtol=1e-4)
