"""Hostile sources: small files that become large, and texts without end, judged in child processes under limits."""

from __future__ import annotations

import json
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.hostile.children import Ended, ran

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are Linux's")

CONFIG: Mapping[str, Any] = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": ["m"]}
FACTORS = {"base_model.model.m.lora_A.weight": torch.ones(1, 8), "base_model.model.m.lora_B.weight": torch.ones(8, 1)}
START = '{"peft_type":"LORA","r":1,"lora_alpha":1,"target_modules":["m"],"x":['
KEY = "base_model.model.score.weight"


def plain(folder: Path, config: str, header: bytes | None = None) -> None:
    (folder / "adapter_config.json").write_text(config)
    if header is None:
        save_file(FACTORS, folder / "adapter_model.safetensors")
    else:
        (folder / "adapter_model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)


def pickled(folder: Path, tensors: Mapping[str, Tensor], *, deflated: bool = False) -> None:
    (folder / "adapter_config.json").write_text(json.dumps(CONFIG))
    path = folder / "adapter_model.bin"
    torch.save({**FACTORS, **tensors}, path)
    if deflated:
        with zipfile.ZipFile(path) as archive:
            held = [(entry.filename, archive.read(entry)) for entry in archive.infolist()]
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in held:
                archive.writestr(name, content)


def make(folder: Path) -> dict[str, Path]:
    """A folder for each kind."""
    stored = torch.zeros(2_000_000)
    texts = {
        "lists": START + "[]," * 5_000_000 + "0]}",
        "tables": START + "{}," * 2_000_000 + "0]}",
        "long text": json.dumps({**CONFIG, "x": "a" * 20_000_000}),
        "many targets": json.dumps({**CONFIG, "target_modules": [f"a{n}" for n in range(1_000_000)]}),
        "deep": START + "[" * 200_000,
        "digits": START + "1" * 5000 + "]}",
    }
    headers = {
        "header of lists": '{"x":[' + "[]," * 5_000_000 + "0]}",
        "header of a long key": '{"' + "a." * 500_000 + '":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}',
        "header of dimensions": '{"x":{"dtype":"F32","shape":[' + "1," * 200_000 + '1],"data_offsets":[0,4]}}',
    }
    tables = {
        "deflated": {KEY: torch.zeros(30_000_000)},
        "repeated": {KEY: torch.zeros(1).expand(900_000_000)},
        "repeated row by row": {f"{KEY}.{n}": torch.zeros(1, 1000).expand(1000, 1000) for n in range(50)},
        "shared": {f"{KEY}.{n}": stored[:-1] for n in range(100)},
    }
    found = {kind: folder / kind.replace(" ", "-") for kind in (*texts, *headers, *tables)}
    for path in found.values():
        path.mkdir()
    for kind, text in texts.items():
        plain(found[kind], text)
    for kind, text in headers.items():
        plain(found[kind], json.dumps(CONFIG), text.encode())
    for kind, tensors in tables.items():
        pickled(found[kind], tensors, deflated=kind == "deflated")
    return found


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, Ended]]:
    """By kind and command, the size of the source, and what became of the process."""
    folder = tmp_path_factory.mktemp("sources")
    made = make(folder)
    sizes = {kind: sum(file.stat().st_size for file in path.iterdir()) for kind, path in made.items()}
    commands = (["inspect"], ["compress", "-o", folder / "out.adz"], ["export", "-o", folder / "out"])
    lines = {f"{command[0]} {kind}": (kind, [*command, made[kind]]) for kind in made for command in commands}
    children = ran([line for _, line in lines.values()])
    return {name: (sizes[kind], child) for (name, (kind, _)), child in zip(lines.items(), children, strict=True)}


def test_each_is_refused_in_few_words(ended: Mapping[str, tuple[int, Ended]]) -> None:
    for kind, (_, child) in ended.items():
        assert child.code in (2, 3), (kind, child)
        assert child.err.startswith("error: "), kind
        assert len(child.err) < 1000, kind


def test_none_takes_much_memory(ended: Mapping[str, tuple[int, Ended]]) -> None:
    assert {kind: child.peak for kind, (size, child) in ended.items() if child.peak > 10**8 + 10 * size} == {}


def test_a_file_whose_tensors_share_what_is_stored_is_read(tmp_path: Path) -> None:
    tied = torch.ones(500_000)
    pickled(tmp_path, {f"{KEY}.{n}": tied for n in range(4)})
    child = ran([["inspect", tmp_path]])[0]
    assert child.code == 0, child
