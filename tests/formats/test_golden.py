"""Golden files decode to the tensors they always did; must-reject files are refused for their reason."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

from adaptzip import Limits, errors
from adaptzip.restoring.functions import read_either
from formats import decoder
from formats.make_golden import CASES, expectation, free, read_back
from formats.make_must_reject import cases
from tests.formats.decoded import GOLDEN, MUST_REJECT, agree, decoded, given, plain

EXPECTED: dict[str, Any] = json.loads((GOLDEN / "expected.json").read_text())
REJECTED: dict[str, Any] = json.loads((MUST_REJECT / "expected.json").read_text())


def test_every_golden_file_is_listed_and_has_its_recipe() -> None:
    files = {path.name for path in GOLDEN.glob("*.adz")}
    assert files == EXPECTED.keys() == {f"{name}.adz" for name in CASES}


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_a_golden_file_decodes_as_ever(name: str) -> None:
    found, expected = expectation(GOLDEN / name), EXPECTED[name]
    for module, factors in expected["modules"].items():
        for key, factor in factors.items():
            if key != "scaling" and isinstance(factor[2], float):
                again = found["modules"][module].pop(key)
                assert again[:2] == factor[:2]
                assert again[2:][0] == pytest.approx(factor[2], rel=1e-6)
                assert again[3] == pytest.approx(factor[3], rel=2**-22, abs=2**-40 * max(factor[2], 1e-300))
                found["modules"][module][key] = factor
    assert found == expected


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_the_independent_decoder_agrees(name: str) -> None:
    path = GOLDEN / name
    assert agree(plain(read_back(path)), decoded(path.read_bytes(), given(path)), near=bool(free(path)))


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_the_independent_decoder_finds_the_stored_numbers(name: str) -> None:
    path = GOLDEN / name
    if "stored" not in EXPECTED[name]:
        pytest.skip("a lossless file has none")
    found = decoder.decode(path.read_bytes(), given(path))
    expected = EXPECTED[name]["stored"]
    levels = found.metadata["config"].get("levels", 64)
    for module, tensors in expected["modules"].items():
        own = found.modules[module].stored
        assert len(own) == len(tensors)
        assert {sha for _, _, sha in tensors.values()} <= set(hashes(own, found.metadata["step"], levels))
    shared = set(hashes(found.shared, found.metadata["step"], levels))
    assert {sha for _, _, sha in expected["shared"].values()} <= shared


def hashes(tensors: Iterable[Any], step: float, levels: int) -> Iterator[str]:
    """Hashes of what whole numbers may stand for: themselves, multiples of the step, or weights."""
    for tensor in tensors:
        single = tensor.astype(np.float32)
        for meant in (tensor, single, single * np.float32(step), single / np.float32(levels)):
            yield hashlib.sha256(meant.tobytes()).hexdigest()


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_a_golden_file_is_a_legal_safetensors_file(name: str) -> None:
    with safe_open(GOLDEN / name, "numpy") as file:
        assert list(file.keys()) == ["adz"]
        tensor = file.get_tensor("adz")
        assert (tensor.dtype, tensor.ndim, tensor[0]) == (np.uint8, 1, 1)


def test_golden_files_use_every_part_of_the_format(monkeypatch: pytest.MonkeyPatch) -> None:
    codings, raw, escapes = set(), set(), set()
    plane, level = decoder.unpack_plane, decoder.decode_level

    def spy_plane(coding: int, *rest: Any) -> Any:
        codings.add(coding)
        return plane(coding, *rest)

    def spy_level(coder: Any, bits: int, symbols: Any) -> Any:
        found = level(coder, bits, symbols)
        raw.add(bits)
        escapes.add(abs(found) >> bits > decoder.LEVELS + 1)
        return found

    monkeypatch.setattr(decoder, "unpack_plane", spy_plane)
    monkeypatch.setattr(decoder, "decode_level", spy_level)
    for path in GOLDEN.glob("*.adz"):
        decoder.decode(path.read_bytes(), given(path))
    assert codings == {0, 1, 2}
    assert escapes == {True, False}
    assert len(raw) > 2


def test_every_must_reject_file_is_listed() -> None:
    assert {path.name for path in MUST_REJECT.glob("*.adz")} == REJECTED.keys()


def test_must_reject_files_are_those_of_the_script() -> None:
    made = {f"{name}.adz": {"error": error, "because": reason} for name, error, reason, _ in cases()}
    assert made == REJECTED


@pytest.mark.parametrize("name", sorted(REJECTED))
def test_a_must_reject_file_is_refused_at_once(name: str) -> None:
    path, start = MUST_REJECT / name, time.process_time()
    with Limits.none().held(), pytest.raises(errors.AdaptzipError) as caught:
        read_either(path)
    assert type(caught.value).__name__ == REJECTED[name]["error"]
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert time.process_time() - start < 3
    with pytest.raises((type(caught.value), errors.RefusedError)):
        read_either(path)


@pytest.mark.parametrize("name", sorted(REJECTED))
def test_the_independent_decoder_refuses_it_too(name: str) -> None:
    with pytest.raises(decoder.Broken):
        decoder.decode((MUST_REJECT / name).read_bytes())


def test_refusing_takes_little_memory() -> None:
    code = (
        "import resource, pathlib, sys, adaptzip\n"
        "from adaptzip.restoring.functions import read_either\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024\n"
        "adaptzip.reconstruct(sys.argv[1])\n"
        "before = peak()\n"
        "for path in pathlib.Path(sys.argv[2]).glob('*.adz'):\n"
        "    try: read_either(path)\n"
        "    except adaptzip.AdaptzipError: pass\n"
        "print(peak() - before)\n"
    )
    command = [sys.executable, "-c", code, str(GOLDEN / "default.adz"), str(MUST_REJECT)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=GOLDEN.parents[1])
    assert int(done.stdout) < 256


def test_the_text_names_the_files_that_are_part_of_the_format() -> None:
    text = (GOLDEN.parent / "adz-1.md").read_text()
    for path in (decoder.TABLES_FILE, decoder.DICTIONARY_FILE, decoder.DEFAULTS_FILE):
        data = path.read_bytes()
        assert hashlib.sha256(data).hexdigest() in text
        assert re.search(rf"\b{len(data)} bytes", text)
        assert f"`../{path.relative_to(GOLDEN.parents[1]).as_posix()}`" in text
