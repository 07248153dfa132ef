"""What a merged folder says of its making: the card, the provenance, and the names of labels."""

from __future__ import annotations

import hashlib
import json
import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import transformers as tf
from safetensors.torch import load_file, save_file

import adaptzip
from adaptzip._version import __version__
from adaptzip.errors import OutputError
from adaptzip.restoring.merging import merge
from adaptzip.restoring.merging.provenance import NAME, load_provenance, told_command
from tests.cases.merge_cases import Built, Case, assert_same_tensors, bert_encoder, build, tensors_of
from tests.cli.cli_cases import run

CARD = """---
license: mit
base_model: somebody/older
base_model_relation: finetune
tags:
- one
---

# The base

It speaks of caf\u00e9s.
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Built:
    case = Case(
        bert_encoder,
        {"target_modules": ["query"], "task_type": "SEQ_CLS"},
        tf.AutoModelForSequenceClassification,
        {"num_labels": 3},
    )
    return build(case, tmp_path_factory.mktemp("trained"))


@pytest.fixture
def built(trained: Built, tmp_path: Path) -> Built:
    """The same folders, to be written in."""
    for folder in (trained.base, trained.adapter):
        shutil.copytree(folder, tmp_path / folder.name)
    config = tmp_path / "adapter" / "adapter_config.json"
    values = json.loads(config.read_text()) | {"base_model_name_or_path": "somebody/some-base"}
    config.write_text(json.dumps(values))
    return Built(tmp_path / "base", tmp_path / "adapter", trained.expected, trained.config)


def told(folder: Path) -> dict[str, Any]:
    found = load_provenance(folder)
    assert found is not None
    return found


def test_the_provenance(built: Built, tmp_path: Path) -> None:
    report = merge(built.adapter, built.base, tmp_path / "merged", scale=0.5, safe_merge=True)
    assert NAME in report.files
    found = told(report.path)
    assert found["made_by"] == f"adaptzip {__version__}"
    assert (found["base"]["name"], found["base"]["repository"]) == ("base", "somebody/some-base")
    assert found["options"] == {"scale": 0.5, "safe_merge": True, "untie": False, "device": "cpu"}
    assert (found["method"], found["modules"], found["extras"]) == (None, report.modules, report.extras)
    weights = built.adapter / "adapter_model.safetensors"
    [adapter] = found["adapters"]
    assert (adapter["name"], adapter["weight"]) == ("adapter", 1.0)
    assert adapter["sha256"] == {weights.name: hashlib.sha256(weights.read_bytes()).hexdigest()}
    for folder, files in ((built.base, found["base"]["files"]), (report.path, found["files"])):
        content = (folder / "model.safetensors").read_bytes()
        sample = hashlib.sha256(len(content).to_bytes(8, "little") + content).hexdigest()
        assert files == {"model.safetensors": {"bytes": len(content), "sample": sample}}
    assert str(tmp_path) not in (report.path / NAME).read_text()
    again = merge(built.adapter, built.base, tmp_path / "again", scale=0.5, safe_merge=True)
    assert (again.path / NAME).read_bytes() == (report.path / NAME).read_bytes()


def test_the_card_keeps_the_bases_own(built: Built, tmp_path: Path) -> None:
    (built.base / "README.md").write_text(CARD, encoding="utf-8")
    merged = merge(built.adapter, built.base, tmp_path / "merged").path
    card = (merged / "README.md").read_text(encoding="utf-8")
    front, _, text = card.removeprefix("---\n").partition("---\n")
    assert front == ("license: mit\ntags:\n- one\nbase_model:\n- somebody/some-base\nbase_model_relation: merge\n")
    assert text.startswith("\n# The base\n\nIt speaks of caf\u00e9s.\n")
    assert "| adapter | `adapter` |" in text
    assert f"| made by | adaptzip {__version__} |" in text
    assert "the sum of weight and update once" in text
    assert (built.base / "README.md").read_text(encoding="utf-8") == CARD
    twice = merge(built.adapter, merged, tmp_path / "twice", safe_merge=True).path
    second = (twice / "README.md").read_text(encoding="utf-8")
    assert second.count("## Merged") == 1
    assert "`safe_merge`" in second
    assert told(twice)["base"]["name"] == "merged"


def test_a_card_without_yaml_and_one_that_is_no_text(built: Built, tmp_path: Path) -> None:
    (built.base / "README.md").write_bytes(b"# Base\n\n\xff\xfe\n")
    merged = merge(built.adapter, built.base, tmp_path / "merged").path
    assert (
        (merged / "README.md")
        .read_bytes()
        .startswith(
            b"---\nbase_model:\n- somebody/some-base\nbase_model_relation: merge\n---\n\n# Base\n\n\xff\xfe\n\n<!-- "
        )
    )


def test_a_base_whose_name_nobody_has(built: Built, tmp_path: Path) -> None:
    config = built.adapter / "adapter_config.json"
    values = json.loads(config.read_text()) | {"base_model_name_or_path": "/home/somebody/base"}
    config.write_text(json.dumps(values))
    merged = merge(built.adapter, built.base, tmp_path / "merged").path
    card = (merged / "README.md").read_text()
    assert card.startswith("# Merged model\n")
    assert "| base model | `base` |" in card
    assert "/home/somebody" not in card + (merged / NAME).read_text()


def test_only_a_card_of_ours_is_replaced(built: Built, tmp_path: Path) -> None:
    merged = merge(built.adapter, built.base, tmp_path / "merged").path
    merge(built.adapter, built.base, merged, force=True)
    (merged / "README.md").write_text("written by hand")
    with pytest.raises(OutputError, match=r"README\.md"):
        merge(built.adapter, built.base, merged, force=True)


def test_several_adapters_and_a_compressed_one(built: Built, tmp_path: Path) -> None:
    small = adaptzip.compress(built.adapter, tmp_path / "small.adz", max_error=0.3)
    words = ("merge", f"{tmp_path / 'small.adz'}:0.25", built.adapter, "--base", built.base, "-o", tmp_path / "merged")
    assert run(*words, "--quiet").code == 0
    found = told(tmp_path / "merged")
    assert found["method"] == "cat"
    assert [(a["name"], a["weight"], a["method"]) for a in found["adapters"]] == [
        ("small.adz", 0.25, small.method),
        ("adapter", 1.0, None),
    ]
    assert found["adapters"][0]["relative_error"] == pytest.approx(small.provenance.relative_error)
    card = (tmp_path / "merged" / "README.md").read_text()
    assert "| adapter | `small.adz`, times 0.25, compressed with `svd`, relative error 0." in card
    merge(adaptzip.read(built.adapter), built.base, tmp_path / "memory")
    assert told(tmp_path / "memory")["adapters"][0]["name"] is None


@pytest.mark.parametrize("where", ["adapter_config.json", "config.json"])
def test_names_of_labels(where: str, built: Built, tmp_path: Path) -> None:
    file = built.adapter / where
    values = json.loads(file.read_text()) if file.exists() else {}
    names = ["good", "bad", "ugly"]
    file.write_text(json.dumps(values | {"id2label": {str(i): name for i, name in enumerate(names)}}))
    merged = merge(built.adapter, built.base, tmp_path / "merged").path
    model = tf.AutoModelForSequenceClassification.from_pretrained(merged)
    assert model.config.id2label == dict(enumerate(names))
    assert model.config.label2id == {name: i for i, name in enumerate(names)}
    assert_same_tensors(tensors_of(merged), built.expected)
    assert adaptzip.check(merged, built.base, built.adapter).config == ()


def test_names_that_do_not_fit_the_head(built: Built, tmp_path: Path) -> None:
    for number, labels in enumerate(
        ({"0": "a", "1": "b"}, {"0": "a", "1": "a", "2": "b"}, {"1": "a", "2": "b", "3": "c"})
    ):
        (built.adapter / "config.json").write_text(json.dumps({"id2label": labels}))
        merged = merge(built.adapter, built.base, tmp_path / str(number)).path
        config = json.loads((merged / "config.json").read_text())
        assert config["id2label"] == {str(i): f"LABEL_{i}" for i in range(3)}


def test_a_check_takes_the_provenance_for_no_proof(built: Built, tmp_path: Path) -> None:
    merged = merge(built.adapter, built.base, tmp_path / "merged").path
    assert adaptzip.check(merged, built.base, built.adapter).notes == ()
    other = tmp_path / "other"
    shutil.copytree(built.base, other)
    tensors = load_file(other / "model.safetensors")
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, other / "model.safetensors")
    report = adaptzip.check(merged, other, built.adapter)
    assert report.notes == (f"{NAME} names a base of other weights than {other}",)
    (merged / NAME).write_text("[")
    assert adaptzip.check(merged, built.base, built.adapter).verdict == "exact"


COMBINED: dict[str, tuple[str, ...]] = {
    "the sum": ("{adapter}:0.5", "{other}"),
    "cut": ("{adapter}:0.5", "{other}:-1", "--method", "svd", "--rank", "2"),
    "pruned": ("{adapter}", "{other}", "--method", "ties_svd", "--density", "0.5", "--majority", "frequency"),
    "by chance": ("{adapter}", "{other}", "--method", "dare_linear", "--density", "0.5", "--seed", "3"),
    "taken away": ("{adapter}:0.5", "--subtract"),
    "of a file": ("{adapter}/adapter_model.safetensors", "--scale", "0.25"),
    "apart": ("{adapter}", "--untie"),
}


@pytest.mark.parametrize("kind", COMBINED)
def test_what_it_says_of_itself_passes_the_check(
    kind: str, built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the folder in which all of them lie."""
    adapter = adaptzip.read(built.adapter)
    halves = {name: replace(factors, scaling=factors.scaling / 2) for name, factors in adapter.modules.items()}
    adaptzip.export(adaptzip.Adapter(halves), tmp_path / "other")
    if "of a file" not in kind:
        shutil.rmtree(tmp_path / "adapter")
        adaptzip.export(adaptzip.Adapter(adapter.modules), tmp_path / "adapter")
    monkeypatch.chdir(tmp_path)
    words = (word.format(adapter="adapter", other="other") for word in COMBINED[kind])
    merged = run("merge", *words, "--base", "base", "-o", "merged", "--quiet")
    assert merged.code == 0, merged.err
    command = told_command(told(tmp_path / "merged"))
    assert run("check", "merged", *shlex.split(command)).code == 0
    assert f"`adaptzip check . {command}`" in (tmp_path / "merged" / "README.md").read_text()
