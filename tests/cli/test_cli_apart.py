"""No command writes over what it reads, into it, or through a link to it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import adaptzip
from adaptzip.errors import UsageError
from tests.cli.cli_cases import make_adapter, refused, run

FILE_COMMANDS = {
    "compress": "compress {ad} --plan {plan} --base {base} --calibration {texts} -o {out}",
    "compress dry": "compress {ad} --base {base} --basis {basis} -n -o {out}",
    "compress lossless": "compress {ad} --lossless --base {base} -o {out}",
    "distill": "distill --teacher {ad} --base {base} --data {texts} --basis {basis} --budget 5kB -o {out}",
    "distill further": "distill {adz} --teacher {ad} --base {base} --data {texts} -o {out}",
    "basis build": "basis build {ad} --holdout {other} -o {out}",
    "bank build": "bank build {ad} --holdout {other} --base {base} -o {out}",
    "basis gradient": "basis build --gradient --base {base} --calibration {texts} --modules-of {ad} -k 2 -o {out}",
    "plan": "plan {ad} --base {base} --basis {basis} --calibration {texts} -o {out}",
    "bench": "bench {ad} --base {base} --basis {basis} --calibration {texts} --plot {out}",
    "eval": "eval {adz} --teacher {ad} --base {base} --data {texts} --basis {basis} --plot {out}",
}
FOLDER_COMMANDS = {
    "export": "export {ad} --base {base} --basis {basis} -o {out}",
    "merge": "merge {ad} --base {base} --basis {basis} -o {out}",
}


@pytest.fixture
def places(adapter: Path, archive: Path, base: Path) -> dict[str, Path]:
    """Everything a command may read, none of which has to make sense: refusing comes before reading."""
    folder = adapter.parent
    found = {"ad": adapter, "adz": archive, "base": base, "other": make_adapter(folder / "other")}
    for name, text in (("plan", '{"method": "svd"}'), ("texts", '{"text": "one"}\n'), ("basis", "a basis")):
        found[name] = folder / {"plan": "plan.json", "texts": "texts.jsonl", "basis": "team.basis"}[name]
        found[name].write_text(text)
    return found


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def all_refused(command: str, places: dict[str, Path], outputs: list[Path]) -> None:
    folder = places["ad"].parent
    before = contents(folder)
    for output in outputs:
        for flag in ([], ["-f"]) if "-n" not in command else ([],):
            words = [word.format(**places, out=output) for word in command.split()]
            refused(run(*words, *flag), 2, f"{output}: the output would ")
    assert contents(folder) == before


def outputs_at(path: Path, suffix: str) -> list[Path]:
    """A file or folder itself, within it, through a link, and by its other name."""
    links = path.parent / "links"
    links.mkdir(exist_ok=True)
    link, within = links / f"{path.name}{suffix}", path / f"new{suffix}"
    if not link.is_symlink():
        link.symlink_to(within if path.is_dir() else path)
    if path.is_dir():
        return [within, link, path / "sub" / ".." / f"new{suffix}"]
    hard = links / f"hard-{path.stem}{suffix}"
    if not hard.exists():
        os.link(path, hard)
    return [link, hard, path.parent / "links" / ".." / "links" / hard.name]


@pytest.mark.parametrize("name", FILE_COMMANDS)
def test_a_file_is_never_written_over_or_into_an_input(name: str, places: dict[str, Path]) -> None:
    command = FILE_COMMANDS[name]
    suffix = ".png" if "--plot" in command else ".out"
    for key, path in places.items():
        if f"{{{key}}}" in command:
            files = [path, *path.iterdir()] if path.is_dir() else [path]
            outputs = [output for file in files for output in outputs_at(file, suffix)]
            all_refused(command, places, outputs if suffix == ".png" else [*outputs, *files])


@pytest.mark.parametrize("name", FOLDER_COMMANDS)
def test_a_folder_is_never_written_over_or_into_an_input(name: str, places: dict[str, Path]) -> None:
    command = FOLDER_COMMANDS[name]
    for key in ("ad", "base"):
        path = places[key]
        all_refused(command, places, [path, *outputs_at(path, ""), path / "adapter_config.json"])
    all_refused(command, places, [path.parent, places["basis"]])
    holder = path.parent / "holder"
    holder.mkdir()
    places["basis"] = places["basis"].rename(holder / "adapter_config.json")
    all_refused(command, places, [holder])
    all_refused(command.replace("{ad}", "{adz}"), places, [places["adz"], path.parent])


def test_default_outputs_are_apart_as_well(adapter: Path) -> None:
    folder = adapter.parent
    weights = adapter / "adapter_model.safetensors"
    (adapter / "adapter_model.adz").symlink_to(weights)
    refused(run("compress", weights, "--lossless", "-f"), 2, "would replace its source")
    os.link(weights, folder / "my-adapter.adz")
    refused(run("compress", adapter, "--lossless", "-f"), 2, "would replace adapter_model.safetensors, a part of")
    refused(run("compress", adapter, "--lossless", "--base", folder, "-f"), 2, "would ")


def test_what_distill_keeps_beside_its_output_is_an_output(places: dict[str, Path]) -> None:
    out = places["ad"].parent / "out.adz"
    command = "distill --teacher {ad} --base {base} --data {texts} --budget 5kB -o {out}"
    words = [word.format(**places, out=out) for word in command.split()]
    for beside in ("out.best.adz", "out.adz.progress"):
        link = out.with_name(beside)
        link.symlink_to(places["texts"])
        refused(run(*words, "-f", "--resume"), 2, f"{link}: the output would replace the data")
        link.unlink()


def test_library_functions_refuse_as_the_commands_do(places: dict[str, Path]) -> None:
    ad, base, adz = places["ad"], places["base"], places["adz"]
    before = contents(ad.parent)
    weights = ad / "adapter_model.safetensors"
    with pytest.raises(UsageError, match="would replace adapter_model"):
        adaptzip.compress(ad, weights, lossless=True, force=True)
    with pytest.raises(UsageError, match="would lie in the base model"):
        adaptzip.compress(ad, base / "x.adz", lossless=True, base=base)
    with pytest.raises(UsageError, match="would replace its source"):
        adaptzip.export(adz, ad.parent, force=True)
    with pytest.raises(UsageError, match="would replace the base model"):
        adaptzip.merge(adz, base, base, force=True)
    with pytest.raises(UsageError, match="would replace its source"):
        adaptzip.merge(ad, base, ad, force=True)
    with pytest.raises(UsageError, match="would replace the data"):
        adaptzip.distill(None, places["texts"], teacher=ad, base=base, data=places["texts"], force=True)
    assert contents(ad.parent) == before
