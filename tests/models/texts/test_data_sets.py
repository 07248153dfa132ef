"""Rows that the package `datasets` reads: of a .parquet as of a .jsonl, and of data sets from a server of one's own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adaptzip.errors import CheckpointError
from adaptzip.models.texts import data_sets
from adaptzip.models.texts.data_sets import NamedSet, named_set
from adaptzip.models.texts.examples import read_examples
from adaptzip.models.texts.records import read_records, rows_digest
from tests.cases.data_sets import lines, parquet, serving_sets
from tests.cases.hub_server import COMMIT

datasets = pytest.importorskip("datasets", reason="the extra data is not installed")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
NEW_YEAR = datetime(2020, 1, 1)
HALVES = [{"text": "a", "sentence": None}, {"text": None, "sentence": "b"}]

MESSAGES = [
    {"role": "user", "content": "a"},
    {"role": "assistant", "content": "b", "name": "n"},
]


def fields(path: Path) -> list[dict[str, object]]:
    return [dict(record.fields) for record in read_records(path)]


text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
message = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant"]), "content": text}, optional={"name": text}
)
row: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {
        "text": st.none() | text,
        "label": st.none() | st.integers(-(2**63), 2**63 - 1),
        "score": st.none() | st.floats(allow_nan=False, allow_infinity=False).map(float),
        "flag": st.booleans(),
        "tokens": st.lists(text, max_size=3),
        "messages": st.lists(message, max_size=3),
        "translation": st.fixed_dictionaries({"en": text, "fr": st.none() | text}),
    }
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(row, min_size=1, max_size=5))
def test_a_parquet_has_the_rows_of_a_jsonl(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(parquet(rows))
    (tmp_path / "a.jsonl").write_bytes(lines(rows))
    assert fields(tmp_path / "a.parquet") == fields(tmp_path / "a.jsonl")


def test_examples_are_those_of_a_jsonl(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"messages": MESSAGES, "label": 1}, {"messages": MESSAGES[:1], "label": None}]
    (tmp_path / "a.parquet").write_bytes(parquet(rows))
    (tmp_path / "a.jsonl").write_bytes(lines(rows))
    found = read_examples(tmp_path / "a.parquet", label_field="label")
    assert found == read_examples(tmp_path / "a.jsonl", label_field="label")
    assert read_records(tmp_path / "a.parquet")[1].place == f"{tmp_path}/a.parquet, row 2"


def test_what_datasets_wrote_has_names_of_classes_and_pictures(tmp_path: Path) -> None:
    kinds = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"]), "seen": datasets.Image()}
    )
    made = datasets.Dataset.from_dict({"text": ["a"], "label": ["yes"], "seen": [{"bytes": b"", "path": None}]}, kinds)
    made.to_parquet(tmp_path / "a.parquet")
    assert fields(tmp_path / "a.parquet") == [{"text": "a", "label": 1}]


@pytest.mark.parametrize(
    ("name", "content", "kept", "guessed"),
    [
        ("a.csv", "text,label\n007,01\n", [{"text": "007", "label": "01"}], [{"text": 7, "label": 1}]),
        ("a.csv", "text,label\nNA,no\n", [{"text": "NA", "label": "no"}], [{"text": None, "label": "no"}]),
        ("a.jsonl", '{"text": "2020-01-01 00:00:00"}', [{"text": "2020-01-01 00:00:00"}], [{"text": NEW_YEAR}]),
        ("a.jsonl", '{"text": "a"}\n{"sentence": "b"}\n', [{"text": "a"}, {"sentence": "b"}], HALVES),
        ("a.txt", "a\n\nb\rc\n", [{"text": "a"}, {"text": "b\rc"}], [{"text": part} for part in ("a", "", "b", "c")]),
    ],
)
def test_other_files_are_read_by_hand_as_datasets_guesses(
    name: str, content: str, kept: object, guessed: object, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(content.encode())
    kind = {".csv": "csv", ".jsonl": "json", ".txt": "text"}[path.suffix]
    assert fields(path) == kept
    assert list(datasets.load_dataset(kind, data_files=str(path), split="train", streaming=True)) == guessed


def test_what_is_no_parquet_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    with pytest.raises(CheckpointError, match="a.parquet: does not exist"):
        read_records(path)
    path.write_bytes(b"PAR1")
    with pytest.raises(CheckpointError, match=r"a.parquet: is not a .parquet of rows \(ArrowInvalid") as caught:
        read_records(path)
    assert "\n" not in str(caught.value)


def test_without_datasets_its_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_sets, "find_spec", lambda name: None)
    path = tmp_path / "a.parquet"
    path.write_bytes(parquet([{"text": "a"}]))
    for wanted in (path, Path("some/rows"), Path("hf://datasets/some/rows")):
        with pytest.raises(CheckpointError, match="is read by the package datasets, which is not installed") as caught:
            read_records(wanted)
        assert "adaptzip[data]" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("some/rows", NamedSet("some/rows")),
        ("hf://datasets/some/rows", NamedSet("some/rows")),
        ("some/rows:train", NamedSet("some/rows", split="train")),
        ("some/rows@v1:test", NamedSet("some/rows", "v1", split="test")),
        ("some/rows@refs/pr/1:sst2/dev[:20]", NamedSet("some/rows", "refs/pr/1", "sst2", "dev", 20)),
        ("hf://datasets/some/rows.csv", NamedSet("some/rows.csv")),
        ("some/rows.csv", None),
        ("some/rows.parquet", None),
        ("rows", None),
        ("./some/rows", NamedSet("some/rows")),
        ("a/b/c", None),
        ("some/rows:train[5:]", None),
        ("/some/rows", None),
    ],
)
def test_names(words: str, wanted: NamedSet | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert named_set(Path(words)) == wanted


def test_a_path_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("some/rows").mkdir(parents=True)
    assert named_set(Path("some/rows")) is None
    assert named_set(Path("hf://datasets/some/rows:train")) == NamedSet("some/rows", split="train")
    with pytest.raises(CheckpointError, match="some/rows:train: may be a data set of the Hub, or a file") as caught:
        named_set(Path("some/rows:train"))
    assert "hf://datasets/some/rows:train" in str(caught.value.hint)


CARD = b"""---
configs:
- config_name: one
  data_files:
  - {split: train, path: one/train.parquet}
- config_name: two
  data_files:
  - {split: train, path: two/train.parquet}
---
"""
SETS: Mapping[str, Mapping[str, bytes]] = {
    "datasets/some/rows": {
        **{
            f"data/train-0000{place}-of-00004.parquet": parquet([{"text": f"{part}{i}", "label": i} for i in range(3)])
            for place, part in enumerate("abcd")
        },
        "data/test-00000-of-00001.parquet": parquet([{"text": "t", "label": 0}]),
    },
    "datasets/some/chats": {"a.jsonl": lines([{"messages": MESSAGES}])},
    "datasets/some/both": {
        "README.md": CARD,
        "one/train.parquet": parquet([{"text": "1"}]),
        "two/train.parquet": parquet([{"text": "2"}]),
    },
    "datasets/some/program": {"program.py": b"import sys\nsys.exit('was run')\n"},
    "datasets/gated/rows": {"a.jsonl": lines([{"text": "a"}])},
}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Data sets on a server, and empty caches; what the server was asked for."""
    monkeypatch.chdir(tmp_path)
    with serving_sets(SETS, tmp_path, monkeypatch) as asked:
        yield asked


@pytest.mark.parametrize("words", ["some/rows:train", f"hf://datasets/some/rows@{COMMIT}:train"])
def test_a_split_of_the_hub(words: str, hub: list[str]) -> None:
    found = read_records(Path(words))
    assert [record.fields["text"] for record in found] == [f"{part}{i}" for part in "abcd" for i in range(3)]
    assert found[4].place == f"{words.removeprefix('hf://datasets/')}, row 5"
    assert any(path.endswith("train-00001-of-00004.parquet") for path in hub)


def test_first_rows_are_all_that_is_fetched(hub: list[str], tmp_path: Path) -> None:
    assert [row["text"] for row in fields(Path("some/rows:train[:2]"))] == ["a0", "a1"]
    # The next file is opened ahead.
    assert {path.rpartition("/")[2][:11] for path in hub if path.endswith(".parquet")} == {"train-00000", "train-00001"}
    assert not list(tmp_path.rglob("*.arrow"))


def test_messages_of_the_hub(hub: list[str]) -> None:
    for words in ("some/chats", "some/chats:train[:1]"):
        assert fields(Path(words)) == [{"messages": MESSAGES}]


def test_configurations(hub: list[str]) -> None:
    assert fields(Path("some/both:two/train")) == [{"text": "2"}]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("some/rows", "some/rows: has several splits, expected one of train, test"),
        ("some/rows:dev", "some/rows:dev: datasets cannot load it .*Should be one of .'train', 'test'"),
        ("some/rows@v9", "some/rows@v9: some/rows has no revision v9 on the Hub"),
        ("some/none", "some/none: no such file, and no such data set on the Hub"),
        ("gated/rows", "gated/rows: datasets cannot load it .*gated dataset"),
        ("some/both", "some/both: datasets cannot load it .*pick one among the available configs"),
        ("some/both:three/train", "some/both:three/train: datasets cannot load it .*'three' not found"),
        ("some/program", "some/program: datasets cannot load it .*scripts are no longer supported"),
    ],
)
def test_what_the_hub_does_not_have(words: str, message: str, hub: list[str]) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        read_records(Path(words))
    assert "\n" not in str(caught.value)
    assert caught.value.hint


def test_offline_the_cache_is_read(hub: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    whole, some = Path("some/rows:train"), Path("some/rows:train[:2]")
    seen = fields(whole), rows_digest(whole)
    hub.clear()
    for name in ("datasets.config.HF_HUB_OFFLINE", "huggingface_hub.constants.HF_HUB_OFFLINE"):
        monkeypatch.setattr(name, True)
    assert (fields(whole), rows_digest(whole)) == seen
    assert fields(some) == seen[0][:2]
    with pytest.raises(CheckpointError, match="some/rows@main: the Hub cannot be asked for this revision"):
        read_records(Path("some/rows@main"))
    with pytest.raises(CheckpointError, match="some/chats: the Hub cannot be asked") as caught:
        read_records(Path("some/chats"))
    assert "HF_HUB_OFFLINE" in str(caught.value.hint)
    assert hub == []


def test_files_ask_nobody(hub: list[str]) -> None:
    Path("a.parquet").write_bytes(parquet([{"text": "a"}]))
    assert fields(Path("a.parquet")) == [{"text": "a"}]
    with pytest.raises(CheckpointError, match="does not exist"):
        read_records(Path("some/rows.jsonl"))
    assert hub == []
