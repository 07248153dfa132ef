"""A merge that was stopped goes on at the weight file where it was; any other merge begins anew."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import adaptzip
from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.core.progress import Progress
from adaptzip.errors import CheckFailedError
from adaptzip.files.journal import DONE
from adaptzip.restoring.merging import merge, weights
from tests.cases.base_folders import MODULE, write_weights
from tests.cases.image_bases import CLIP, UNET_FOLDER, lora, modules, pipeline
from tests.cases.merge_cases import Built, Case, assert_same_tensors, build, llama, tensors_of
from tests.cases.quantised_weights import CASES, write_quantised

FIRST = "model-00001-of-"
PATIENCE = 60


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """A model in several files, and an adapter of all its layers."""
    case = Case(llama, {"target_modules": "all-linear"})
    found = build(case, tmp_path_factory.mktemp("sharded"), shard_size="8KB")
    assert len(list(found.base.glob("*.safetensors"))) > 2
    return found


def drafts(output: Path) -> list[Path]:
    return sorted(output.parent.glob(f".{output.name}.*.adaptzip"))


def wait_for_the_first(output: Path) -> None:
    """Until a file is noted as finished."""
    end = time.monotonic() + PATIENCE
    while not any((draft / DONE).exists() and "sample" in (draft / DONE).read_text() for draft in drafts(output)):
        assert time.monotonic() < end
        time.sleep(0.005)


def stop(output: Path, error: BaseException) -> Progress:
    """Raise an error at one of the last two tensors."""

    def progress(phase: str, done: float, total: float) -> None:
        if done >= total - 1:
            wait_for_the_first(output)
            raise error

    return progress


def stopped(built: Built, output: Path) -> tuple[int, int]:
    """A merge that is interrupted; what tells the first weight file of its draft."""
    return the_first(interrupted(built.adapter, built.base, output))


def interrupted(adapter: Path | Adapter, base: Path, output: Path, **how: Any) -> Path:
    """What a merge that is interrupted leaves of the output."""
    error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt) as found:
        merge(adapter, base, output, progress=stop(output, error), **how)
    (draft,) = drafts(output)
    assert found.value.__notes__ == [f"what was finished is kept in {draft}; the same command goes on with it"]
    assert not output.exists()
    return draft / "new"


def the_first(folder: Path) -> tuple[int, int]:
    """What tells the first weight file from one that was written again."""
    about = next(folder.glob(f"{FIRST}*")).stat()
    return about.st_ino, about.st_mtime_ns


def test_an_interrupted_merge_goes_on(built: Built, tmp_path: Path) -> None:
    output = tmp_path / "out"
    kept = stopped(built, output)
    told: list[tuple[float, float]] = []
    report = merge(built.adapter, built.base, output, progress=lambda _, *at: told.append(at))
    assert report.resumed > 0
    assert the_first(output) == kept
    assert told[0][0] > 1
    assert told[-1] == (told[0][1],) * 2
    assert_same_tensors(tensors_of(output), built.expected)
    assert sorted(tmp_path.iterdir()) == [output]
    assert not (output / DONE).exists()


def test_a_run_may_be_stopped_twice(built: Built, tmp_path: Path) -> None:
    output = tmp_path / "out"
    kept = stopped(built, output)
    assert stopped(built, output) == kept
    merge(built.adapter, built.base, output)
    assert the_first(output) == kept
    assert_same_tensors(tensors_of(output), built.expected)


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX's")
def test_a_killed_merge_goes_on(built: Built, tmp_path: Path) -> None:
    output = tmp_path / "out"
    code = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom adaptzip.restoring.merging import merge\n"
        "from tests.restoring.merging.test_resuming import wait_for_the_first\n"
        "adapter, base, output = map(Path, sys.argv[1:])\n"
        "def progress(phase, done, total):\n"
        "    if done == total - 1:\n"
        "        wait_for_the_first(output)\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "merge(adapter, base, output, progress=progress)"
    )
    words = [sys.executable, "-c", code, *map(str, (built.adapter, built.base, output))]
    assert subprocess.run(words, check=False).returncode == -signal.SIGKILL
    (draft,) = drafts(output)
    kept = the_first(draft / "new")
    merge(built.adapter, built.base, output)
    assert the_first(output) == kept
    assert_same_tensors(tensors_of(output), built.expected)
    assert sorted(tmp_path.iterdir()) == [output]


def test_another_merge_begins_anew(built: Built, tmp_path: Path) -> None:
    kept = stopped(built, tmp_path / "out")
    merge(built.adapter, built.base, tmp_path / "out", scale=0.5)
    merge(built.adapter, built.base, tmp_path / "other", scale=0.5)
    assert the_first(tmp_path / "out") != kept
    assert_same_tensors(tensors_of(tmp_path / "out"), tensors_of(tmp_path / "other"))
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("what", ["factor", "base", "config", "safe"])
def test_what_decides_the_result_decides_whether_it_goes_on(what: str, tmp_path: Path) -> None:
    built = build(Case(llama, {"target_modules": ["q_proj"]}), tmp_path / "made", shard_size="8KB")
    output = tmp_path / "out"
    kept = stopped(built, output)
    adapter = adaptzip.read(built.adapter)
    if what == "factor":
        next(iter(adapter.modules.values())).A[0, 0] += 1
    if what == "base":
        os.utime(next(built.base.glob(f"{FIRST}*")), ns=(1, 1))
    if what == "config":
        config = built.base / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"note": 1}))
    merge(adapter, built.base, output, safe_merge=what == "safe")
    assert the_first(output) != kept


def test_a_file_that_was_changed_since_is_written_again(built: Built, tmp_path: Path) -> None:
    output = tmp_path / "out"
    stopped(built, output)
    (first,) = drafts(output)[0].glob(f"new/{FIRST}*")
    first.write_bytes(first.read_bytes()[:-1] + b"x")
    merge(built.adapter, built.base, output)
    assert_same_tensors(tensors_of(output), built.expected)


def two_files(folder: Path, second: str) -> None:
    """A quantised base of two files: one with a module, one with another module of the same numbers and the rest."""
    write_quantised(folder, CASES["blocks"])
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    own = {name: tensor for name, tensor in tensors.items() if name.startswith(f"{MODULE}.")}
    rest = {name: tensor for name, tensor in tensors.items() if not name.startswith((f"{MODULE}.", f"{second}."))}
    files = {"a.safetensors": own, "b.safetensors": rest | {n.replace(MODULE, second): t for n, t in own.items()}}
    for name, held in files.items():
        write_weights(folder / name, held)
    names = {name: file for file, held in files.items() for name in held}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))


@pytest.mark.parametrize("options", [{"dequantise": True}, {"requantise": True}])
def test_what_rounding_left_in_finished_files_counts(options: dict[str, Any], tmp_path: Path) -> None:
    second = MODULE.replace("q_proj", "k_proj")
    two_files(tmp_path / "base", second)
    lora = Adapter({name: LoraFactors(torch.ones(1, 16), torch.ones(16, 1), 1e-3) for name in (MODULE, second)})
    plain = merge(lora, tmp_path / "base", tmp_path / "plain", **options)
    interrupted(lora, tmp_path / "base", tmp_path / "out", **options)
    told: list[float] = []
    again = merge(lora, tmp_path / "base", tmp_path / "out", progress=lambda _, done, __: told.append(done), **options)
    assert told[0] > 1
    assert again.rounding is not None
    assert again.rounding == plain.rounding
    assert_same_tensors(tensors_of(tmp_path / "out"), tensors_of(tmp_path / "plain"))


def test_a_pipeline_goes_on_at_its_component(tmp_path: Path) -> None:
    pipeline(tmp_path / "base", {"unet": UNET_FOLDER, "text_encoder": CLIP})
    adapter = lora({**modules("unet", UNET_FOLDER), **modules("text_encoder", CLIP)})
    plain = merge(adapter, tmp_path / "base", tmp_path / "plain")
    draft = interrupted(adapter, tmp_path / "base", tmp_path / "out")
    kept = {file.relative_to(draft): file.stat().st_mtime_ns for file in draft.glob("*/*.safetensors")}
    again = merge(adapter, tmp_path / "base", tmp_path / "out")
    assert again.files == plain.files
    same = [file for file, time in kept.items() if (tmp_path / "out" / file).stat().st_mtime_ns == time]
    assert len(same) == 1
    for file in kept:
        assert (tmp_path / "out" / file).read_bytes() == (tmp_path / "plain" / file).read_bytes()


def test_nothing_is_kept_before_a_file_is_finished(built: Built, tmp_path: Path) -> None:
    def progress(phase: str, done: float, total: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as found:
        merge(built.adapter, built.base, tmp_path / "out", progress=progress)
    assert not hasattr(found.value, "__notes__")
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_kept_after_an_error(built: Built, tmp_path: Path) -> None:
    output = tmp_path / "out"
    with pytest.raises(CheckFailedError):
        merge(built.adapter, built.base, output, progress=stop(output, CheckFailedError("no")))
    assert list(tmp_path.iterdir()) == []


def test_a_base_that_is_broken_is_told_by_the_run_that_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the first run saw in the files that it finished counts for the second."""
    built = build(Case(llama, {"target_modules": ["q_proj"]}), tmp_path / "made", shard_size="8KB")
    monkeypatch.setattr(weights, "is_finite", lambda weight: weight.shape[0] != 40)
    plain = merge(built.adapter, built.base, tmp_path / "plain").warnings
    stopped(built, tmp_path / "out")
    assert any("NaN or infinity in" in line for line in plain)
    assert merge(built.adapter, built.base, tmp_path / "out").warnings == plain


def test_a_run_on_a_gpu_is_another_run(built: Built, tmp_path: Path) -> None:
    from adaptzip.models.folder import BaseModel
    from adaptzip.restoring.merging.plan import plan_merge
    from adaptzip.restoring.merging.resuming import merge_key

    plan = plan_merge(adaptzip.read(built.adapter), BaseModel.open(built.base))
    keys = {merge_key(plan, {"device": device}) for device in ("cpu", "cuda", "cpu")}
    assert len(keys) == 2
