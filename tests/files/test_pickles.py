"""PyTorch's files as they come: read where they hold tensors, else refused with what they hold; none of it is run."""

from __future__ import annotations

import io
import json
import pickle
import warnings
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from adaptzip.errors import BaseModelError, CheckpointError
from adaptzip.models.shards import open_shard
from adaptzip.restoring.reading import read

STEM = "base_model.model.model.layers.0.q_proj"
GOOD = {f"{STEM}.lora_A.weight": torch.arange(8.0).reshape(2, 4), f"{STEM}.lora_B.weight": torch.ones(4, 2)}
CONFIG = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}


def saved(value: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def folder(path: Path, content: bytes) -> Path:
    (path / "adapter_config.json").write_text(json.dumps(CONFIG))
    (path / "adapter_model.bin").write_bytes(content)
    return path


def failure(path: Path, content: bytes) -> str:
    with pytest.raises(CheckpointError) as caught:
        read(folder(path, content))
    assert "\n" not in f"{caught.value} {caught.value.hint}"
    assert caught.value.hint
    return str(caught.value)


def each(change: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    return {key: change(tensor) for key, tensor in GOOD.items()}


NEW, OLD = saved(GOOD), saved(GOOD, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize(
    "content",
    [
        NEW,
        OLD,
        saved({"state_dict": GOOD, "epoch": 3}),
        saved({"model": GOOD, "optimizer": {"state": {}}}),
        saved(each(torch.nn.Parameter)),
        saved(each(lambda t: t.t().contiguous().t())),
        saved({"module": {"module." + key: tensor for key, tensor in GOOD.items()}}),
    ],
    ids=["new", "old", "state_dict", "model", "parameters", "strided", "deepspeed"],
)
@pytest.mark.filterwarnings("ignore:.*keys are not as PEFT saves them:adaptzip.errors.AdaptzipWarning")
def test_tables_of_tensors_are_read(tmp_path: Path, content: bytes) -> None:
    module = read(folder(tmp_path, content)).modules["model.layers.0.q_proj"]
    assert torch.equal(module.A, GOOD[f"{STEM}.lora_A.weight"])
    assert torch.equal(module.B, GOOD[f"{STEM}.lora_B.weight"])
    assert module.A.is_contiguous()


@pytest.mark.parametrize("whole", [NEW, OLD], ids=["new", "old"])
def test_a_cut_file_is_truncated_wherever_it_was_cut(tmp_path: Path, whole: bytes) -> None:
    for size in {2, 3, 5, 20, 40, 100, 300, len(whole) // 2, len(whole) - 10, len(whole) - 1}:
        assert "is truncated" in failure(tmp_path, whole[:size]), size


@pytest.mark.parametrize(
    "content",
    [b"\x80\x02.", b"\x80\x04N.", b"\x80\x02h\x05.", b"\x80\x02)\x81.", pickle.dumps(5, 2), pickle.dumps([], 4)],
)
def test_a_pickle_without_tensors_is_said_to_hold_none(tmp_path: Path, content: bytes) -> None:
    assert "is a pickle that holds no tensors" in failure(tmp_path, content)


def other_zip(name: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, "x")
    return buffer.getvalue()


SPARSE = torch.sparse_coo_tensor(torch.tensor([[0], [1]]), torch.ones(1), (2, 4), check_invariants=True)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (saved([1, 2]), "expected a dictionary of tensors, found list"),
        (saved({}), "holds no tensors"),
        (saved({0: torch.ones(2)}), "has the key 0 of type int"),
        (saved({b"a": torch.ones(2)}), "has the key b'a' of type bytes"),
        (saved({"a": 1}), "expected a tensor under 'a', found int"),
        (saved(torch.nn.Linear(2, 2)), "holds a whole model object (torch.nn.modules.linear.Linear)"),
        (pickle.dumps({k: v.numpy() for k, v in GOOD.items()}, 4), "holds numpy arrays"),
        (saved({"state": {}, "param_groups": []}), "holds an optimizer's state"),
        (saved(each(lambda t: t.to("meta"))), "lora_A.weight has no numbers"),
        (saved(each(lambda t: t.to(torch.complex64))), "lora_A.weight is complex64"),
        (saved(GOOD | {f"{STEM}.lora_A.weight": SPARSE}), "lora_A.weight is sparse"),
        (saved(GOOD | {"base_model.model.e": torch.ones(1).expand(2**40)}), "bytes become 4,398,046,511,168 in memory"),
        (other_zip("my-lora/adapter_config.json"), "is a zip archive of other files (my-lora/adapter_config.json)"),
        (other_zip("../../archive/data.pkl"), "is a zip archive of other files"),
    ],
)  # fmt: skip
def test_what_is_no_table_of_tensors_is_named(tmp_path: Path, content: bytes, said: str) -> None:
    assert said in failure(tmp_path, content)


def test_quantised_tensors_are_named(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says once that such tensors will go.
        content = saved(each(lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8)))
    assert "lora_A.weight is quantised (qint8)" in failure(tmp_path, content)


class Calling:
    """Unpickling this would call a function."""

    def __init__(self, function: Callable[..., Any], argument: str) -> None:
        self.call = function, (argument,)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


@pytest.mark.parametrize("old", [True, False])
@pytest.mark.parametrize("beside", [GOOD, {"n": torch.nn.Linear(1, 1)}, {}])
def test_code_is_told_whatever_else_is_in_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], old: bool, beside: dict[str, Any]
) -> None:
    content = saved({**beside, "x": Calling(print, "executed")}, _use_new_zipfile_serialization=not old)
    said = failure(tmp_path, content).replace("__builtin__", "builtins")
    assert "(builtins.print), and loading it could run code" in said
    assert "loading it could run code" in failure(tmp_path, pickle.dumps(Calling(print, "executed"), 4))
    assert "executed" not in capsys.readouterr().out


def test_a_damaged_byte_is_refused_or_changes_a_number_at_most(tmp_path: Path) -> None:
    for content in (NEW, OLD):
        for position in range(0, len(content), 37):
            damaged = content[:position] + bytes([content[position] ^ 0x5A]) + content[position + 1 :]
            with suppress(CheckpointError):
                assert read(folder(tmp_path, damaged)).parameters == 16


@pytest.mark.parametrize("size", [640, 896, 1152, 0x1F | 0x8B << 8, 0x4B50])
def test_a_safetensors_header_of_any_length_is_no_other_kind_of_file(tmp_path: Path, size: int) -> None:
    """Its length comes first in the file: 640 is how a pickle begins, 0x8b1f gzip, 0x4b50 a zip archive."""
    (tmp_path / "adapter_config.json").write_text(json.dumps(CONFIG))
    path = tmp_path / "adapter_model.safetensors"
    save_file(GOOD, path)
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = content[8 : 8 + length].ljust(size)
    path.write_bytes(size.to_bytes(8, "little") + header + content[8 + length :])
    assert torch.equal(read(tmp_path).modules["model.layers.0.q_proj"].A, GOOD[f"{STEM}.lora_A.weight"])
    assert torch.equal(open_shard(path).read(f"{STEM}.lora_A.weight"), GOOD[f"{STEM}.lora_A.weight"])


def test_a_base_models_file_is_told_likewise(tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    for content, said in (
        (NEW[:300], "is truncated"),
        (OLD[:300], "is truncated"),
        (saved(torch.nn.Linear(2, 2)), "holds a whole model object"),
        (saved({"state_dict": GOOD}), "expected a tensor under 'state_dict'"),
        (b"/annex/objects/SHA256E-s1--00.bin\n", "is a git-annex pointer"),
    ):
        path.write_bytes(content)
        with pytest.raises(BaseModelError, match=said) as caught:
            open_shard(path)
        assert "adapter" not in f"{caught.value} {caught.value.hint}"
    path.write_bytes(OLD)
    assert torch.equal(open_shard(path).read(f"{STEM}.lora_B.weight"), GOOD[f"{STEM}.lora_B.weight"])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\x1f\x8b\x08\x00" + bytes(20), "is packed with gzip"),
        (b"\x28\xb5\x2f\xfd" + bytes(20), "is packed with zstd"),
        (b"../.git/annex/objects/ab/cd/SHA256E-s1--00\n", "is a git-annex pointer"),
        (b"\xef\xbb\xbfversion https://git-lfs.github.com/spec/v1\n", "is a git-LFS pointer"),
    ],
)
def test_what_stands_for_a_file_is_named(tmp_path: Path, content: bytes, said: str) -> None:
    assert said in failure(tmp_path, content)
