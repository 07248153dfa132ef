"""What each command does and prints, on a tiny adapter."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import adaptzip
from tests.cases.merged_files import TOLD
from tests.cli.cli_cases import CONFIG, MODULES, OUT, RANK, WIDTH, load_weights, make_adapter, make_tensors, run

WROTE = r"wrote \S+  [\d.]+ (B|KiB)  \([\d.]+ % of [\d.]+ KiB, [\d.]+x, error [\d.e-]+\)"


def test_compress_prints_one_line(adapter: Path) -> None:
    result = run("compress", adapter, "-o", adapter.parent / "out.adz")
    assert (result.code, result.out) == (0, "")
    assert re.fullmatch(WROTE + "\n", result.err)


def test_compress_json(adapter: Path) -> None:
    out = adapter.parent / "out.adz"
    result = run("compress", adapter, "-o", out, "--json", "--seed", "3")
    values = result.json
    source_bytes = (adapter / "adapter_model.safetensors").stat().st_size
    assert values["schema"] == 1
    assert values["path"] == str(out)
    assert values["method"] == "svd"
    assert values["bytes"] == out.stat().st_size
    assert values["source_bytes"] == source_bytes
    assert values["ratio"] == source_bytes / out.stat().st_size
    assert values["modules"] == len(MODULES)
    assert values["extras"] == 1
    assert values["seed"] == 3
    assert 0.09 < values["relative_error"] <= 0.1
    assert isinstance(values["parameters"], int)
    assert 0 < values["parameters"] <= len(MODULES) * RANK * (OUT + WIDTH)
    assert re.fullmatch(WROTE, result.last)


def test_compress_limits(adapter: Path) -> None:
    def compress(*words: str) -> Any:
        return run("compress", adapter, "-f", "--json", *words).json

    source = (adapter / "adapter_model.safetensors").stat().st_size
    assert 0.98 * 2048 < compress("--budget", "2KiB")["bytes"] <= 2048
    assert compress("-b", "7x")["bytes"] <= source / 7
    assert compress("-b", "18%")["bytes"] <= source * 0.18
    assert compress("--budget", "1k")["parameters"] <= 1000
    assert compress("--max-error", "0.3")["relative_error"] <= 0.3
    exact = compress("--lossless")
    assert (exact["relative_error"], exact["lossless"]) == (0.0, True)


def test_compress_says_when_a_budget_is_not_filled(adapter: Path) -> None:
    result = run("compress", adapter, "--budget", "1MB")
    assert result.code == 0
    assert result.err.startswith("warning: ")
    assert "of its part of the budget" in result.err
    assert run("compress", adapter, "--budget", "1MB", "-f", "-q").err == ""


def test_verbose_and_quiet(adapter: Path) -> None:
    said = run("compress", adapter, "-v").err
    assert said.splitlines()[0] == "fitting"
    assert "method svd, " in said
    quiet = run("compress", adapter, "-q", "-f", "--lossless")
    assert (quiet.code, quiet.out, quiet.err) == (0, "", "")


def test_equal_input_and_seed_give_equal_bytes(adapter: Path, packed: bytes) -> None:
    assert run("compress", adapter).code == 0
    assert adapter.with_name("my-adapter.adz").read_bytes() == packed


def test_inspect_an_archive(archive: Path) -> None:
    values = run("inspect", archive, "--json").json
    assert values["schema"] == 1
    assert values["kind"] == "adz"
    assert values["bytes"] == archive.stat().st_size
    assert sum(values["parts"].values()) == values["bytes"]
    assert {"header", "modules", "extras"} <= values["parts"].keys()
    assert values["extras_share"] == values["parts"]["extras"] / values["bytes"]
    assert [module["name"] for module in values["modules"]] == sorted(MODULES)
    assert all(module["shape"] == [OUT, WIDTH] for module in values["modules"])
    assert values["patterns"] == [
        {"pattern": "model.layers.{0-2}.self_attn.{q_proj,v_proj}", "modules": 6, "shape": [OUT, WIDTH]}
    ]
    assert values["base_model"] == "somebody/some-base"
    assert values["config"]["lora_alpha"] == 16
    assert 0 < values["relative_error"] <= 0.1


def test_inspect_an_archive_as_text(archive: Path) -> None:
    text = run("inspect", archive).out
    for line in (
        "method      svd, version 1",
        "base model  somebody/some-base",
        "modules     6, of rank 4 at most",
        "model.layers.{0-2}.self_attn.{q_proj,v_proj}  6   64 x 48  linear",
        "base_model.model.score.weight  3 x 48    F32      F32",
    ):
        assert line in text.splitlines()
    assert MODULES[0] not in text
    assert MODULES[0] in run("inspect", archive, "-v").out


def test_inspect_knows_an_archive_by_its_content(archive: Path) -> None:
    other = archive.rename(archive.with_suffix(".safetensors"))
    assert run("inspect", other, "--json").json["kind"] == "adz"


def test_inspect_a_checkpoint(adapter: Path) -> None:
    values = run("inspect", adapter, "--json").json
    assert values["schema"] == 1
    assert values["kind"] == "checkpoint"
    assert [module["name"] for module in values["modules"]] == sorted(MODULES)
    first = values["modules"][0]
    delta = adaptzip.read(adapter).modules[first["name"]].delta().double()
    spectrum = torch.linalg.svdvals(delta)[:RANK]
    assert (first["shape"], first["rank"], first["scaling"]) == ([OUT, WIDTH], RANK, 4.0)
    assert first["norm"] == pytest.approx(float(delta.norm()))
    for k, share in first["energy"].items():
        assert share == pytest.approx(float(spectrum[: int(k)].square().sum() / delta.square().sum()))
    assert list(first["energy"]) == ["1", "2", "4"]
    shares = spectrum / spectrum.sum()
    assert first["effective_rank"] == pytest.approx(float(torch.special.entr(shares).sum().exp()))
    assert values["extras"] == [
        {
            "name": "base_model.model.score.weight",
            "dtype": "float32",
            "shape": [3, WIDTH],
            "bytes": 12 * WIDTH,
        }
    ]
    assert values["extras_bytes"] == 12 * WIDTH
    assert values["extras_share"] == pytest.approx(12 * WIDTH / (values["factor_bytes"] + 12 * WIDTH))
    assert not values["all_zero"]
    assert values["zero_modules"] == []


def test_inspect_tells_what_methods_would_cost(adapter: Path, packed: bytes) -> None:
    costs = {cost["name"]: cost for cost in run("inspect", adapter, "--json").json["costs"]}
    numbers = len(MODULES) * RANK * (OUT + WIDTH)
    assert costs["float16"]["bytes"] == 2 * numbers
    assert costs["float16"]["relative_error"] < 1e-3
    assert costs["int4, groups of 64"]["bytes"] == numbers // 2 + 2 * numbers // 64
    assert 0.03 < costs["int4, groups of 64"]["relative_error"] < 0.2
    assert costs["svd --max-error 0.1"]["bytes"] == pytest.approx(len(packed), rel=0.2)
    assert costs["svd --max-error 0.2"]["relative_error"] == pytest.approx(0.2, rel=0.05)
    assert costs["svd --max-error 0.316"]["bytes"] < costs["svd --max-error 0.2"]["bytes"] < len(packed)
    assert run("inspect", adapter, "--json", "--no-costs").json["costs"] == []


def test_inspect_names_an_untrained_adapter(tmp_path: Path) -> None:
    tensors = make_tensors()
    for module in MODULES[:2]:
        tensors[f"base_model.model.{module}.lora_B.weight"].zero_()
    some = run("inspect", make_adapter(tmp_path / "some", tensors))
    assert "update      zero in 2 of 6 modules" in some.out
    for module in MODULES:
        tensors[f"base_model.model.{module}.lora_B.weight"].zero_()
    untrained = make_adapter(tmp_path / "untrained", tensors)
    assert "never trained: every update is zero" in run("inspect", untrained).out
    values = run("inspect", untrained, "--json").json
    assert values["all_zero"]
    assert len(values["zero_modules"]) == 6
    assert run("compress", untrained).code == 0
    assert "never trained: every update is zero" in run("inspect", tmp_path / "untrained.adz").out
    assert run("verify", tmp_path / "untrained.adz", "--against", untrained).code == 0


def test_inspect_tells_an_alpha_of_zero_from_factors_of_zero(tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path / "a")
    config = adapter / "adapter_config.json"
    values = json.loads(config.read_text())
    config.write_text(json.dumps(values | {"alpha_pattern": {MODULES[0]: 0}}))
    assert "update      zero in 1 of 6 modules, 1 of them by alpha 0" in run("inspect", adapter).out
    config.write_text(json.dumps(values | {"lora_alpha": 0}))
    out = run("inspect", adapter).out
    assert "alpha is 0: every update is multiplied by 0" in out
    assert "never trained" not in out
    assert run("compress", adapter).code == 0
    assert "alpha is 0: every update is zero" in run("inspect", tmp_path / "a.adz").out


def test_json_has_no_words_for_nan(tmp_path: Path) -> None:
    source = make_adapter(tmp_path / "a", config=CONFIG | {"lora_dropout": float("nan")})
    assert run("inspect", source, "--no-costs", "--json").json["config"]["lora_dropout"] is None


def test_inspect_notes_short_values_in_long_tensors(tmp_path: Path) -> None:
    tensors = {name: tensor.bfloat16().float() for name, tensor in make_tensors().items()}
    source = make_adapter(tmp_path / "a", tensors)
    (dtype,) = run("inspect", source, "--json").json["dtypes"]
    assert (dtype["dtype"], dtype["tensors"], dtype["exact_bfloat16"]) == ("float32", 13, 13)
    assert "13 of them hold bfloat16 values exactly" in run("inspect", source).out


def test_verify(adapter: Path, archive: Path) -> None:
    result = run("verify", archive)
    assert (result.code, result.err) == (0, "")
    assert all(line.startswith("ok  ") for line in result.out.splitlines())
    values = run("verify", archive, "--against", adapter, "--max-error", "0.1", "--json").json
    assert values["passed"] is True
    assert values["measured_error"] == pytest.approx(values["stated_error"], rel=1e-3)
    assert len(values["modules"]) == len(MODULES)
    assert {check["name"] for check in values["checks"]} == {
        "structure", "decoding", "numbers", "modules", "stated error", "extras", "max error",
    }  # fmt: skip
    assert MODULES[0] in run("verify", archive, "--against", adapter, "-v").out
    assert run("verify", archive, "-q").out == ""


@pytest.mark.parametrize("mode", ["lossless", "float16", "bfloat16", "int8"])
def test_verify_knows_how_extras_are_kept(mode: str, adapter: Path) -> None:
    out = adapter.parent / "out.adz"
    assert run("compress", adapter, "--extras", mode, "-o", out, "-q").code == 0
    result = run("verify", out, "--against", adapter)
    assert result.code == 0, result.err
    assert ("rounded" in result.out) == (mode != "lossless")
    file = adapter / "adapter_model.safetensors"
    tensors = load_file(file)
    tensors["base_model.model.score.weight"] += 0.1
    save_file(tensors, file)
    result = run("verify", out, "--against", adapter)
    assert result.code == 1
    assert "NO  extras: base_model.model.score.weight is not the source's" in result.out


def test_verify_lossless(adapter: Path) -> None:
    out = adapter.parent / "out.adz"
    assert run("compress", adapter, "--lossless", "-o", out, "-q").code == 0
    result = run("verify", out, "--against", adapter, "--max-error", "0")
    assert result.code == 0, result.out
    assert "ok  lossless: every factor is the source's bit for bit" in result.out


def test_verify_says_no(adapter: Path, archive: Path, tmp_path: Path) -> None:
    too_far = run("verify", archive, "--max-error", "0.01")
    assert too_far.code == 1
    assert too_far.err.startswith(f"error: {archive}: max error: ")
    other = make_adapter(tmp_path / "other", {k: 2 * v for k, v in make_tensors().items()})
    wrong = run("verify", archive, "--against", other)
    assert wrong.code == 1
    assert "NO  stated error: the file says 0.0" in wrong.out
    fewer = {k: v for k, v in make_tensors().items() if MODULES[0] not in k}
    missing = run("verify", archive, "--against", make_adapter(tmp_path / "fewer", fewer), "--json")
    assert missing.code == 1
    assert not missing.json["passed"]
    error = json.loads(missing.err.splitlines()[-1])["error"]
    assert error["message"].endswith(f"the file has {MODULES[0]}, which the source lacks")


def test_export(adapter: Path, archive: Path) -> None:
    out = adapter.parent / "restored"
    result = run("export", archive, "--as", "peft", "-o", out)
    assert (result.code, result.out) == (0, "")
    assert re.fullmatch(rf"wrote {re.escape(str(out))}  [\d.]+ KiB  \(2 files, 6 modules\)\n", result.err)
    assert run("diff", archive, out, "--max-error", "1e-6").code == 0
    assert run("diff", adapter, out, "--max-error", "0.1").code == 0
    values = run("export", archive, "-o", out, "-f", "--json").json
    assert values["files"] == ["adapter_config.json", "adapter_model.safetensors"]
    assert (values["modules"], values["dialect"], values["dry_run"]) == (6, "peft", False)


def test_export_portable(adapter: Path) -> None:
    out = adapter.parent / "portable"
    refused = run("export", adapter, "--portable", "-o", out)
    assert refused.code == 3
    result = run("export", adapter, "--portable", "--drop-extras", "--dtype", "bfloat16", "-o", out)
    assert result.code == 0, result.err
    config = json.loads((out / "adapter_config.json").read_text())
    assert config["lora_alpha"] == config["r"]
    assert {t.dtype for t in load_file(out / "adapter_model.safetensors").values()} == {torch.bfloat16}


def test_export_lists_what_it_leaves_out(adapter: Path) -> None:
    out = adapter.parent / "mlx"
    refused = run("export", adapter, "--as", "mlx", "-o", out)
    assert refused.code == 3
    what = re.search(r"MLX cannot hold (tensors beside the factors \([\w.]+\))", refused.err)
    assert what is not None, refused.err
    planned = run("export", adapter, "--as", "mlx", "--drop-extras", "-n", "-o", out)
    assert f"left out: {what[1]}" in planned.out.splitlines()
    assert not out.exists()
    written = run("export", adapter, "--as", "mlx", "--drop-extras", "-o", out)
    assert written.err.startswith(f"left out: {what[1]}\nwrote ")
    assert run("export", adapter, "--as", "mlx", "--drop-extras", "-f", "-o", out, "--json").json["left_out"] == [
        what[1]
    ]


def test_a_lossless_round_trip_is_the_source_byte_for_byte(adapter: Path) -> None:
    out = adapter.parent / "back"
    assert run("compress", adapter, "--lossless", "-q").code == 0
    assert run("export", adapter.parent / "my-adapter.adz", "-o", out, "-q").code == 0
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (out / name).read_bytes() == (adapter / name).read_bytes()


def test_merge(adapter: Path, base: Path) -> None:
    out = adapter.parent / "merged"
    result = run("merge", adapter, "--base", base, "-o", out)
    assert (result.code, result.out) == (0, "")
    assert re.fullmatch(r"wrote \S+  [\d.]+ KiB  \(6 modules, 1 extra merged\)\n", result.err)
    before, after = load_weights(base), load_weights(out)
    for name, factors in adaptzip.read(adapter).modules.items():
        assert torch.equal(after[f"{name}.weight"], before[f"{name}.weight"] + factors.delta())
    assert torch.equal(after["score.weight"], make_tensors()["base_model.model.score.weight"])
    values = run("merge", adapter, "--base", base, "-o", out, "-f", "--json").json
    assert (values["modules"], values["extras"], values["path"]) == (6, 1, str(out))
    assert values["files"] == sorted(["config.json", "model.safetensors", *TOLD])


def test_merge_an_archive_in_half(archive: Path, base: Path) -> None:
    out = archive.parent / "merged"
    result = run("merge", archive, "--base", base, "-o", out, "--scale", "0.5", "-v")
    assert result.code == 0, result.err
    assert "merging" in result.err
    before, after = load_weights(base), load_weights(out)
    delta = adaptzip.reconstruct(adaptzip.open(archive)).modules[MODULES[0]].delta()
    torch.testing.assert_close(after[f"{MODULES[0]}.weight"], before[f"{MODULES[0]}.weight"] + delta / 2)


def test_diff(adapter: Path, archive: Path) -> None:
    same = run("diff", adapter, adapter)
    assert same.code == 0
    assert same.out.splitlines()[-1] == "1 extra bit for bit the same"
    values = run("diff", adapter, archive, "--json").json
    assert values["schema"] == 1
    assert 0.09 < values["relative_error"] <= 0.1
    assert [module["name"] for module in values["modules"]] == sorted(MODULES)
    result = run("diff", adapter, archive, "--max-error", "0.01")
    assert result.code == 1
    assert "all modules" in result.out
    assert re.fullmatch(r"error: \S+: the relative error is 0\.\d+, expected at most 0.01\n", result.err)


def test_diff_of_adapters_with_other_modules(adapter: Path, tmp_path: Path) -> None:
    fewer = {k: v for k, v in make_tensors().items() if MODULES[0] not in k and "score" not in k}
    other = make_adapter(tmp_path / "fewer", fewer)
    text = run("diff", adapter, other).out
    assert f"{MODULES[0]} (only in the first)" in text
    assert "extra differs: base_model.model.score.weight" in text
    assert f"{MODULES[0]} (only in the second)" in run("diff", other, adapter).out


def test_methods() -> None:
    assert any(line.startswith("svd  ") for line in run("methods").out.splitlines())
    (method,) = [m for m in run("methods", "--json").json["methods"] if m["name"] == "svd"]
    about = run("methods", "svd", "--json").json
    assert about["summary"] == method["summary"]
    assert about["version"] == 1
    assert [option["name"] for option in about["options"]] == ["sides"]
    assert "paper" in run("methods", "svd").out


def test_an_adapter_without_extras_or_a_base_name(tmp_path: Path) -> None:
    tensors = {k: v for k, v in make_tensors().items() if "score" not in k}
    config = {k: v for k, v in CONFIG.items() if k not in ("base_model_name_or_path", "modules_to_save")}
    source = make_adapter(tmp_path / "plain", tensors, config)
    assert run("compress", source, "-q", "--lossless").code == 0
    for path in (source, tmp_path / "plain.adz"):
        result = run("inspect", path)
        assert result.code == 0
        assert "base model" not in result.out
    assert run("verify", tmp_path / "plain.adz", "--against", source).code == 0
