"""The README of an exported PEFT folder: the source's own, with how to load what lies beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from adaptzip.errors import CheckpointError

NAME = "README.md"
_MARK = "<!-- adaptzip: loading -->"
"""What stands before and after the section, so that another export replaces it and adds no second one."""
_CLASSES = {
    "CAUSAL_LM": "AutoPeftModelForCausalLM",
    "SEQ_2_SEQ_LM": "AutoPeftModelForSeq2SeqLM",
    "SEQ_CLS": "AutoPeftModelForSequenceClassification",
    "TOKEN_CLS": "AutoPeftModelForTokenClassification",
    "QUESTION_ANS": "AutoPeftModelForQuestionAnswering",
    "FEATURE_EXTRACTION": "AutoPeftModelForFeatureExtraction",
}
"""PEFT's classes by the task of a configuration."""


def source_card(source: object) -> str | None:
    """The text of the README in a source's folder, or None where there is none.

    Raises:
        CheckpointError: if it is no text.
    """
    if not isinstance(source, str | Path):
        return None
    path = Path(source)
    folder = path if path.is_dir() else path.parent
    readme = folder / NAME
    if path.suffix == ".adz" or not readme.is_file():
        return None
    try:
        return readme.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{readme}: is no UTF-8 text", hint="save it as UTF-8, or move it away") from error


def with_loading(card: str, config: dict[str, Any]) -> str:
    """A README with a section that tells how to load the folder with PEFT.

    Args:
        card: the source's README.
        config: the adapter_config.json that is written beside it.
    """
    return with_section(card, _MARK, f"## Loading\n\n```python\n{_snippet(config)}```\n")


def with_section(card: str, mark: str, section: str) -> str:
    """A README with a section between two marks at its end, in the place of an older one."""
    before, found, rest = card.partition(mark)
    if found:
        card = before.rstrip() + rest.partition(mark)[2]
    return f"{card.rstrip()}\n\n{mark}\n{section}{mark}\n"


def is_ours(readme: Path, mark: str = _MARK) -> bool:
    """Whether a README in an output folder has a marked section: by default one that an export wrote."""
    try:
        return mark.encode() in readme.read_bytes()
    except OSError:
        return False


def _snippet(config: dict[str, Any]) -> str:
    kind = _CLASSES.get(str(config.get("task_type")))
    if kind is not None and config.get("base_model_name_or_path"):
        return f'from peft import {kind}\n\nmodel = {kind}.from_pretrained("PATH-OR-REPOSITORY")\n'
    return (
        "from peft import PeftModel\n\n"
        "# `base` is the model that the adapter was trained on.\n"
        'model = PeftModel.from_pretrained(base, "PATH-OR-REPOSITORY")\n'
    )
