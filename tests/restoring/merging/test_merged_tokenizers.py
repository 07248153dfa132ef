"""Merged models carry the adapter's tokenizer where it brings one, whole and alone, and say whose it is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from adaptzip.errors import CheckpointError
from adaptzip.fitting.compression import compress
from adaptzip.restoring.merging import MergeReport, merge
from adaptzip.restoring.reading import read
from tests.cases.live_models import llama, train


class Folders:
    """A base and an adapter, to which files are added."""

    def __init__(self, folder: Path) -> None:
        live = train(folder, llama, target_modules=["q_proj"])
        self.folder, self.base, self.adapter = folder, live.base, live.adapter

    def put(self, where: Path, **files: str) -> None:
        for name, text in files.items():
            path = where / name.replace("__", "/").replace("_dot_", ".")
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)

    def merge(self, source: Path | None = None, **options: object) -> MergeReport:
        return merge(source or self.adapter, self.base, self.folder / "merged", force=True, **options)  # type: ignore[arg-type]

    def merged(self, name: str) -> str | None:
        path = self.folder / "merged" / name
        return path.read_text() if path.exists() else None


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return Folders(tmp_path)


BASE = {
    "tokenizer_dot_json": "base",
    "tokenizer_config_dot_json": "base",
    "chat_template_dot_jinja": "base",
    "vocab_dot_json": "{}",
    "additional_chat_templates__tool_dot_jinja": "base",
    "preprocessor_config_dot_json": "{}",
    "generation_config_dot_json": "{}",
}


def test_the_adapters_whole_tokenizer_and_nothing_of_the_bases(folders: Folders) -> None:
    folders.put(folders.base, **BASE)
    folders.put(folders.adapter, tokenizer_dot_json="own", added_tokens_dot_json='{"<a>": 31}')
    report = folders.merge()
    assert report.tokenizer == "adapter"
    assert folders.merged("tokenizer.json") == "own"
    assert folders.merged("added_tokens.json") == '{"<a>": 31}'
    for name in ("tokenizer_config.json", "chat_template.jinja", "vocab.json", "additional_chat_templates/tool.jinja"):
        assert folders.merged(name) is None, name
    assert folders.merged("preprocessor_config.json") == folders.merged("generation_config.json") == "{}"
    assert not {"adapter_config.json", "adapter_model.safetensors"} & set(report.files)
    assert report.warnings == ()


@pytest.mark.parametrize("name", ["spiece.model", "vocab.txt", "tokenizer.model", "qwen.tiktoken", "tekken.json"])
def test_every_kind_of_vocabulary_makes_a_tokenizer(name: str, folders: Folders) -> None:
    folders.put(folders.base, **BASE)
    (folders.adapter / name).write_bytes(b"own")
    assert folders.merge().tokenizer == "adapter"
    assert folders.merged(name) == "own"
    assert folders.merged("tokenizer.json") is None


def test_the_bases_where_the_adapter_brings_none(folders: Folders) -> None:
    assert folders.merge().tokenizer is None
    folders.put(folders.base, **BASE)
    assert folders.merge().tokenizer == "base"
    assert folders.merged("chat_template.jinja") == folders.merged("tokenizer.json") == "base"


def test_files_without_a_vocabulary_are_left_out_and_named(folders: Folders) -> None:
    folders.put(folders.base, **BASE)
    folders.put(folders.adapter, tokenizer_config_dot_json="own")
    report = folders.merge()
    assert report.tokenizer == "base"
    assert folders.merged("tokenizer_config.json") == "base"
    assert ["tokenizer_config.json but no vocabulary" in warning for warning in report.warnings] == [True]


def test_a_tokenizer_of_bytes_has_no_vocabulary(folders: Folders) -> None:
    folders.put(folders.base, tokenizer_config_dot_json="base")
    folders.put(folders.adapter, tokenizer_config_dot_json="own")
    assert folders.merge().tokenizer == "adapter"
    assert folders.merged("tokenizer_config.json") == "own"


def test_whose_tokenizer_by_the_kind_of_source(folders: Folders) -> None:
    folders.put(folders.base, **BASE)
    folders.put(folders.adapter, tokenizer_dot_json="own")
    compress(folders.adapter, folders.folder / "a.adz", lossless=True)
    shutil.copy(folders.folder / "a.adz", folders.adapter / "b.adz")
    assert folders.merge(folders.adapter / "adapter_model.safetensors").tokenizer == "adapter"
    assert folders.merge(folders.folder / "a.adz").tokenizer == "base"
    assert folders.merge(folders.adapter / "b.adz").tokenizer == "base"
    source = read(folders.adapter)
    report = merge(source, folders.base, folders.folder / "1")
    assert report.tokenizer == "base"
    assert merge(source, folders.base, folders.folder / "2", tokenizer=folders.adapter).tokenizer == "adapter"


def tokenizer(tokens: int, added: int = 0) -> str:
    vocabulary = {f"w{i}": i for i in range(tokens)}
    more = [{"id": tokens + i, "content": f"<{i}>"} for i in range(added)]
    return json.dumps({"model": {"type": "WordLevel", "vocab": vocabulary}, "added_tokens": more})


@pytest.mark.parametrize(
    "file",
    [
        {"tokenizer_dot_json": tokenizer(33)},
        {"tokenizer_dot_json": tokenizer(31, added=2)},
        {"tokenizer_dot_json": json.dumps({"model": {"type": "Unigram", "vocab": [["w", 0.0]] * 33}})},
        {"vocab_dot_json": json.dumps({"a": 32})},
        {"vocab_dot_txt": "w\n" * 33},
        {"tokenizer_dot_model": "?", "added_tokens_dot_json": '{"<a>": 32}'},
        {"tokenizer_dot_model": "?", "tokenizer_config_dot_json": json.dumps({"added_tokens_decoder": {"32": {}}})},
    ],
)
def test_more_tokens_than_the_embedding_has(file: dict[str, str], folders: Folders) -> None:
    folders.put(folders.adapter, **file)
    report = folders.merge()
    assert ["adapter's tokenizer has 33 tokens" in w and "only 32" in w for w in report.warnings] == [True]


def test_as_many_tokens_as_the_embedding_has(folders: Folders) -> None:
    folders.put(folders.adapter, tokenizer_dot_json=tokenizer(30, added=2))
    assert folders.merge().warnings == ()


def test_a_link_out_of_the_adapters_folder(folders: Folders) -> None:
    (folders.folder / "secret").write_text("secret")
    (folders.adapter / "tokenizer.json").symlink_to("../secret")
    with pytest.raises(CheckpointError, match="outside its folder"):
        folders.merge()
    assert not (folders.folder / "merged").exists()


def test_the_links_of_a_hub_cache(folders: Folders) -> None:
    snapshot, blobs = folders.folder / "models--x" / "snapshots" / "1", folders.folder / "models--x" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    folders.put(folders.adapter, tokenizer_dot_json="own")
    for file in list(folders.adapter.iterdir()):
        file.rename(blobs / file.name)
        (snapshot / file.name).symlink_to(f"../../blobs/{file.name}")
    assert folders.merge(snapshot).tokenizer == "adapter"
    assert folders.merged("tokenizer.json") == "own"
    assert not (folders.folder / "merged" / "tokenizer.json").is_symlink()
