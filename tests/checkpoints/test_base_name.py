"""Which names of base models are paths on a machine, and what another name changes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from adaptzip.checkpoints._base_name import check_name, is_local, renamed, warn_of_local_name
from adaptzip.core.meta import Meta
from adaptzip.errors import AdaptzipWarning, UsageError


@pytest.mark.parametrize(
    "name",
    [
        "/home/ann/models/llama", "~/models/llama", "~ann/llama", "./llama", "../llama", ".", "..", "C:\\models\\llama",
        "c:/models", "\\\\server\\share\\llama", "models\\llama", "file:///home/ann/llama", "FILE:/home/ann",
        "models/llama/7b", "llama/", "outputs/run/checkpoint-20/",
    ],
)  # fmt: skip
def test_paths(name: str) -> None:
    assert is_local(name)
    with pytest.warns(AdaptzipWarning, match="`base_name=") as caught:
        warn_of_local_name(name)
    assert repr(name) in str(caught[0].message)


@pytest.mark.parametrize(
    "name",
    [
        "gpt2", "meta-llama/Llama-2-7b-hf", "org/name.v1_2", "https://huggingface.co/org/name", "s3://bucket/a/b/c",
        "", "Some Model v1", "a" * 300,
    ],
)  # fmt: skip
def test_names(name: str) -> None:
    assert not is_local(name)
    warn_of_local_name(name)
    warn_of_local_name(None)


def test_a_folder_that_is_here_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert not is_local("my/model")
    (tmp_path / "my" / "model").mkdir(parents=True)
    assert is_local("my/model")


def test_a_text_changes_in_the_name_alone() -> None:
    text = '{ "r": 4,\n\t"base_model_name_or_path" :  "/home/\\"ann\\"/m",  "x": [1.50] }\n'
    meta = Meta("peft", json.loads(text), '/home/"ann"/m', config_text=text)
    found = renamed(meta, "org/größe")
    assert found.base_model == found.config["base_model_name_or_path"] == "org/größe"
    assert found.config_text is not None
    assert json.loads(found.config_text) == {**json.loads(text), "base_model_name_or_path": "org/größe"}
    assert found.config_text.startswith('{ "r": 4,\n\t"base_model_name_or_path" :  "org/')
    assert found.config_text.endswith(',  "x": [1.50] }\n')


@pytest.mark.parametrize(
    "text",
    [
        '{"r": 4}',
        '{"base_model_name_or_path": null}',
        '{"sub": {"base_model_name_or_path": "a"}, "base_model_name_or_path": "b"}',
        '{"base_model_name_or_path": "a", "base_model_name_or_path": "b"}',
    ],
)
def test_any_text_tells_the_new_name(text: str) -> None:
    found = renamed(Meta("peft", json.loads(text), None, config_text=text), "org/name")
    assert found.config_text is not None
    assert json.loads(found.config_text) == {**json.loads(text), "base_model_name_or_path": "org/name"}


def test_no_configuration_stays_none() -> None:
    assert renamed(Meta("peft"), "org/name") == Meta("peft", base_model="org/name")


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "a\x1b[31m", "\udcff", "a" * 1001])
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(UsageError, match="is no name"):
        check_name(name)
