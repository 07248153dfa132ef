"""Finding an adapter in a folder: its shards, what lies beside it, and where to look where it is not."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import adaptzip
from adaptzip.errors import AdaptzipWarning, CheckpointError
from adaptzip.restoring.opening import source_bytes, weight_files
from adaptzip.restoring.reading import read
from tests.cases.tiny_peft import llama, merged_by_peft, train

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PARTS = [f"adapter_model-0000{i}-of-00002.safetensors" for i in (1, 2)]


def plain(folder: Path) -> Path:
    train(llama(), folder, r=2, lora_alpha=4, target_modules=["q_proj", "v_proj"])
    return folder


def failure(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        read(path)
    return f"{caught.value} | {caught.value.hint}"


def sharded(folder: Path, pickled: bool = False) -> dict[str, Tensor]:
    """Split an adapter's weights into two files with an index; what was in them."""
    tensors = load_file(plain(folder) / WEIGHTS)
    (folder / WEIGHTS).unlink()
    keys = sorted(tensors)
    suffix = ".bin" if pickled else ".safetensors"
    weight_map: dict[str, str] = {}
    for name, part in zip(PARTS, (keys[:3], keys[3:]), strict=True):
        file = folder / name.replace(".safetensors", suffix)
        content = {key: tensors[key] for key in part}
        torch.save(content, file) if pickled else save_file(content, file)
        weight_map |= dict.fromkeys(part, file.name)
    write_index(folder / f"adapter_model{suffix}.index.json", weight_map)
    return tensors


def write_index(path: Path, weight_map: object) -> None:
    path.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))


@pytest.mark.parametrize("pickled", [True, False])
def test_all_shards_of_an_adapter_are_read(tmp_path: Path, pickled: bool) -> None:
    folder = tmp_path / "a"
    expected = sharded(folder, pickled)
    adapter = read(folder)
    for name, factors in adapter.modules.items():
        assert torch.equal(factors.A, expected[f"base_model.model.{name}.lora_A.weight"])
        assert torch.equal(factors.B, expected[f"base_model.model.{name}.lora_B.weight"])
    assert len(adapter.modules) == len(expected) // 2
    assert adapter.meta.header is None
    files = [p for p in folder.iterdir() if "-of-" in p.name]
    assert source_bytes(folder) == sum(p.stat().st_size for p in files)
    assert sorted(weight_files(folder)) == sorted(files)
    adaptzip.compress(folder, tmp_path / "a.adz", lossless=True)
    assert adaptzip.open(tmp_path / "a.adz").provenance.source_bytes == source_bytes(folder)
    adaptzip.export(tmp_path / "a.adz", tmp_path / "out")
    again = load_file(tmp_path / "out" / WEIGHTS)
    assert again.keys() == expected.keys()
    assert all(torch.equal(again[key], expected[key]) for key in expected)


def test_a_part_of_an_adapter_is_refused(tmp_path: Path) -> None:
    sharded(tmp_path)
    for number, part in enumerate(PARTS, 1):
        message = failure(tmp_path / part)
        assert f"is part {number} of 2" in message
        assert f"{WEIGHTS}.index.json" in message
    assert len(read(tmp_path / f"{WEIGHTS}.index.json").modules) == 4
    (tmp_path / f"{WEIGHTS}.index.json").unlink()
    assert "2 parts of an adapter" in failure(tmp_path)
    assert "no index that joins them" in failure(tmp_path)


def test_an_index_and_its_shards_must_agree(tmp_path: Path) -> None:
    tensors = sharded(tmp_path)
    index = tmp_path / f"{WEIGHTS}.index.json"
    weight_map = json.loads(index.read_text())["weight_map"]
    first, *_, last = sorted(tensors)
    for broken, said in (
        ({**weight_map, last: PARTS[0]}, f"holds {last}, which {index.name} has in {PARTS[0]}"),
        ({key: file for key, file in weight_map.items() if key != first}, f"holds {first}, which"),
        ({**weight_map, "more": PARTS[1]}, f"expects more in {PARTS[1]}"),
        ({**weight_map, first: "other.safetensors"}, "names other.safetensors, which is not there"),
        ({first: "../x.safetensors"}, "has no weight_map"),
        ({first: 3}, "has no weight_map"),
        ([], "has no weight_map"),
    ):
        write_index(index, broken)
        assert said in failure(tmp_path)
    index.write_text("{")
    assert "is not valid JSON" in failure(tmp_path)


KEY = "base_model.model.model.norm.weight"


@pytest.mark.parametrize("spelling", [KEY, KEY.removeprefix("base_model.model."), f"module.{KEY}"])
@pytest.mark.parametrize("name", ["non_lora_trainables.bin", "non_lora_state_dict.bin"])
def test_what_was_trained_beside_the_factors_belongs_to_the_adapter(tmp_path: Path, spelling: str, name: str) -> None:
    """The result is what PEFT makes of the same tensor in the adapter's own file."""
    folder, base = plain(tmp_path / "a"), llama()
    base.save_pretrained(tmp_path / "base")
    norm = torch.arange(16.0)
    torch.save({spelling: norm}, folder / name)
    adapter = read(folder)
    assert torch.equal(adapter.extras[KEY], norm)
    assert source_bytes(folder) == sum((folder / file).stat().st_size for file in (WEIGHTS, name))
    adaptzip.merge(folder, tmp_path / "base", tmp_path / "merged")
    adaptzip.export(folder, tmp_path / "out")
    expected = merged_by_peft(base, tmp_path / "out")
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    assert torch.equal(merged["model.norm.weight"], norm)
    assert all(torch.equal(merged[key], expected[key]) for key in merged)
    assert "without them" in failure(folder / name)


def test_keys_that_lost_half_of_their_prefix_are_restored(tmp_path: Path) -> None:
    plain(tmp_path)
    torch.save({"model.model.norm.weight": torch.ones(16)}, tmp_path / "non_lora_trainables.bin")
    assert list(read(tmp_path).extras) == [KEY]


def test_what_lies_beside_and_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    plain(tmp_path)
    file = tmp_path / "non_lora_trainables.bin"
    file.write_bytes(b"\x80\x02")
    assert f"{file}: is truncated" in failure(tmp_path)
    file.unlink()
    save_file(load_file(tmp_path / WEIGHTS) | {KEY: torch.ones(16)}, tmp_path / WEIGHTS)
    torch.save({KEY: torch.zeros(16)}, file)
    assert f"holds another {KEY}" in failure(tmp_path)


@pytest.mark.parametrize("name", ["mm_projector.bin", "value_head.safetensors", "new_embeddings.safetensors", "emb.pt"])
def test_weights_beside_that_are_not_read_are_named(tmp_path: Path, name: str) -> None:
    plain(tmp_path)
    (tmp_path / name).write_bytes(b"x")
    with pytest.warns(AdaptzipWarning, match=f"adapter_model.safetensors is read, and {name} beside it"):
        read(tmp_path)


def test_a_trainers_states_beside_an_adapter_are_no_matter(tmp_path: Path) -> None:
    plain(tmp_path)
    for name in ("optimizer.pt", "scheduler.pt", "rng_state_0.pth", "training_args.bin", "adapter_model.bin"):
        (tmp_path / name).write_bytes(b"x")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(read(tmp_path).modules) == 4
    message = failure(tmp_path / "training_args.bin")
    assert "is what a trainer keeps beside an adapter" in message
    assert f"give the folder {tmp_path}" in message


def states(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    for name in ("optimizer.pt", "training_args.bin", "trainer_state.json"):
        (folder / name).write_bytes(b"x")
    return folder


def test_a_training_folder_without_an_adapter_says_so_and_nothing_of_code(tmp_path: Path) -> None:
    folder = states(tmp_path / "a")
    (folder / CONFIG).write_text("{}")
    message = failure(folder)
    assert "it has adapter_config.json, but no adapter_model.safetensors" in message
    assert "put the adapter_model.safetensors that belongs to it beside it" in message
    (folder / "global_step5").mkdir()
    message = failure(folder)
    assert "it holds DeepSpeed's states (global_step5)" in message
    assert "zero_to_fp32.py" in message
    assert "code" not in message


def test_the_adapter_of_an_fsdp_run_is_read(tmp_path: Path) -> None:
    folder = plain(tmp_path / "a")
    expected = read(folder)
    states(folder)
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    torch.save(
        {k.replace(".weight", ".default.weight"): t for k, t in tensors.items()}, folder / "pytorch_model_fsdp.bin"
    )
    with pytest.warns(AdaptzipWarning, match="keys are not as PEFT saves them"):
        found = read(folder)
    assert found.modules.keys() == expected.modules.keys()
    assert all(torch.equal(found.modules[n].delta(), m.delta()) for n, m in expected.modules.items())


@pytest.mark.parametrize("size", ["8KB", "1GB"])
def test_an_output_folder_points_to_its_latest_checkpoint(tmp_path: Path, size: str) -> None:
    llama().save_pretrained(tmp_path, max_shard_size=size)
    for step in (9, 20, 100):
        plain(tmp_path / f"checkpoint-{step}")
    (tmp_path / "checkpoint-100" / WEIGHTS).unlink()
    shutil.copy(tmp_path / "checkpoint-20" / CONFIG, tmp_path)
    message = failure(tmp_path)
    assert "it holds a whole model and the adapter_config.json of an adapter" in message
    assert message.endswith(str(tmp_path / "checkpoint-20"))


def test_named_adapters_in_a_folder_are_pointed_to(tmp_path: Path) -> None:
    plain(tmp_path / "style")
    assert failure(tmp_path).endswith(f"did you mean {tmp_path / 'style'}?")
    shutil.copytree(tmp_path / "style", tmp_path / "voice")
    assert failure(tmp_path).endswith(f"did you mean one of {tmp_path / 'style'}, {tmp_path / 'voice'}?")


def cached(root: Path) -> Path:
    """A repository in the Hub's cache: its one adapter's snapshot."""
    snapshot = plain(root / "snapshots" / "abc123")
    (root / "blobs").mkdir()
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("abc123")
    for number, file in enumerate(sorted(snapshot.iterdir())):
        blob = root / "blobs" / f"{number:064x}"
        file.rename(blob)
        file.symlink_to(f"../../blobs/{blob.name}")
    return snapshot


def test_the_hubs_cache_is_read_through_its_links_and_its_roots_point_there(tmp_path: Path) -> None:
    snapshot = cached(tmp_path / "hub" / "models--a--lora")
    assert len(read(snapshot).modules) == 4
    shutil.copytree(snapshot, snapshot.with_name("zzz"), symlinks=True)
    message = failure(snapshot.parents[1])
    assert "the root of a repository in the Hub's cache" in message
    assert message.endswith(f"did you mean {snapshot}?")
    assert str(snapshot) in failure(snapshot.parent)
    assert str(snapshot) in failure(tmp_path / "hub")


def test_a_link_to_nowhere_is_named_with_its_target(tmp_path: Path) -> None:
    snapshot = cached(tmp_path)
    for name in (WEIGHTS, CONFIG):
        (tmp_path / "snapshots" / "abc123" / name).resolve().unlink()
        message = failure(snapshot)
        assert f"{snapshot / name}: is a link to ../../blobs/" in message
        assert "which does not exist" in message
        (snapshot / name).resolve().write_bytes(b"x")
        if name == WEIGHTS:
            save_file({"a": torch.ones(1)}, (snapshot / name).resolve())
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "gone")
    assert f"{link}: is a link to {tmp_path / 'gone'}, which does not exist" in failure(link)
    assert "is neither a file nor a folder" in failure(Path("/dev/null"))


def test_a_configuration_that_is_no_text_is_named(tmp_path: Path) -> None:
    config = plain(tmp_path) / CONFIG
    text = config.read_text()
    for content, said in (
        (b"\xef\xbb\xbf" + text.encode(), "begins with a byte order mark"),
        (text.encode("utf-16"), "begins with a byte order mark"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a git-LFS pointer"),
        (text.replace('"inference', '"\\ud800": 1, "inference').encode(), "is not valid JSON"),
    ):
        config.write_bytes(content)
        assert f"{config}: {said}" in failure(tmp_path)
    assert f"{config}: is a JSON file, not weights" in failure_of_file(config)


def failure_of_file(path: Path) -> str:
    path.write_text("{}")
    return failure(path)
