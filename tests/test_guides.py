"""The Python in the guides runs as written, on a small model of the same kind."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import BertConfig, BertForSequenceClassification

from adaptzip.cli.app import main
from adaptzip.testing.plugging import installed
from checks.docs import commands_in
from checks.markdown import read_page
from tests.cases import oracle_models
from tests.cases.guide_packages import installed_package, is_module

ROOT = Path(__file__).parent.parent
OWN_METHOD = ROOT / "docs" / "guides" / "own-method.md"
"""Its blocks are files of a package, which the last test writes and installs."""
GUIDES = sorted(
    page
    for page in (ROOT / "docs/guides").glob("*.md")
    if "```python" in page.read_text(encoding="utf-8") and page != OWN_METHOD
)


LANGUAGE_MODELS = ("serving",)
"""Guides whose base model is one that writes text."""
TYPED = ("first-steps", "many-adapters", "serving")
"""Guides whose commands run as they are typed."""


class RecordedUploads:
    """Stands in for `huggingface_hub.HfApi`, which would go to the network."""

    calls: list[dict[str, Any]] = []

    def upload_folder(self, **arguments: Any) -> None:
        self.calls.append(arguments)


@pytest.fixture
def workplace(guide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the `base-model` and `my-adapter` that the guides speak of."""
    if guide.stem in LANGUAGE_MODELS:
        case = oracle_models.make(tmp_path, r=4, lora_alpha=8)
        case.base.rename(tmp_path / "base-model")
        case.adapter.rename(tmp_path / "my-adapter")
    else:
        _classifier(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "HfApi", RecordedUploads)
    monkeypatch.setattr(RecordedUploads, "calls", [])
    return tmp_path


def _classifier(folder: Path) -> None:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=99, hidden_size=128, num_hidden_layers=2, num_attention_heads=2, intermediate_size=256
    )
    base = BertForSequenceClassification(config)
    base.save_pretrained(folder / "base-model")
    model = get_peft_model(
        base, LoraConfig(task_type="SEQ_CLS", r=8, target_modules=["query", "key", "value", "output.dense"])
    )
    falling = 0.5 ** torch.arange(8.0)
    for name, factor in model.named_parameters():
        if "lora_B" in name:
            factor.data = torch.randn(factor.shape) * falling
    model.save_pretrained(folder / "my-adapter")


@pytest.mark.parametrize("guide", GUIDES, ids=lambda guide: guide.stem)
def test_the_code_runs(guide: Path, workplace: Path) -> None:
    names: dict[str, Any] = {"__name__": "__main__"}
    page = read_page(guide)
    with installed_package(page, workplace / "site"):
        for block in page.blocks:
            if block.language == "python" and not is_module(block):
                exec(compile(block.text, f"{guide.name}:{block.line}", "exec"), names)
    assert list(workplace.rglob("*.adz"))


@pytest.mark.parametrize("guide", [ROOT / "docs" / "guides" / f"{name}.md" for name in TYPED], ids=TYPED)
def test_the_commands_run_as_typed(guide: Path, workplace: Path) -> None:
    for name in "ab":
        shutil.copytree("my-adapter", name)
    blocks = [block for block in read_page(guide).blocks if block.language == "console"]
    commands = [command.partition(" > ")[0] for block in blocks for command in commands_in(block.text)]
    own = [command for command in commands if command.startswith("adaptzip ") and "owner/name" not in command]
    assert len(own) >= 3
    for command in own:
        assert main(shlex.split(command)[1:]) == 0, command


@pytest.mark.parametrize("guide", [ROOT / "docs" / "guides" / "hub-upload.md"], ids=["hub-upload"])
def test_the_upload_guide_uploads_both_forms(guide: Path, workplace: Path) -> None:
    test_the_code_runs(guide, workplace)
    (upload,) = RecordedUploads.calls
    folder = Path(upload["folder_path"])
    assert (folder / "adapter.adz").is_file()
    assert (folder / "adapter_model.safetensors").is_file()
    assert (workplace / "merged-model" / "model.safetensors").is_file()


@pytest.mark.parametrize("guide", [OWN_METHOD], ids=["own-method"])
def test_the_method_of_the_guide_is_tested_and_used(guide: Path, workplace: Path) -> None:
    blocks: dict[str, list[str]] = {}
    for block in read_page(guide).blocks:
        blocks.setdefault(block.language, []).append(block.text)
    method, tests = blocks["python"]
    points = tomllib.loads(blocks["toml"][0])["project"]["entry-points"]["adaptzip.methods"]
    (workplace / "adaptzip_pairs.py").write_text(method)
    (workplace / "test_pairs.py").write_text(tests)
    with installed(workplace, points):
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_pairs.py"],
            cwd=workplace,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(workplace), str(ROOT)])},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        assert int(re.findall(r"(\d+) passed", done.stdout)[0]) >= 60
        for command in commands_in(blocks["console"][0]):
            program, *words = shlex.split(command)
            assert program == "adaptzip"
            assert main(words) == 0, command
