"""A tiny adapter and its base model, and ways to run the program on them."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from adaptzip.cli.app import main

ROOT = Path(__file__).parent.parent.parent
LAYERS = 3
WIDTH, OUT, RANK = 48, 64, 4
LEAVES = ("q_proj", "v_proj")
MODULES = tuple(f"model.layers.{i}.self_attn.{leaf}" for i in range(LAYERS) for leaf in LEAVES)
CONFIG: dict[str, Any] = {
    "base_model_name_or_path": "somebody/some-base",
    "bias": "none",
    "fan_in_fan_out": False,
    "init_lora_weights": True,
    "lora_alpha": 16,
    "modules_to_save": ["score"],
    "peft_type": "LORA",
    "r": RANK,
    "target_modules": list(LEAVES),
    "task_type": "SEQ_CLS",
}


@dataclass(frozen=True)
class Result:
    """What a run of the program left."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """What --json printed."""
        values: dict[str, Any] = json.loads(self.out)
        return values

    @property
    def last(self) -> str:
        """The last line of stderr."""
        return self.err.splitlines()[-1]


def run(*words: object) -> Result:
    """Run the program within this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(word) for word in words])
    return Result(code, out.getvalue(), err.getvalue())


def run_apart(*words: str | Path, before: str = "", **more: Any) -> Result:
    """Run the program in a process of its own, after the statements `before`."""
    done = subprocess.run(command(*words, before=before), capture_output=True, text=True, check=False, cwd=ROOT, **more)
    return Result(done.returncode, done.stdout, done.stderr)


def command(*words: str | Path, before: str = "") -> list[str]:
    # A shell's background jobs ignore Ctrl-C, and so would what they start.
    hears = "import signal, sys\nsignal.signal(signal.SIGINT, signal.default_int_handler)"
    code = f"{hears}\n{before}\nfrom adaptzip.cli.app import main\nsys.exit(main())"
    return [sys.executable, "-c", code, *map(str, words)]


def make_tensors(seed: int = 0) -> dict[str, Tensor]:
    """Factors whose components fall off, as trained ones do, and a classification head."""
    generator = torch.Generator().manual_seed(seed)
    falling = 0.5 ** torch.arange(float(RANK))
    tensors = {}
    for module in MODULES:
        a = torch.randn(RANK, WIDTH, generator=generator) / WIDTH**0.5
        b = torch.randn(OUT, RANK, generator=generator) * falling / OUT**0.5
        tensors[f"base_model.model.{module}.lora_A.weight"] = a
        tensors[f"base_model.model.{module}.lora_B.weight"] = b
    tensors["base_model.model.score.weight"] = torch.randn(3, WIDTH, generator=generator)
    return tensors


def make_adapter(
    folder: Path, tensors: Mapping[str, Tensor] | None = None, config: Mapping[str, Any] | None = CONFIG
) -> Path:
    """Write a PEFT folder; without a configuration if `config` is None."""
    folder.mkdir()
    save_file(dict(make_tensors() if tensors is None else tensors), folder / "adapter_model.safetensors")
    if config is not None:
        (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def make_base(folder: Path, out: int = OUT) -> Path:
    """Write a base model that the adapter fits."""
    folder.mkdir()
    generator = torch.Generator().manual_seed(1)
    weights = {f"{module}.weight": torch.randn(out, WIDTH, generator=generator) for module in MODULES}
    weights["score.weight"] = torch.randn(3, WIDTH, generator=generator)
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "num_labels": 3}))
    return folder


def load_weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def listing(folder: Path) -> list[str]:
    """Everything in a folder, hidden files too, so that nothing left behind goes unseen."""
    return sorted(str(Path(root, name).relative_to(folder)) for root, _, files in os.walk(folder) for name in files)


def refused(result: Result, code: int, *said: str) -> None:
    """Check that a run ended with one error line, one hint line at most, and nothing on stdout."""
    lines = result.err.splitlines()
    assert result.code == code, result.err
    assert result.out == ""
    assert [line for line in lines if line.startswith("error: ")] == lines[:1], result.err
    assert len(lines) == 1 or (len(lines) == 2 and lines[1].startswith("hint: ")), result.err
    for piece in said:
        assert piece in result.err
