"""Rows that the package `datasets` reads: those of a .parquet, and of data sets of the Hub."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from adaptzip.errors import AdaptzipError, CheckpointError
from adaptzip.models.texts.record import Record

PARQUET = ".parquet"
INSTALL = "pip install 'adaptzip[data]'"
_NAMED = re.compile(
    r"(?P<scheme>hf:/{1,2}datasets/)?(?P<repository>\w[\w.-]*/\w[\w.-]*)(?:@(?P<revision>[^@:\s]+))?"
    r"(?::(?:(?P<configuration>[^/:\[\]\s]+)/)?(?P<split>\w+(?:\.\w+)*)(?:\[:(?P<most>[1-9]\d*)\])?)?",
    re.ASCII,
)
"""A path has one slash of `hf://` left."""
_FILES = (".jsonl", ".json", ".csv", ".tsv", ".txt", PARQUET, ".gz", ".zst", ".zip", ".arrow", ".xlsx")
"""What names of files end in, which nobody means a data set by."""
_ALWAYS = ("role", "content", "from", "value")
"""Keys of a message that are there even as null."""


@dataclass(frozen=True)
class NamedSet:
    """A data set of the Hub as it was named.

    Attributes:
        repository: owner and name.
        revision: a branch, tag or commit; None for the main one.
        configuration: which of several; None for the default one.
        split: which part; None for the only one.
        most: how many of its first rows; None for all.
    """

    repository: str
    revision: str | None = None
    configuration: str | None = None
    split: str | None = None
    most: int | None = None

    def __str__(self) -> str:
        split = "/".join(part for part in (self.configuration, self.split) if part)
        some = "" if self.most is None else f"[:{self.most}]"
        return self.repository + (f"@{self.revision}" if self.revision else "") + (f":{split}{some}" if split else "")


def named_set(path: Path) -> NamedSet | None:
    """The data set of the Hub that is meant, None for a file.

    A path that exists is that, and so is what ends as files of rows do, unless it begins with `hf://datasets/`.

    Raises:
        CheckpointError: if there is a folder of that name too, or `datasets` is not installed.
    """
    found = None if path.exists() or path.is_symlink() else _NAMED.fullmatch(path.as_posix())
    if found is None or (found["scheme"] is None and path.suffix.lower() in _FILES):
        return None
    if found["scheme"] is None and Path(found["repository"]).exists():
        raise CheckpointError(
            f"{path}: may be a data set of the Hub, or a file that is missing, as {found['repository']} is here",
            hint=f"write hf://datasets/{path} for the one, ./{path} for the other",
        )
    _check_installed(f"{path}: no such file, and a data set of the Hub")
    most = found["most"]
    return NamedSet(
        found["repository"], found["revision"], found["configuration"], found["split"], int(most) if most else None
    )


def rows_of_file(path: Path, data: bytes) -> Iterator[Record]:
    """The rows of a .parquet.

    Raises:
        CheckpointError: if it is none, or `datasets` is not installed.
    """
    _check_installed(f"{path}: a .parquet")
    import pyarrow
    from datasets import Dataset
    from pyarrow import parquet

    try:
        table = Dataset(parquet.read_table(pyarrow.BufferReader(data)))
    except (pyarrow.ArrowException, OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path}: is not a .parquet of rows ({_line(error)})", hint="write it again") from error
    return _records(str(path), table)


def rows_of_set(wanted: NamedSet) -> Iterator[Record]:
    """The rows of a data set of the Hub, no code of which is run.

    A whole split is what the cache of `datasets` holds, and fetched into it. Of a split's first rows the
    files that hold them are asked for, and nothing is kept.

    Raises:
        CheckpointError: if there is no such data set, revision, configuration or split, or the Hub can't be asked.
    """
    from datasets import load_dataset

    commit = _commit(wanted)
    with _told(wanted):
        rows = load_dataset(
            wanted.repository,
            wanted.configuration,
            split=wanted.split,
            revision=commit,
            streaming=wanted.most is not None,
        )
        rows = _only(wanted, rows) if wanted.split is None else rows
        yield from _records(str(wanted), rows if wanted.most is None else rows.take(wanted.most))


@contextmanager
def _told(wanted: NamedSet) -> Iterator[None]:
    """Put what goes wrong in `datasets` into one line."""
    try:
        yield
    except AdaptzipError:
        raise
    except ConnectionError as error:
        hint = "connect to the network, unset HF_HUB_OFFLINE, or give a file"
        raise CheckpointError(f"{wanted}: the Hub cannot be asked ({_line(error)})", hint=hint) from error
    except Exception as error:
        # No data files, a file that is damaged, a connection that broke off: what that raises is not said anywhere.
        hint = "name what it has, as in owner/name:CONFIGURATION/SPLIT, or give its rows as a .jsonl"
        if "gated" in str(error):
            hint = "ask its owner on its page of the Hub, then `hf auth login` or set HF_TOKEN"
        raise CheckpointError(f"{wanted}: datasets cannot load it ({_line(error)})", hint=hint) from error


def _commit(wanted: NamedSet) -> str | None:
    """The commit that is meant; None where the Hub can't be asked, so that the cache may tell."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        return HfApi().dataset_info(wanted.repository, revision=wanted.revision).sha
    except RevisionNotFoundError as error:
        raise CheckpointError(
            f"{wanted}: {wanted.repository} has no revision {wanted.revision} on the Hub",
            hint="name a branch, a tag or a commit after the @",
        ) from error
    except (HFValidationError, RepositoryNotFoundError) as error:
        raise CheckpointError(
            f"{wanted}: no such file, and no such data set on the Hub",
            hint="check the spelling; a private one needs `hf auth login` or HF_TOKEN",
        ) from error
    except Exception as error:
        # No connection, or the Hub is down. The cache does not tell revisions apart.
        if wanted.revision is None:
            return None
        raise CheckpointError(
            f"{wanted}: the Hub cannot be asked for this revision ({_line(error)})",
            hint="connect to the network, or leave the revision out to take what the cache of datasets holds",
        ) from error


def _only(wanted: NamedSet, parts: Mapping[str, Any]) -> Any:
    """The one split of a data set of which none is named."""
    if len(parts) > 1:
        raise CheckpointError(
            f"{wanted}: has several splits, expected one of {', '.join(parts)}",
            hint=f"name it, as in {wanted.repository}:{next(iter(parts))}",
        )
    return next(iter(parts.values()))


def _records(place: str, rows: Any) -> Iterator[Record]:
    for number, row in enumerate(_without_media(rows), 1):
        yield Record(f"{place}, row {number}", {name: _plain(value) for name, value in row.items()})


def _without_media(rows: Any) -> Any:
    """Without pictures and sound, which nothing reads, and which other packages would decode."""
    from datasets.features.features import Json

    kinds = {} if rows.features is None else dict(rows.features)
    media = [name for name, kind in kinds.items() if hasattr(kind, "decode_example") and not isinstance(kind, Json)]
    return rows.remove_columns(media) if media else rows


def _plain(value: object, *, listed: bool = False) -> object:
    """A value as JSON has it: Arrow gives every object of a list the keys of all, as null where it has none."""
    if isinstance(value, list):
        return [_plain(item, listed=True) for item in value]
    if isinstance(value, dict):
        kept = {key: item for key, item in value.items() if item is not None or not listed or key in _ALWAYS}
        return {key: _plain(item, listed=listed) for key, item in kept.items()}
    return value


def _check_installed(what: str) -> None:
    if find_spec("datasets") is None:
        raise CheckpointError(
            f"{what} is read by the package datasets, which is not installed",
            hint=f"{INSTALL}, or give the rows as a .jsonl",
        )


def _line(error: Exception) -> str:
    """An error in one line, with its kind."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
