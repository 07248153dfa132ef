"""The index of a store: one row for each adapter, in segments that are added and never rewritten.

A segment is `index/NUMBER-LABEL.jsonl`: one line that says the format, then one line for each row or removal, with its
generation. For one name the highest generation wins, and of equal ones the one in the segment whose name sorts last.
A writer takes the number after the highest that it sees, and a label made of the content, so that two who write at the
same time make two segments. Neither clocks nor random numbers come in.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from adaptzip.core.compressed import Compressed
from adaptzip.errors import FormatError, RefusedError, UsageError, naming
from adaptzip.files import strict_json
from adaptzip.files.digest import digest
from adaptzip.files.names import ARTEFACTS
from adaptzip.files.trees import Tree
from adaptzip.fleet.store.layout import INDEX, adapter_file

FORMAT = 1
KEY = "adaptzip-index"
"""The one key in the first line of a segment."""
_SEGMENT = re.compile(rf"{INDEX}/(\d{{12}})-([A-Za-z0-9_-]{{1,100}})\.jsonl", re.ASCII)
_TRIES = 8
"""How often the segments are listed again where another run joins them meanwhile."""


@dataclass(frozen=True)
class Row:
    """What the index says of one adapter.

    Attributes:
        name: its name in the store, as `team/support`.
        base: the base model's name as the adapter has it, or None.
        source: hash of the content that it was made of, or None.
        content: `digest` of the `.adz`, 22 characters.
        method: what made it.
        bytes: size of the `.adz`.
        error: relative error that its provenance states; 0 if lossless.
        parameters: numbers stored for its modules.
        shared: hash of the basis or bank that it refers to, or None.
        group: what it was put together with others under, or None.
    """

    name: str
    base: str | None
    source: str | None
    content: str
    method: str
    bytes: int
    error: float
    parameters: int
    shared: str | None = None
    group: str | None = None


@dataclass(frozen=True)
class Entry:
    """A row, or the removal of one, as a segment has it.

    Attributes:
        name: of the adapter.
        generation: the number of the segment that it was first written in.
        row: None for a removal.
    """

    name: str
    generation: int
    row: Row | None


def row_of(name: str, compressed: Compressed, content: bytes, group: str | None = None) -> Row:
    """The row of an adapter.

    Args:
        name: its name in the store.
        compressed: what its file says.
        content: the bytes of the file.
        group: as `Row.group`.

    Raises:
        UsageError: if it is no name of an adapter.
    """
    adapter_file(name)
    told, basis = compressed.provenance, compressed.basis
    return Row(
        name,
        compressed.meta.base_model,
        told.source_hash,
        digest([content]),
        compressed.method,
        len(content),
        told.relative_error,
        told.parameters,
        basis.hash if basis is not None and basis.source in ARTEFACTS else None,
        group,
    )


def read_rows(tree: Tree) -> dict[str, Row]:
    """The rows of a store by name, sorted; none where it has no index.

    Raises:
        FormatError: if a segment is damaged.
        RefusedError: if a newer version wrote one.
        CheckpointError: if one cannot be read.
    """
    entries = _merged(_entries(tree).items())
    return {name: entry.row for name, entry in sorted(entries.items()) if entry.row is not None}


def write_rows(
    tree: Tree, rows: Iterable[Row], segment_name: str | None = None, *, removed: Iterable[str] = ()
) -> str | None:
    """Add rows to the index as a segment of their own; they count before all that were there.

    Args:
        rows: at most one for each name.
        segment_name: letters, digits, - and _: takes the place of an earlier segment of this name, whatever its rows;
            nothing is written where there is one and these rows count already. None names it by its content.
        removed: names whose rows are taken out.

    Returns:
        The file, or None where there was nothing to write.

    Raises:
        UsageError: if a name stands twice or is none.
        OutputError: if it cannot be written.
    """
    news: list[tuple[str, Row | None]] = [*((row.name, row) for row in rows), *((name, None) for name in removed)]
    if not news:
        return None
    if len(dict(news)) != len(news):
        raise UsageError("the rows to write name one adapter twice", hint="give each adapter a name of its own")
    known = segments(tree)
    earlier = [] if segment_name is None else [file for file in known if _parts(file)[1] == segment_name]
    same = [file for file in earlier if {entry.name: entry.row for entry in _read(tree, file)} == dict(news)]
    if same:
        now = _merged(_entries(tree).items())
        if all(now[name].row == row for name, row in news):
            return same[-1]
    file = _write(tree, _next(known), news, segment_name)
    for old in earlier:
        tree.remove(old)
    return file


def segments(tree: Tree) -> list[str]:
    """The files of the index, in their order.

    Raises:
        FormatError: if a file lies among them that is no segment.
    """
    found = tree.names(INDEX)
    for file in found:
        _parts(file)
    return sorted(found)


def compact(tree: Tree) -> int:
    """Join all segments into one; returns how many there were. Removals stay, since another run may write now.

    The new segment is written first and the old ones go in their order, so that readers find every row at any time.
    """
    found = _entries(tree)
    if len(found) <= 1:
        return len(found)
    entries = _merged(found.items())
    content = _content(entries.values())
    tree.write(_named(_next(found), digest([content])), content)
    for file in found:
        tree.remove(file)
    return len(found)


def _write(tree: Tree, number: int, news: Sequence[tuple[str, Row | None]], label: str | None) -> str:
    content = _content([Entry(name, number, row) for name, row in news])
    file = _named(number, digest([content]) if label is None else label)
    _parts(file)
    tree.write(file, content)
    return file


def _entries(tree: Tree) -> dict[str, list[Entry]]:
    """All segments, read at one time: again from the start where one went, as another run joined it with others."""
    for _ in range(_TRIES):
        known = segments(tree)
        try:
            return {file: _read(tree, file) for file in known}
        except FileNotFoundError:
            continue
    raise FormatError(f"{tree.location}/{INDEX}: changes all the time", hint="try again when fewer runs write to it")


def _merged(found: Iterable[tuple[str, Iterable[Entry]]]) -> dict[str, Entry]:
    """What counts of each name."""
    best: dict[str, tuple[int, str, Entry]] = {}
    for file, entries in found:
        for entry in entries:
            rank = (entry.generation, file)
            if entry.name not in best or rank > best[entry.name][:2]:
                best[entry.name] = (*rank, entry)
    return {name: entry for name, (_, _, entry) in best.items()}


def _next(known: Iterable[str]) -> int:
    return 1 + max((_parts(file)[0] for file in known), default=0)


def _named(number: int, label: str) -> str:
    if number > _LAST:
        raise FormatError(f"{INDEX} has a segment of number {_LAST}, the last that there can be", hint=_AGAIN)
    return f"{INDEX}/{number:012d}-{label}.jsonl"


def _parts(file: str) -> tuple[int, str]:
    match = _SEGMENT.fullmatch(file)
    if match is None:
        raise FormatError(f"{file} is no segment of an index", hint="expected NUMBER-LABEL.jsonl; move it elsewhere")
    return int(match[1]), match[2]


def _content(entries: Iterable[Entry]) -> bytes:
    lines: list[Mapping[str, Any]] = [{KEY: FORMAT}]
    for entry in sorted(entries, key=lambda entry: entry.name):
        adapter_file(entry.name)
        told = {"removed": True} if entry.row is None else asdict(entry.row)
        lines.append({"name": entry.name, "generation": entry.generation, **told})
    return "".join(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n" for line in lines).encode()


def _read(tree: Tree, file: str) -> list[Entry]:
    """Raises: FileNotFoundError: if it is gone."""
    content = tree.read(file)
    with naming(f"{tree.location}/{file}", FormatError, RefusedError):
        try:
            return list(_parsed(content))
        except FormatError as error:
            error.hint = _AGAIN
            raise


def _parsed(content: bytes) -> Iterator[Entry]:
    first, *lines = content.removesuffix(b"\n").split(b"\n")
    head = strict_json.parse(first, "line 1")
    if not isinstance(head, dict) or head.keys() != {KEY}:
        raise FormatError("line 1 is not that of an index", hint=_AGAIN)
    if head[KEY] != FORMAT:
        raise RefusedError(f"index format {head[KEY]} is not {FORMAT}", hint="install a newer adaptzip")
    for number, line in enumerate(lines, 2):
        yield _entry(strict_json.parse(line, f"line {number}"), f"line {number}")


_LAST = 10**12 - 1
"""The highest number of a segment."""
_AGAIN = "remove the file: `adaptzip store gc` makes rows again from the adapters themselves"
_FIELDS = {field.name for field in fields(Row)}


def _entry(value: Any, where: str) -> Entry:
    told: dict[str, Any] = value if isinstance(value, dict) else {}
    name, generation = told.get("name"), told.pop("generation", None)
    if isinstance(name, str) and type(generation) is int and 0 <= generation <= _LAST:
        if told == {"name": name, "removed": True}:
            return Entry(_checked(name, where), generation, None)
        if told.keys() == _FIELDS and _holds(told):
            return Entry(_checked(name, where), generation, Row(**told))
    raise FormatError(f"{where} is no row", hint=_AGAIN)


def _holds(row: Mapping[str, Any]) -> bool:
    """Whether a row's values are of their kinds."""
    texts = all(isinstance(row[name], str) for name in ("content", "method"))
    words = all(row[name] is None or isinstance(row[name], str) for name in ("base", "source", "shared", "group"))
    counts = all(type(row[name]) is int and row[name] >= 0 for name in ("bytes", "parameters"))
    error = row["error"]
    return texts and words and counts and type(error) in (int, float) and 0 <= error <= sys.float_info.max


def _checked(name: str, where: str) -> str:
    try:
        adapter_file(name)
    except UsageError as error:
        raise FormatError(f"{where}: {error}", hint=_AGAIN) from error
    return name
