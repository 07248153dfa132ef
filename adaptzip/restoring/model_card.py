"""The README of an exported PEFT folder: the source's own, with how to load what lies beside it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adaptzip.errors import CheckpointError

NAME = "README.md"
_MARK = "<!-- adaptzip: loading -->"
"""What stands before and after the section, so that another export replaces it and adds no second one."""
_FRONT = re.compile(r"\ufeff?\s*---[ \t]*\r?\n(.*?)^---[ \t]*\r?$\n?", re.DOTALL | re.MULTILINE)
"""The YAML at the beginning of a card."""
_OURS = re.compile(r"^(?:base_model|base_model_relation)[ \t]*:.*\r?\n(?:(?:[ \t]+|-).*\r?\n)*", re.MULTILINE)
"""A field that is written anew, with the lines that belong to it."""
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
    return with_section(card, _MARK, f"## Loading\n\n```python\n{snippet(config)}```\n")


def with_section(card: str, mark: str, section: str) -> str:
    """A README with a section between two marks at its end, in the place of an older one."""
    before, found, rest = card.partition(mark)
    if found:
        card = before.rstrip() + rest.partition(mark)[2]
    return f"{card.rstrip()}\n\n{mark}\n{section}{mark}\n"


def with_base(card: str, repository: str | None, relation: str, **more: str) -> str:
    """A README with the base model in its YAML, by which the Hub shows the one under the other.

    Args:
        repository: of the base model; None leaves it out.
        relation: what the model is to it, such as "adapter" or "merge".
        more: other fields, for where the YAML has none of that name.
    """
    found = _FRONT.match(card)
    fields = "" if found is None else found[1]
    if repository is not None:
        fields = f"{_OURS.sub('', fields)}base_model:\n- {repository}\nbase_model_relation: {relation}\n"
    for name, value in more.items():
        if not re.search(rf"^{name}[ \t]*:", fields, re.MULTILINE):
            fields += f"{name}: {value}\n"
    if not fields:
        return card
    rest = card if found is None else card[found.end() :]
    return f"---\n{fields}---\n{rest if rest.startswith(chr(10)) else chr(10) + rest}"


def check_front(card: str) -> None:
    """Refuse a card whose YAML the Hub could not read.

    Without PyYAML, which comes with huggingface_hub, nothing is looked at.

    Raises:
        CheckpointError: saying what is wrong with it.
    """
    found = _FRONT.match(card)
    try:
        import yaml
    except ImportError:
        return
    try:
        fields = yaml.safe_load(found[1]) if found is not None else {}
    except yaml.YAMLError as error:
        fields = " ".join(str(error).split())
    if not isinstance(fields, dict | None):
        raise CheckpointError(
            f"{NAME}: with the base model in it, its YAML can't be read: {str(fields)[:200]}",
            hint="mend what stands between the lines of ---, or move the file away",
        )


def is_ours(readme: Path, mark: str = _MARK) -> bool:
    """Whether a README in an output folder has a marked section: by default one that an export wrote."""
    try:
        return mark.encode() in readme.read_bytes()
    except OSError:
        return False


def snippet(config: Mapping[str, Any], place: str = "PATH-OR-REPOSITORY") -> str:
    """Python that loads an adapter with PEFT.

    Args:
        config: its adapter_config.json.
        place: where it lies.
    """
    kind = _CLASSES.get(str(config.get("task_type")))
    if kind is not None and config.get("base_model_name_or_path"):
        return f'from peft import {kind}\n\nmodel = {kind}.from_pretrained("{place}")\n'
    return (
        "from peft import PeftModel\n\n"
        "# `base` is the model that the adapter was trained on.\n"
        f'model = PeftModel.from_pretrained(base, "{place}")\n'
    )
