"""What is written for MLX has one rank and the scale 1, loses nothing silently, and is the source's where it can be."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import adaptzip
from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.core.meta import Meta
from adaptzip.errors import AdaptzipWarning, RefusedError, UsageError
from adaptzip.restoring.exporting import export
from adaptzip.restoring.reading import read
from adaptzip.testing.adapters import adapter, factors, relative_error
from adaptzip.testing.dialects import small_adapter

Q, V, EMBEDDING = (
    f"model.{name}" for name in ("layers.0.self_attn.q_proj", "layers.1.self_attn.v_proj", "embed_tokens")
)


def mixed() -> Adapter:
    """Ranks 2, 3 and 0, three scales, and an embedding."""
    given = adapter({Q: (8, 6, 2), V: (4, 6, 3), EMBEDDING: (6, 32, 0)})
    scales = {Q: 0.3, V: 2.0, EMBEDDING: 1.0}
    modules = {name: replace(module, scaling=scales[name]) for name, module in given.modules.items()}
    modules[EMBEDDING] = replace(modules[EMBEDDING], layout="embedding")
    return Adapter(modules, {}, Meta(base_model="owner/base"))


def test_one_rank_and_the_scale_1(tmp_path: Path) -> None:
    given = mixed()
    report = export(given, tmp_path / "out", as_="mlx")
    assert report.files == ("adapter_config.json", "adapters.safetensors")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    parameters = config["lora_parameters"]
    assert parameters == {"rank": 3, "scale": 1.0, "dropout": 0.0, "keys": sorted(given.modules)}
    assert (config["fine_tune_type"], config["num_layers"], config["model"]) == ("lora", -1, "owner/base")
    tensors = load_file(tmp_path / "out" / "adapters.safetensors")
    assert {key.rpartition(".")[0] for key in tensors} == given.modules.keys()
    for name, module in given.modules.items():
        a, b = (tensors[f"{name}.lora_{side}"] for side in "ab")
        assert (a.shape, b.shape) == ((module.shape[1], 3), (3, module.shape[0]))
        torch.testing.assert_close((a @ b).T, module.delta(), atol=1e-6, rtol=1e-6)
        assert not a[:, module.rank :].any()
    found = read(tmp_path / "out")
    assert {module.layout for module in found.modules.values()} == {"linear", "embedding"}
    assert relative_error(given, found) < 1e-6


NAMES: dict[str, dict[str, str]] = {
    "gpt2": {
        "transformer.h.1.attn.c_attn": "model.h.1.attn.c_attn",
        "transformer.h.0.mlp.c_fc": "model.h.0.mlp.c_fc",
        "transformer.wte": "model.wte",
    },
    "gpt_bigcode": {"transformer.h.1.attn.c_attn": "transformer.h.1.attn.c_attn", "lm_head": "lm_head"},
    "gptj": {"transformer.h.1.mlp.fc_in": "model.h.1.mlp.fc_in", "lm_head": "lm_head"},
    "gpt_neox": {
        "gpt_neox.layers.1.attention.query_key_value": "model.h.1.attention.query_key_value",
        "gpt_neox.embed_in": "model.embed_in",
        "lm_head": "model.embed_out",
    },
}


@pytest.mark.parametrize("kind", NAMES)
def test_modules_have_the_names_of_mlx_lms_models(kind: str, tmp_path: Path) -> None:
    modules = {name: factors(8, 6, 2) for name in sorted(NAMES[kind])}
    for name in modules:
        if name.endswith((".wte", ".embed_in")):
            modules[name] = replace(modules[name], layout="embedding")
        elif kind == "gpt2":
            modules[name] = replace(modules[name], layout="transposed")
    given = Adapter(modules)
    export(given, tmp_path / "out", as_="mlx")
    keys = json.loads((tmp_path / "out" / "adapter_config.json").read_text())["lora_parameters"]["keys"]
    assert keys == sorted(NAMES[kind].values())
    assert {key.rpartition(".")[0] for key in load_file(tmp_path / "out" / "adapters.safetensors")} == set(keys)
    found = read(tmp_path / "out")
    assert {n: m.layout for n, m in found.modules.items()} == {n: m.layout for n, m in modules.items()}
    assert relative_error(given, found) < 1e-6
    export(found, tmp_path / "again", as_="mlx")
    for file in ("adapter_config.json", "adapters.safetensors"):
        assert (tmp_path / "again" / file).read_bytes() == (tmp_path / "out" / file).read_bytes()


def test_the_head_of_gpt_neox_has_one_name(tmp_path: Path) -> None:
    """Transformers 4 called it as files do."""
    layer = "gpt_neox.layers.0.mlp.dense_h_to_4h"
    export(Adapter({"embed_out": factors(8, 6, 2), layer: factors(8, 6, 2)}), tmp_path / "out", as_="mlx")
    assert set(read(tmp_path / "out").modules) == {layer, "lm_head"}


def test_the_base_tells_a_gpt2_whose_configuration_does_not(tmp_path: Path) -> None:
    """Where fan_in_fan_out is not set, its names are those of another model."""
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text('{"model_type": "gpt2"}')
    export(Adapter({"transformer.h.1.attn.c_attn": factors(8, 6, 2)}), tmp_path / "out", as_="mlx", base=base)
    assert all(key.startswith("model.h.1.") for key in load_file(tmp_path / "out" / "adapters.safetensors"))


@pytest.mark.parametrize(("scaling", "kept"), [(2.0, torch.bfloat16), (0.3, torch.float32)])
def test_the_own_dtype_is_kept_where_the_scale_loses_nothing(scaling: float, kept: torch.dtype, tmp_path: Path) -> None:
    module = factors(8, 6, 2)
    module = LoraFactors(module.A.bfloat16(), module.B.bfloat16(), scaling)
    given = Adapter({Q: module})
    export(given, tmp_path / "out", as_="mlx")
    tensors = load_file(tmp_path / "out" / "adapters.safetensors")
    assert (tensors[f"{Q}.lora_a"].dtype, tensors[f"{Q}.lora_b"].dtype) == (torch.bfloat16, kept)
    assert torch.equal(tensors[f"{Q}.lora_b"].T.float(), module.B.float() * scaling)
    export(given, tmp_path / "half", as_="mlx", dtype="float16")
    assert {t.dtype for t in load_file(tmp_path / "half" / "adapters.safetensors").values()} == {torch.float16}


def test_float64_which_mlx_does_not_read_becomes_float32(tmp_path: Path) -> None:
    module = factors(8, 6, 2)
    export(Adapter({Q: replace(module, A=module.A.double(), B=module.B.double())}), tmp_path / "out", as_="mlx")
    assert {t.dtype for t in load_file(tmp_path / "out" / "adapters.safetensors").values()} == {torch.float32}


def test_a_lossy_file_comes_back_in_the_dtype_of_its_source(tmp_path: Path) -> None:
    given = small_adapter()
    halves = {n: replace(m, A=m.A.half(), B=m.B.half()) for n, m in given.modules.items()}
    adaptzip.compress(replace(given, modules=halves, extras={}), tmp_path / "x.adz", max_error=0.2)
    export(tmp_path / "x.adz", tmp_path / "out", as_="mlx")
    assert {t.dtype for t in load_file(tmp_path / "out" / "adapters.safetensors").values()} == {torch.float16}


def everything() -> Adapter:
    plain = factors(8, 6, 2)
    modules = {
        "a.bias": replace(plain, bias=torch.ones(8)),
        "a.conv": replace(plain, layout="conv", kernel=(3,)),
        "a.dora": replace(plain, magnitude=torch.ones(8)),
        "a.experts.0": replace(plain, layout="expert"),
        "a.q": plain,
        "emb": replace(plain, layout="embedding"),
    }
    return Adapter(modules, {"base_model.model.score.weight": torch.ones(2, 2), "base_model.model.n": torch.ones(2)})


def test_all_that_it_cannot_hold_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(RefusedError) as caught:
        export(everything(), tmp_path / "out", as_="mlx")
    assert not (tmp_path / "out").exists()
    for told in (
        "MLX cannot hold tensors beside the factors (2, such as base_model.model.score.weight)",
        "LoRA biases (a.bias)",
        "convolutions (a.conv)",
        "DoRA magnitudes (a.dora)",
        "updates of whole parameters (a.experts.0)",
        "by names, or layers by embeddings' names, that MLX's models do not have (emb)",
    ):
        assert told in str(caught.value)
    assert "`drop_extras=True`" in str(caught.value.hint)


def test_what_it_cannot_hold_is_left_out_on_request(tmp_path: Path) -> None:
    report = export(everything(), tmp_path / "out", as_="mlx", drop_extras=True)
    assert len(report.left_out) == 6
    found = read(tmp_path / "out")
    assert list(found.modules) == ["a.bias", "a.dora", "a.q"]
    assert not found.extras
    convolutions = {"a.conv": everything().modules["a.conv"]}
    with pytest.raises(RefusedError, match=r"no modules that MLX could hold: convolutions \(a\.conv\)"):
        export(Adapter(convolutions), tmp_path / "none", as_="mlx", drop_extras=True)


def test_an_embedding_with_dora_is_refused(tmp_path: Path) -> None:
    embedding = replace(factors(6, 32, 2), layout="embedding", magnitude=torch.ones(6))
    with pytest.raises(RefusedError, match="embeddings with DoRA, of which MLX scales each token's row"):
        export(Adapter({EMBEDDING: embedding}), tmp_path / "out", as_="mlx")


def test_what_it_cannot_say_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="`portable=True` is a profile of `as_='peft'`"):
        export(mixed(), tmp_path / "out", as_="mlx", portable=True)
    repeated = replace(mixed(), meta=Meta(config={"layer_replication": [[0, 2], [1, 2]]}))
    with pytest.raises(RefusedError, match="layer_replication"):
        export(repeated, tmp_path / "out", as_="mlx")


def own(folder: Path, **changes: Any) -> Path:
    """An adapter as mlx-lm saves it, with null for metadata."""
    folder.mkdir()
    config = {"model": "owner/base", "num_layers": 4, "fine_tune_type": "lora", "seed": 7}
    parameters = {"rank": 4, "scale": 20.0, "dropout": 0.1}
    (folder / "adapter_config.json").write_text(
        json.dumps(config | {"lora_parameters": parameters} | changes, indent=4)
    )
    given = {f"{Q}.lora_a": torch.randn(6, 4), f"{Q}.lora_b": torch.randn(4, 8)}
    save_file(given, folder / "adapters.safetensors")
    return folder


def same_files(one: Path, other: Path) -> bool:
    names = ("adapter_config.json", "adapters.safetensors")
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in names)


def test_a_lossless_export_of_mlx_is_the_source_byte_for_byte(tmp_path: Path) -> None:
    source = own(tmp_path / "source")
    export(source, tmp_path / "copy", as_="mlx")
    assert same_files(source, tmp_path / "copy")
    adaptzip.compress(source, tmp_path / "x.adz", lossless=True)
    export(tmp_path / "x.adz", tmp_path / "again", as_="mlx")
    assert same_files(source, tmp_path / "again")


def test_a_real_one_comes_back_byte_for_byte(material: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("adapter_config.json", "adapters.safetensors"):
        shutil.copy(material / "adapters" / "mlx-wyek1n" / name, source / name)
    with pytest.warns(AdaptzipWarning, match="the base model's name is the path"):
        export(source, tmp_path / "copy", as_="mlx")
    assert same_files(source, tmp_path / "copy")


Change = Callable[[Adapter], Adapter]


@pytest.mark.parametrize(
    "change",
    [
        lambda a: replace(a, modules={Q: replace(a.modules[Q], scaling=3.0)}),
        lambda a: replace(a, modules={Q: replace(a.modules[Q], A=a.modules[Q].A[:2], B=a.modules[Q].B[:, :2])}),
        lambda a: replace(a, modules={Q: replace(a.modules[Q], magnitude=torch.ones(8))}),
        lambda a: replace(a, meta=Meta()),
    ],
)
def test_what_changed_is_written_anew_and_keeps_the_rest_of_the_configuration(change: Change, tmp_path: Path) -> None:
    changed = change(read(own(tmp_path / "source")))
    export(changed, tmp_path / "copy", as_="mlx")
    config = json.loads((tmp_path / "copy" / "adapter_config.json").read_text())
    assert config["lora_parameters"]["scale"] == 1.0
    assert config["lora_parameters"]["rank"] == changed.modules[Q].rank
    assert config["num_layers"] == -1
    assert config.get("seed") == (7 if changed.meta.dialect == "mlx" else None)
    assert relative_error(changed, read(tmp_path / "copy")) < 1e-6


@pytest.mark.parametrize("through", ["folder", "lossless", "lossy"])
def test_another_name_for_the_base_is_written_and_the_old_one_nowhere(through: str, tmp_path: Path) -> None:
    source = own(tmp_path / "source")
    if through != "folder":
        lossless = through == "lossless"
        adaptzip.compress(source, tmp_path / "x.adz", lossless=lossless, max_error=None if lossless else 0.1)
        source = tmp_path / "x.adz"
    export(source, tmp_path / "copy", as_="mlx", base_name="else/where")
    text = (tmp_path / "copy" / "adapter_config.json").read_text()
    assert "owner/base" not in text
    assert json.loads(text)["model"] == "else/where"
    assert "base_model_name_or_path" not in json.loads(text)
    export(source, tmp_path / "plain", as_="mlx")
    assert json.loads((tmp_path / "plain" / "adapter_config.json").read_text())["model"] == "owner/base"
