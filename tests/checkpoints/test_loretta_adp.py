"""LoRETTA_adp's functions are what its layers compute, from its files and from a `.adz` that keeps them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

import adaptzip
from adaptzip.adz.container.reader import open_adz
from adaptzip.core.adapter import Adapter
from adaptzip.core.meta import Meta
from adaptzip.errors import AdaptzipError, CheckpointError, FormatError, RefusedError, UsageError
from adaptzip.models.live.layers import find_layers, put_before, put_behind
from adaptzip.reports.evaluation import evaluate
from adaptzip.reports.sizes import sizes_of
from adaptzip.reports.verifying import verify
from adaptzip.restoring.exporting import export
from adaptzip.restoring.functions import Functions, functions, read_either
from adaptzip.restoring.merging import merge
from adaptzip.restoring.reading import read
from tests.cases import evaluation_cases, tiny_peft
from tests.cli.cli_cases import run

PREFIX = "base_model.model."
BEHIND = "bert.encoder.layer.0.output.dense"
MLP = "model.layers.1.mlp"
CONFIG: Mapping[str, Any] = {
    "peft_type": "BOTTLENECK", "bottleneck_size": 3, "non_linearity": "tanh", "scaling": 0.5, "tensor_rank": 2,
    "target_modules": ["dense"], "bias": "none", "use_parallel_adapter": False, "use_adapterp": False,
}  # fmt: skip


def trains(module: str, width: int = 16, b: int = 3) -> dict[str, Tensor]:
    """Cores over modes that do not end where rows do, and both biases."""
    generator = torch.Generator().manual_seed(len(module))
    found = {}
    for side, length in (("down", b), ("up", width)):
        stem = f"{PREFIX}{module}.adapter_{side}.layer"
        for i, shape in enumerate(((1, 8, 2), (2, width // 8, 2), (2, b, 1))):
            found[f"{stem}.tensor.factors.{i}"] = torch.randn(shape, generator=generator)
        found[f"{stem}.bias"] = torch.randn(length, generator=generator)
    return found


def saved(folder: Path, tensors: Mapping[str, Tensor], config: Mapping[str, Any] | None = CONFIG) -> Path:
    folder.mkdir(exist_ok=True)
    torch.save(dict(tensors), folder / "adapter_model.bin")
    if config is not None:
        (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def by_hand(tensors: Mapping[str, Tensor], module: str, act: Callable[[Tensor], Tensor], scaling: float) -> nn.Module:
    """The adapter as a module, with dense matrices."""

    def dense(side: str, shape: tuple[int, int]) -> Tensor:
        cores = [tensors[f"{PREFIX}{module}.adapter_{side}.layer.tensor.factors.{i}"] for i in range(3)]
        return torch.einsum("aib,bjc,ckd->ijk", *cores).reshape(shape)

    biases = [tensors[f"{PREFIX}{module}.adapter_{side}.layer.bias"] for side in ("down", "up")]
    b, d = (len(bias) for bias in biases)

    class Adapter(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            inner = act(x @ dense("down", (d, b)) + biases[0])
            return x + scaling * (inner @ dense("up", (b, d)) + biases[1])

    return Adapter()


def with_functions(model: nn.Module, functions: Adapter | Functions, folder: Path) -> nn.Module:
    assert isinstance(functions, Functions)
    for name, layer in find_layers(model, functions.modules, folder).items():
        put_behind(layer.module, functions.modules[name])
    for name, layer in find_layers(model, functions.before, folder).items():
        put_before(layer.module, functions.before[name])
    return model.eval()


@pytest.mark.parametrize(("named", "act"), [("tanh", torch.tanh), ("relu", torch.relu), ("gelu", nn.functional.gelu)])
def test_functions_stand_before_and_behind_layers(named: str, act: Callable[[Tensor], Tensor], tmp_path: Path) -> None:
    """As where the layer is a sequence of the adapter and itself, or of itself and the adapter."""
    places = {"gate_proj": 16, "up_proj": 16, "down_proj": 16}
    tensors = {key: t for leaf, width in places.items() for key, t in trains(f"{MLP}.{leaf}", width).items()}
    found = read_either(saved(tmp_path / "a", tensors, {**CONFIG, "non_linearity": named}))
    assert isinstance(found, Functions)
    assert set(found.modules) == {f"{MLP}.down_proj"}
    assert set(found.before) == {f"{MLP}.gate_proj", f"{MLP}.up_proj"}
    ids, expected = torch.arange(12).reshape(2, 6), tiny_peft.llama().eval()
    mlp = expected.model.layers[1].mlp
    for leaf in places:
        parts = [by_hand(tensors, f"{MLP}.{leaf}", act, 0.5), getattr(mlp, leaf)]
        setattr(mlp, leaf, nn.Sequential(*(parts if leaf != "down_proj" else reversed(parts))))
    ours = with_functions(tiny_peft.llama(), found, tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(ours(ids).logits, expected(ids).logits, atol=1e-5, rtol=1e-5)
        assert not torch.allclose(ours(ids).logits, tiny_peft.llama().eval()(ids).logits, atol=1e-2)


def of_bert() -> dict[str, Tensor]:
    """A function behind a layer, and a head, of which one layer is a train."""
    generator = torch.Generator().manual_seed(9)
    at = f"{PREFIX}classifier"
    return trains(BEHIND) | {f"{at}.weight": torch.randn(3, 16, generator=generator), f"{at}.bias": torch.ones(3)}


def test_a_file_keeps_them_bit_for_bit(tmp_path: Path) -> None:
    tensors = of_bert()
    folder, file = saved(tmp_path / "a", tensors), tmp_path / "a.adz"
    made = adaptzip.compress(folder, file, lossless=True)
    assert (made.method, made.provenance.parameters) == ("loretta-adp", sum(t.numel() for t in tensors.values()))
    kept, x = read_either(file), torch.randn(4, 16)
    assert isinstance(kept, Functions)
    assert torch.equal(kept.modules[BEHIND](x), by_hand_of(folder)(x))
    assert kept.extras.keys() == {f"{PREFIX}classifier.weight", f"{PREFIX}classifier.bias"}
    report = export(file, tmp_path / "back", as_="loretta-adp")
    assert (report.files, report.modules) == (("adapter_config.json", "adapter_model.bin"), 1)
    back = torch.load(tmp_path / "back" / "adapter_model.bin")
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[key], tensor) for key, tensor in tensors.items())
    assert (tmp_path / "back" / "adapter_config.json").read_bytes() == (folder / "adapter_config.json").read_bytes()
    assert verify(file).passed


def by_hand_of(folder: Path) -> Callable[[Tensor], Tensor]:
    found = read_either(folder)
    assert isinstance(found, Functions)
    return found.modules[BEHIND]


def test_it_runs_beside_a_teacher(tmp_path: Path) -> None:
    folder = saved(tmp_path / "a", of_bert())
    adaptzip.compress(folder, tmp_path / "a.adz", lossless=True)
    base, teacher = evaluation_cases.classifier(tmp_path / "t")
    found = evaluate(base, teacher, {"kept": tmp_path / "a.adz", "folder": folder}, ["a b c", "d e f"])
    kept, direct = (found.rows[name].kl for name in ("kept", "folder"))
    assert kept is not None
    assert kept == direct
    assert kept > 0
    sizes = {path: sizes_of(path, read_either(path)) for path in (tmp_path / "a.adz", folder)}
    assert all(0 < size.update_bytes <= size.bytes for size in sizes.values())


def test_it_is_a_teacher(tmp_path: Path) -> None:
    """The rows are held against the base with its functions and its head, whichever of its files is given."""
    folder, file = saved(tmp_path / "a", of_bert(), {**CONFIG, "task_type": "SEQ_CLS"}), tmp_path / "a.adz"
    adaptzip.compress(folder, file, lossless=True)
    base, adapter = evaluation_cases.classifier(tmp_path / "t")
    found = evaluate(base, file, {"folder": folder, "adapter": adapter}, ["a b c", "d e f"])
    assert (found.kind, found.rows["teacher"].kl, found.rows["folder"].kl) == ("classifier", 0, 0)
    bare = tiny_peft.bert().eval()
    for part in ("weight", "bias"):
        getattr(bare.classifier, part).data.copy_(of_bert()[f"{PREFIX}classifier.{part}"])
    with torch.no_grad():
        ids = torch.cat([evaluation_cases.ids_of(text) for text in ("a b c", "d e f")])
        without = bare(input_ids=ids).logits.log_softmax(-1)
        taught = with_functions(bare, read_either(folder), base)(input_ids=ids).logits.log_softmax(-1)
    expected = float((taught.exp() * (taught - without)).sum(-1).mean())
    assert found.rows["no adapter"].kl == pytest.approx(expected, rel=1e-4)
    assert expected > 1e-3
    assert (found.rows["adapter"].kl or 0) > 0
    with pytest.raises(RefusedError, match="functions that were distilled"):
        evaluate(base, Functions({}, {}, Meta()), {}, ["a b c"])


def test_nothing_takes_it_for_an_update(tmp_path: Path) -> None:
    folder, file = saved(tmp_path / "a", of_bert()), tmp_path / "a.adz"
    adaptzip.compress(folder, file, lossless=True)
    tiny_peft.bert().save_pretrained(tmp_path / "base")
    for refused in (
        lambda: read(file),
        lambda: merge(file, tmp_path / "base", tmp_path / "m"),
        lambda: export(file, tmp_path / "plain"),
        lambda: verify(file, tiny_adapter()),
    ):
        with pytest.raises(RefusedError, match="is not linear"):
            refused()
    with pytest.raises(RefusedError, match="no change of weights") as caught:
        adaptzip.compress(folder)
    assert "compress --lossless" in str(caught.value.hint)
    with pytest.raises(UsageError, match="are written as they were"):
        export(file, tmp_path / "half", as_="loretta-adp", dtype="float16")
    with pytest.raises(RefusedError, match="holds the tensors of loretta-adp alone"):
        export(tiny_adapter(), tmp_path / "other", as_="loretta-adp")


def tiny_adapter() -> adaptzip.Adapter:
    return adaptzip.Adapter({"a": adaptzip.LoraFactors(torch.ones(1, 4), torch.ones(4, 1))})


def test_a_damaged_file_is_one(tmp_path: Path) -> None:
    """What its dialect cannot read in it breaks it."""
    adaptzip.compress(saved(tmp_path / "a", of_bert()), tmp_path / "a.adz", lossless=True)
    found = open_adz(tmp_path / "a.adz")
    with pytest.raises(FormatError, match="scaling is 'x'"):
        functions(replace(found, meta=replace(found.meta, config={**found.meta.config, "scaling": "x"})))


@pytest.mark.parametrize("name", ["llama", "opt", "roberta-cls", "roberta-cls-relu"])
def test_genuine_ones_give_their_authors_logits(name: str, material: Path, tmp_path: Path) -> None:
    folder = material / "papers" / f"loretta-adp-{name}"
    adaptzip.compress(folder / "adapter", tmp_path / "a.adz", lossless=True, base_name="owner/base")
    kept = read_either(tmp_path / "a.adz")
    assert isinstance(kept, Functions)
    make: Any = AutoModelForSequenceClassification if "cls" in name else AutoModelForCausalLM
    model = make.from_pretrained(folder / "base", dtype=torch.float32)
    known = model.state_dict()
    for key, tensor in kept.extras.items():
        known[key.removeprefix(PREFIX)].copy_(tensor)
    inputs = load_file(folder / "inputs.safetensors")
    with torch.no_grad():
        logits = with_functions(model, kept, folder)(inputs["input_ids"]).logits
    torch.testing.assert_close(logits, inputs["logits"], atol=1e-5, rtol=0)


def test_the_command_line_keeps_and_writes_them(tmp_path: Path) -> None:
    folder = saved(tmp_path / "a", of_bert())
    assert run("compress", folder, "--lossless", "-o", tmp_path / "a.adz").code == 0
    values = run("inspect", tmp_path / "a.adz", "--json").json
    assert (values["method"], values["linear"], values["lossless"], values["modules"]) == (
        "loretta-adp",
        False,
        True,
        [],
    )
    written = run("export", tmp_path / "a.adz", "--as", "loretta-adp", "-o", tmp_path / "back", "--json").json
    assert written["modules"] == 1
    assert run("verify", tmp_path / "a.adz").code == 0
    base = evaluation_cases.classifier(tmp_path / "t")[0]
    data = evaluation_cases.write_rows(tmp_path / "rows.jsonl")
    told = run("eval", "--teacher", folder, tmp_path / "a.adz", "--base", base, "--data", data, "--json").json
    assert [row["kl"] for row in told["rows"]][1:] == [0, 0]
    assert run("inspect", folder).code == 3


STEM = f"{PREFIX}{BEHIND}.adapter_up.layer"
Change = Callable[[dict[str, Tensor], dict[str, Any]], object]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda t, c: t.pop(f"{STEM}.bias"), CheckpointError, "has no adapter_up.layer.bias"),
        (lambda t, c: t.pop(f"{STEM}.tensor.factors.1"), CheckpointError, "fit together"),
        (lambda t, c: t.update({f"{STEM}.tensor.factors.1": torch.ones(2, 3, 2)}), CheckpointError, "expected 16 x 3"),
        (lambda t, c: t.update({f"{STEM}.tensor.factors.1": torch.ones(2, 2)}), CheckpointError, "fit together"),
        (lambda t, c: t[f"{STEM}.tensor.factors.0"].fill_(torch.nan), CheckpointError, "NaN or infinity"),
        (lambda t, c: t[f"{STEM}.bias"].fill_(torch.inf), CheckpointError, "must be finite"),
        (lambda t, c: t.update({f"{STEM}.weight": torch.ones(2)}), CheckpointError, "has no meaning in a LoRETTA_adp"),
        (lambda t, c: t.update(trains("bert.encoder.layer.0.attention.self.query")), RefusedError, "before the layer"),
        (lambda t, c: c.update(non_linearity="swish"), RefusedError, "non_linearity is 'swish'"),
        (lambda t, c: c.update(non_linearity=None), RefusedError, "non_linearity is None"),
        (lambda t, c: c.update(use_parallel_adapter=True), RefusedError, "use_parallel_adapter is set"),
        (lambda t, c: c.update(scaling="half"), CheckpointError, "scaling is 'half'"),
    ],
)
def test_what_is_wrong_is_named(change: Change, error: type[AdaptzipError], message: str, tmp_path: Path) -> None:
    tensors, config = of_bert(), dict(CONFIG)
    change(tensors, config)
    folder = saved(tmp_path / "a", tensors, config)
    with pytest.raises(error, match=message):
        read_either(folder)
    with pytest.raises(error, match=message):
        adaptzip.compress(folder, lossless=True)


def test_without_a_configuration_nothing_is_known(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="without adapter_config.json"):
        read_either(saved(tmp_path / "a", of_bert(), None))
