"""The README of an exported PEFT folder: the source's own, and a snippet that loads it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import adaptzip
from adaptzip.errors import OutputError
from adaptzip.restoring.model_card import with_loading
from tests.cases.tiny_peft import Trained, llama, train


@pytest.fixture
def trained(tmp_path: Path) -> Trained:
    return train(llama(), tmp_path / "a", target_modules=["q_proj"], task_type="CAUSAL_LM")


CARD = "---\nlicense: mit\n---\n# Mine\n\nTrained at home.\n"


def test_a_source_keeps_its_readme_and_tells_how_to_load(trained: Trained, tmp_path: Path) -> None:
    (trained.folder / "README.md").write_text(CARD)

    report = adaptzip.export(trained.folder, tmp_path / "out")

    assert "README.md" in report.files
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith(CARD.rstrip())
    assert card.count("## Loading") == 1
    again = adaptzip.export(tmp_path / "out", tmp_path / "again")
    assert (again.path / "README.md").read_text() == card


def test_the_snippet_loads_the_adapter(trained: Trained, tmp_path: Path) -> None:
    (trained.folder / "README.md").write_text(CARD)
    adaptzip.export(trained.folder, tmp_path / "out")
    code = (tmp_path / "out" / "README.md").read_text().partition("```python\n")[2].partition("```")[0]
    names: dict[str, object] = {"base": llama()}

    exec(code.replace("PATH-OR-REPOSITORY", str(tmp_path / "out")), names)  # noqa: S102

    state = names["model"].state_dict()  # type: ignore[attr-defined]
    found = [tensor for key, tensor in state.items() if ".lora_B." in key]
    assert found
    assert any(bool(torch.count_nonzero(tensor)) for tensor in found)


def test_our_own_readme_is_replaced_and_nobody_elses(trained: Trained, tmp_path: Path) -> None:
    (trained.folder / "README.md").write_text(CARD)
    adaptzip.export(trained.folder, tmp_path / "out")
    adaptzip.export(trained.folder, tmp_path / "out", force=True)
    (tmp_path / "out" / "README.md").write_text("written by hand")
    with pytest.raises(OutputError, match=r"README\.md"):
        adaptzip.export(trained.folder, tmp_path / "out", force=True)
    assert (tmp_path / "out" / "README.md").read_text() == "written by hand"


def test_no_readme_comes_of_nothing(trained: Trained, tmp_path: Path) -> None:
    (trained.folder / "README.md").unlink(missing_ok=True)
    assert "README.md" not in adaptzip.export(trained.folder, tmp_path / "out").files


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"task_type": "SEQ_CLS", "base_model_name_or_path": "x/y"}, "AutoPeftModelForSequenceClassification"),
        ({"task_type": None, "base_model_name_or_path": "x/y"}, "PeftModel.from_pretrained(base"),
        ({"task_type": "CAUSAL_LM", "base_model_name_or_path": None}, "PeftModel.from_pretrained(base"),
    ],
)
def test_the_task_tells_the_class(config: dict[str, str | None], said: str) -> None:
    assert said in with_loading(CARD, config)
