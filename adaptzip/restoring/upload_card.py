"""The README of an adapter that is published twice: as a `.adz` file, and as PEFT's folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from adaptzip.core.compressed import Compressed
from adaptzip.core.training_report import IN_PER_CENT, ROWS_IN_WORDS, TrainingReport
from adaptzip.core.words import number, ratio, size
from adaptzip.restoring.model_card import snippet, with_base, with_section

MARK = "<!-- adaptzip: files -->"
"""What stands before and after the section, so that another upload replaces it."""


def upload_card(
    card: str | None,
    made: Compressed,
    *,
    archive: str,
    files: Mapping[str, int],
    config: Mapping[str, Any],
    place: str,
    base: str | None,
) -> str:
    """A README with what is there, how near it is to its source, and how to load either form.

    Args:
        card: the source's README, or None where it has none.
        made: the `.adz` file, opened.
        archive: its name.
        files: sizes of the files by name.
        config: the adapter_config.json beside it.
        place: the repository, or where else the folder lies.
        base: the repository of the base model; None leaves it out.
    """
    name = place.rpartition("/")[2]
    text = f"# {name}\n" if card is None else card
    text = with_base(text, base, "adapter", library_name="peft", tags="[lora, adaptzip]")
    return with_section(text, MARK, "\n".join(_section(made, archive, files, config, place)))


def _section(
    made: Compressed, archive: str, files: Mapping[str, int], config: Mapping[str, Any], place: str
) -> Iterator[str]:
    told = made.provenance
    yield "## Files\n"
    yield f"The adapter is here twice, with the same update: as `{archive}`, and as the files that PEFT loads.\n"
    yield "| | bytes | beside the source | relative error of the update |"
    yield "|---|---:|---:|---:|"
    yield f"| the source | {told.source_bytes:,} | | |"
    error = "0, lossless" if made.lossless else number(told.relative_error)
    for file in (archive, *(name for name in files if name.endswith(".safetensors"))):
        yield f"| `{file}` | {files[file]:,} | {ratio(told.source_bytes, files[file])} smaller | {error} |"
    yield f"\n`{archive}` was made by {told.made_by} with the method {made.method}.\n"
    if told.distilled is not None:
        yield from _evaluation(told.distilled)
    yield "## Loading\n"
    yield f"```python\n{snippet(config, place)}```\n"
    yield f"Whoever has `{archive}` alone, of {size(files[archive])}:\n"
    yield f'```python\n# pip install "adaptzip[peft]"\nimport adaptzip\n\nadaptzip.load_into(model, "{archive}")\n```\n'
    yield f"or `adaptzip export {archive} --as peft -o FOLDER`, or `adaptzip merge {archive} --base BASE -o MERGED`."
    yield from _needs(made)
    yield ""


def _needs(made: Compressed) -> Iterator[str]:
    """What the file does not stand without."""
    basis = made.basis
    if basis is None or basis.source in ("embedded", "start"):
        return
    what = {
        "base": "the base model (`--base`)",
        "file": "its basis (`--basis`)",
        "reference": "the adapter that it began as (`--basis`)",
        "bank": "its bank (`--basis`)",
    }
    described = f", {basis.description}" if basis.description else ""
    yield f"\nTo decode it takes {what[basis.source]}{described}, of hash `{basis.hash}`."


def _evaluation(told: TrainingReport) -> Iterator[str]:
    """What training measured on texts that it had not seen."""
    yield f"It was trained to act like the source; on {told.held_out:,} texts that were kept from training:\n"
    head = ["", "distance from the source", *([told.metric] if told.metric else [])]
    yield f"| {' | '.join(head)} |"
    yield f"|---|{'---:|' * (len(head) - 1)}"
    for name, (distance, _, metric) in told.rows.items():
        cells = [ROWS_IN_WORDS[name], "" if distance is None else number(distance)]
        if told.metric:
            shown = "" if metric is None else f"{100 * metric:.1f} %" if told.metric in IN_PER_CENT else number(metric)
            cells.append(shown)
        yield f"| {' | '.join(cells)} |"
    yield ""
