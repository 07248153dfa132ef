"""Publishing: what is uploaded is what PEFT loads, and the card tells the truth about it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from peft import PeftModel

import adaptzip
from adaptzip.errors import AdaptzipWarning, CheckpointError, OutputError, RefusedError, UsageError
from tests.cases import tiny_peft
from tests.cases.evaluation_cases import classifier
from tests.cases.upload_server import COMMIT, taking_uploads
from tests.cli.cli_cases import refused, run

BASE = "owner/base"
FILES = ["README.md", "adapter_config.json", "adapter_model.safetensors", "small.adz"]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    classifier(tmp_path)
    return tmp_path / "my-adapter"


def test_what_is_uploaded_is_what_peft_loads(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (source / "README.md").write_text("---\nlicense: mit\nbase_model: /home/me/base\n---\n\n# Lists\n\nMine.\n")
    with taking_uploads(monkeypatch) as there:
        report = adaptzip.publish(source, "me/small", max_error=0.3, base_name=BASE)
        again = adaptzip.publish(source, "me/small", max_error=0.3, base_name=BASE)
    assert report.url == again.url
    assert report.url.endswith(f"/me/small/commit/{COMMIT}")
    files = there["me/small"]
    assert sorted(files) == FILES
    assert {name: len(data) for name, data in files.items()} == report.files
    down = tmp_path / "down"
    down.mkdir()
    for name, data in files.items():
        (down / name).write_bytes(data)
    packed = adaptzip.open(down / "small.adz")
    assert adaptzip.diff(packed, down).relative_error == 0
    assert packed.provenance.relative_error == report.relative_error <= 0.3
    base = type(tiny_peft.bert()).from_pretrained(source.parent / "base-model")
    assert isinstance(PeftModel.from_pretrained(base, down), PeftModel)
    card = files["README.md"].decode()
    assert card == report.card
    assert card.startswith("---\nlicense: mit\nbase_model:\n- owner/base\nbase_model_relation: adapter\n")
    assert "/home/me" not in card
    assert "# Lists\n\nMine.\n" in card
    assert card.count("## Files") == 1
    assert f"| `small.adz` | {len(files['small.adz']):,} |" in card
    assert 'from_pretrained("me/small")' in card
    assert 'adaptzip.load_into(model, "small.adz")' in card


def test_a_rehearsal_uploads_nothing(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with taking_uploads(monkeypatch) as there:
        words = ("publish", source, "me/small", "--base-name", BASE, "--budget", "20%", "--dry-run")
        result = run(*words, "-o", tmp_path / "kept")
        assert result.code == 0, result.err
        assert "would upload to me/small" in result.out
        assert "base_model_relation: adapter" in result.out
        assert there == {}
        assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == FILES
        refused(run(*words, "-o", tmp_path / "kept"), 2, "exists already")
        assert run(*words, "-o", tmp_path / "kept", "-f", "--json").json["url"] is None


def test_a_packed_file_is_published_as_it_is(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adaptzip.compress(source, tmp_path / "x.adz", budget="20%", base_name=BASE)
    with taking_uploads(monkeypatch) as there:
        result = run("publish", tmp_path / "x.adz", "me/small")
        assert result.code == 0, result.err
        assert result.last.endswith(f"/me/small/commit/{COMMIT}")
        refused(run("publish", tmp_path / "x.adz", "me/small", "--budget", "5%"), 2, "is compressed already")
        refused(run("publish", tmp_path / "x.adz", "me/small", "--base-name", "a/b"), 2, "is compressed already")
    assert there["me/small"]["small.adz"] == (tmp_path / "x.adz").read_bytes()
    assert b"# small" in there["me/small"]["README.md"]


def test_what_nobody_could_load_is_refused(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with taking_uploads(monkeypatch) as there:
        with pytest.raises(UsageError, match="base model") as caught:
            adaptzip.publish(source, "me/small", budget="20%")
        assert "`base_name=" in str(caught.value.hint)
        for repo in (
            "small",
            "a/b/c",
            "/b",
            "a/",
            "../x",
            "a/..",
            "-a/b",
            "a--b/c",
            "a/b.git",
            "a b/c",
            "é/x",
            "a/" + 95 * "b",
        ):
            with pytest.raises(UsageError, match="is no repository"):
                adaptzip.publish(source, repo, base_name=BASE)
        with pytest.raises(OutputError, match=r"others/small: the Hub did not take it: .*rights"):
            adaptzip.publish(source, "others/small", budget="20%", base_name=BASE)
    assert there == {}
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(RefusedError, match="needs the package huggingface_hub"):
        adaptzip.publish(source, "me/small", budget="20%", base_name=BASE)
    adaptzip.publish(source, "me/small", budget="20%", base_name=BASE, dry_run=True)


def test_an_export_with_its_card_is_what_would_be_published(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adaptzip.compress(source, tmp_path / "small.adz", budget="20%", base_name=BASE)
    made = adaptzip.publish(tmp_path / "small.adz", "me/small", dry_run=True, output=tmp_path / "kept")
    words = ("export", tmp_path / "small.adz", "--card", "me/small", "-o", tmp_path / "small")
    assert run(*words).code == 0
    refused(run(*words), 2, "exists already")
    assert run(*words, "-f").code == 0
    assert sorted(made.files) == sorted(path.name for path in (tmp_path / "small").iterdir())
    for name in made.files:
        ours, theirs = (tmp_path / "small" / name).read_bytes(), (tmp_path / "kept" / name).read_bytes()
        assert ours == theirs, name
    held = adaptzip.export(adaptzip.open(tmp_path / "small.adz"), tmp_path / "held", card="me/small")
    assert held.files == ("README.md", "adapter_config.json", "adapter_model.safetensors", "held.adz")
    assert (tmp_path / "held" / "held.adz").read_bytes() == (tmp_path / "small.adz").read_bytes()


def test_a_card_beside_a_name_of_this_machine_does_not_repeat_it(source: Path, tmp_path: Path) -> None:
    adaptzip.compress(source, tmp_path / "small.adz", budget="20%", base_name=BASE)
    with pytest.warns(AdaptzipWarning, match="path"):
        adaptzip.export(tmp_path / "small.adz", tmp_path / "out", card="me/small", base_name="/home/me/base")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "/home/me" not in card
    assert "base_model" not in card


def test_a_card_is_refused_where_it_would_not_be_true(source: Path, tmp_path: Path) -> None:
    adaptzip.compress(source, tmp_path / "small.adz", budget="20%", base_name=BASE)
    for more, told in [
        ({"dtype": "float16"}, "which `dtype=` may change"),
        ({"portable": True}, "which `portable=` may change"),
        ({"drop_extras": True}, "which `drop_extras=` may change"),
        ({"as_": "kohya"}, "goes into a folder that PEFT loads"),
    ]:
        with pytest.raises(UsageError, match=told):
            adaptzip.export(tmp_path / "small.adz", tmp_path / "out", card="me/small", **more)  # type: ignore[arg-type]
    for other in (source, adaptzip.read(source)):
        with pytest.raises(UsageError, match=r"is no \.adz file"):
            adaptzip.export(other, tmp_path / "out", card="me/small")
    assert not (tmp_path / "out").exists()


def test_a_folder_of_a_users_own_is_not_taken_for_a_published_one(source: Path, tmp_path: Path) -> None:
    adaptzip.compress(source, tmp_path / "small.adz", budget="20%", base_name=BASE)
    adaptzip.export(tmp_path / "small.adz", tmp_path / "out")
    (tmp_path / "out" / "mine.adz").write_bytes(b"mine")
    with pytest.raises(OutputError, match="mine.adz"):
        adaptzip.export(tmp_path / "small.adz", tmp_path / "out", card="me/small", force=True)
    assert (tmp_path / "out" / "mine.adz").read_bytes() == b"mine"


def test_a_readme_keeps_its_yaml_or_is_refused(source: Path) -> None:
    def published(readme: str) -> dict[str, object]:
        (source / "README.md").write_text(readme, encoding="utf-8")
        made = adaptzip.publish(source, "me/small", budget="20%", base_name=BASE, dry_run=True)
        fields: dict[str, object] = ModelCard(made.card).data.to_dict()  # type: ignore[no-untyped-call]
        return fields

    assert published("\n\n---\nlicense: mit\n---\nx")["license"] == "mit"
    assert published("---\nlicense: mit\nbase_model:\n- a/b\n- c/d\n---\nx")["base_model"] == [BASE]
    for readme in ("---\nbase_model: &b a/b\nother: *b\n---\nx", "---\na: [\n---\nx", "---\njust text\n---\nx"):
        with pytest.raises(CheckpointError, match=r"README\.md: with the base model in it, its YAML can't be read"):
            published(readme)
