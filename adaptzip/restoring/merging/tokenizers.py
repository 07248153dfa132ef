"""Which tokenizer a merged model carries: the adapter's own where its folder brings one, else the base's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Literal

from adaptzip.errors import CheckpointError
from adaptzip.files.hub_cache import leads_out
from adaptzip.files.json_values import json_values
from adaptzip.files.regular import read_regular

_VOCABULARIES = (
    "tokenizer.json", "vocab.json", "vocab.txt", "vocab-src.json", "vocab.bpe", "bpe.codes", "dict.txt",
    "tokenizer.model*", "spiece.model", "sentencepiece.bpe.model", "sentencepiece.model", "source.spm", "target.spm",
    "spm.model", "vocab.model", "tekken.json", "*.tiktoken", "emoji.json",
)  # fmt: skip
_BESIDE = (
    "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "merges.txt", "merges*.txt",
    "vocab.*", "vocab-*.json", "normalizer.json", "chat_template*", "additional_chat_templates/*", "entity_vocab.json",
)  # fmt: skip


@dataclass(frozen=True)
class Tokenizer:
    """The tokenizer that a merged model carries.

    Attributes:
        origin: whose it is; None where neither brings one.
        folder: where its files lie.
        files: its files, relative to `folder`.
        left: files of a tokenizer in the adapter's folder that are not taken, as they are no whole one.
    """

    origin: Literal["adapter", "base"] | None
    folder: Path
    files: tuple[Path, ...] = ()
    left: tuple[Path, ...] = ()

    @property
    def tokens(self) -> int:
        """One more than the highest token number that its readable files name, 0 where none does."""
        return max((number + 1 for file in self.files for number in _numbers(self.folder / file)), default=0)


def choose_tokenizer(base: Path, adapter: Path | None) -> Tokenizer:
    """The whole tokenizer of the adapter's folder if there is one, and nothing of the base's then; else the base's.

    A tokenizer is whole if a vocabulary is among its files; where the base's has none either, as one of bytes, its
    configuration is enough.

    Args:
        base: the base model's folder.
        adapter: the adapter's folder, None where it has none.

    Raises:
        CheckpointError: if a file of the adapter's tokenizer is a link that leads out of its folder.
    """
    own = _files(base)
    brought = () if adapter is None else _files(adapter)
    if adapter is not None and (_has_vocabulary(brought) or (_is_configured(brought) and not _has_vocabulary(own))):
        for file in brought:
            _check_inside(adapter, file)
        return Tokenizer("adapter", adapter, brought)
    origin: Literal["base"] | None = "base" if _has_vocabulary(own) or _is_configured(own) else None
    return Tokenizer(origin, base, own, brought)


def is_tokenizer_file(name: str) -> bool:
    """Whether a file of a model's folder, its path relative and with slashes, belongs to its tokenizer."""
    return any(fnmatch(name, pattern) for pattern in (*_VOCABULARIES, *_BESIDE))


def adapter_folder(source: Path) -> Path | None:
    """The folder in which an adapter's own tokenizer would lie; None for a file without its configuration beside it."""
    if source.is_dir():
        return source
    beside = source.parent
    return beside if source.suffix != ".adz" and (beside / "adapter_config.json").is_file() else None


def _files(folder: Path) -> tuple[Path, ...]:
    templates = folder / "additional_chat_templates"
    files = [*folder.iterdir(), *(templates.iterdir() if templates.is_dir() else ())]
    names = sorted(file.relative_to(folder) for file in files if file.is_file())
    return tuple(name for name in names if is_tokenizer_file(name.as_posix()))


def _has_vocabulary(files: Iterable[Path]) -> bool:
    return any(fnmatch(file.as_posix(), pattern) for file in files for pattern in _VOCABULARIES)


def _is_configured(files: Iterable[Path]) -> bool:
    return Path("tokenizer_config.json") in files


def _check_inside(folder: Path, file: Path) -> None:
    if leads_out(folder / file, folder):
        raise CheckpointError(
            f"{folder / file}: is a link to {(folder / file).resolve()}, outside its folder",
            hint="put the file itself there if it belongs to the adapter",
        )


def _numbers(file: Path) -> Iterator[int]:
    """Token numbers in a file, or the number of the last one."""
    if file.name == "vocab.txt":
        yield len(read_regular(file).decode("utf-8", "replace").splitlines()) - 1
    if file.name not in ("tokenizer.json", "vocab.json", "added_tokens.json", "tokenizer_config.json"):
        return
    try:
        value = json_values(read_regular(file).decode("utf-8"))
    except (OSError, ValueError, RecursionError):
        return
    if not isinstance(value, dict):
        return
    if file.name == "tokenizer.json":
        yield from _of_fast(value)
    elif file.name == "tokenizer_config.json":
        added = value.get("added_tokens_decoder")
        yield from (int(key) for key in added if str(key).isdecimal()) if isinstance(added, dict) else ()
    else:
        yield from (number for number in value.values() if type(number) is int)


def _of_fast(value: dict[str, Any]) -> Iterator[int]:
    model = value.get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocabulary, dict):
        yield from (number for number in vocabulary.values() if type(number) is int)
    elif isinstance(vocabulary, list):
        yield len(vocabulary) - 1
    added = value.get("added_tokens")
    for token in added if isinstance(added, list) else ():
        if isinstance(token, dict) and type(token.get("id")) is int:
            yield token["id"]
