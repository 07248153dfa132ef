"""The main job, done by an installed wheel in a folder far from the repository."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_PREFIX = "base_model.model."
_IMPORTED = """
import importlib.resources, adaptzip
assert importlib.resources.files(adaptzip).joinpath("py.typed").is_file(), "py.typed is missing"
print(adaptzip.__version__, adaptzip.__file__)
"""


@dataclass(frozen=True)
class Installed:
    """An environment that a wheel was installed into.

    Attributes:
        environment: its folder.
        folder: where programs run; nothing of the repository can be imported from there.
    """

    environment: Path
    folder: Path

    def run(self, program: str, *words: str) -> str:
        """What a program of the environment prints.

        Raises:
            subprocess.CalledProcessError: if it fails.
        """
        command = [str(self.programs / program), *words]
        told = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}
        # What another environment made and kept would be taken for this one's work.
        told["ADAPTZIP_CACHE"] = "off"
        done = subprocess.run(command, cwd=self.folder, env=told, stdout=subprocess.PIPE, text=True, check=True)
        return done.stdout

    @property
    def programs(self) -> Path:
        """Where the environment keeps its programs."""
        return self.environment / ("Scripts" if os.name == "nt" else "bin")


def smoke(installed: Installed, fixture: Path, version: str) -> None:
    """Compress an adapter, look at it, bring it back and merge it, by the installed program.

    Raises:
        subprocess.CalledProcessError: if a command fails.
        AssertionError: if one does not do what it should.
    """
    adapter, base = installed.folder / "my-adapter", installed.folder / "base-model"
    shutil.copytree(fixture, adapter)
    make_base(adapter, base)
    found, place = installed.run("python", "-I", "-c", _IMPORTED).split(maxsplit=1)
    assert found == version, f"imported version {found}, expected {version}"
    assert Path(place).is_relative_to(installed.environment), f"imported {place}, not what was installed"
    assert "compress" in installed.run("adaptzip", "--help"), "the help names no compress"
    installed.run("adaptzip", "compress", "my-adapter", "--budget", "20x", "--no-reference", "-q", "-o", "a.adz")
    told = json.loads(installed.run("adaptzip", "inspect", "a.adz", "--json"))
    assert told["bytes"] == (installed.folder / "a.adz").stat().st_size, "inspect tells another size"
    assert told["bytes"] * 20 <= told["source_bytes"], "the budget is not met"
    installed.run("adaptzip", "verify", "a.adz", "--against", "my-adapter")
    installed.run("adaptzip", "export", "a.adz", "--as", "peft", "-q", "-o", "restored")
    assert _header(installed.folder / "restored").keys() == _header(adapter).keys(), "export gives other tensors"
    installed.run("adaptzip", "merge", "a.adz", "--base", "base-model", "-q", "-o", "merged")
    installed.run("adaptzip", "check", "merged", "--base", "base-model", "--adapter", "a.adz")


def make_base(adapter: Path, base: Path) -> None:
    """Write a base model of zeros that the adapter fits, by hand: it needs no package, so it hides none that lacks."""
    weights = _header(adapter)
    header: dict[str, Any] = {}
    end = 0
    for key, tensor in weights.items():
        if key.endswith(".lora_A.weight"):
            shape = [weights[key.replace("lora_A", "lora_B")]["shape"][0], tensor["shape"][1]]
            start, end = end, end + 2 * shape[0] * shape[1]
            name = key.removeprefix(_PREFIX).replace(".lora_A", "")
            header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    base.mkdir()
    (base / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(end))
    (base / "config.json").write_text(json.dumps({"model_type": "bert"}), encoding="utf-8")


def _header(folder: Path) -> dict[str, Any]:
    with (folder / "adapter_model.safetensors").open("rb") as file:
        header: dict[str, Any] = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return {key: value for key, value in header.items() if key != "__metadata__"}
