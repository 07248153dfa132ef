"""Models and adapters that are named as on the Hub: fetched by huggingface_hub into its cache."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from glob import escape
from importlib.util import find_spec
from pathlib import Path
from typing import overload

from adaptzip.errors import AdaptzipError, BaseModelError, CheckpointError
from adaptzip.models.hub_files import ADAPTER_WEIGHTS, adapter_files, wanted_files

_NAMED = re.compile(r"(?P<scheme>hf:/{1,2})?(?P<repository>\w[\w.-]*/\w[\w.-]*)(?:@(?P<revision>[^@\s]+))?", re.ASCII)
"""A path has one slash of `hf://` left."""
INSTALL = "pip install 'adaptzip[hub]'"


@dataclass(frozen=True)
class Named:
    """A model of the Hub as it was named.

    Attributes:
        repository: owner and name.
        revision: a branch, tag or commit; None for the main one.
        explicit: whether it was named with `hf://`.
    """

    repository: str
    revision: str | None = None
    explicit: bool = False

    def __str__(self) -> str:
        return self.repository + (f"@{self.revision}" if self.revision else "")


@overload
def base_path(named: None) -> None: ...
@overload
def base_path(named: str | Path) -> Path: ...
def base_path(named: str | Path | None) -> Path | None:
    """The folder of a base model that is named by its path, or as on the Hub: `owner/name` or `hf://owner/name@revision`.

    A path that exists is that, whatever it looks like. A model of the Hub is fetched by huggingface_hub, as far as its
    cache does not hold it, and is then a snapshot there; HF_HOME, HF_HUB_OFFLINE, HF_TOKEN and the like count as ever.

    Args:
        named: the name; None stays None.

    Raises:
        BaseModelError: if it is named with `hf://` and huggingface_hub is not installed, or it cannot be fetched.
    """
    if named is None:
        return None
    model = on_the_hub(named)
    return Path(named) if model is None else _fetched(model, _BASE)


def adapter_path(named: str | Path) -> Path:
    """Where an adapter lies that is named by its path, or as on the Hub, as for `base_path`.

    Raises:
        CheckpointError: if it is named with `hf://` and huggingface_hub is not installed, or it cannot be fetched.
    """
    model = on_the_hub(named, CheckpointError)
    return Path(named) if model is None else _fetched(model, _ADAPTER)


def on_the_hub(named: str | Path, error: type[AdaptzipError] = BaseModelError) -> Named | None:
    """The model of the Hub that is meant, None for a path; raises `error` as `base_path`."""
    path = Path(named)
    words = named if isinstance(named, str) else path.as_posix()
    found = None if path.exists() or path.is_symlink() else _NAMED.fullmatch(words)
    if found is None:
        return None
    explicit = found["scheme"] is not None
    if find_spec("huggingface_hub") is None:
        if not explicit:
            return None
        raise error(
            f"{named}: huggingface_hub is not installed, which fetches models of the Hub",
            hint=f"{INSTALL}, or download it another way and give its folder",
        )
    return Named(found["repository"], found["revision"], explicit)


@dataclass(frozen=True)
class _Kind:
    """What is looked for in a repository.

    Attributes:
        wanted: of its files, which are fetched.
        weights: how the names of its weight files end, of which there has to be one.
        lacking: what is said where there is none, and what to do.
        cached: patterns of names that tell that the cache holds it.
        what: what it is called, and what may be given instead.
        error: what is raised.
    """

    wanted: Callable[[Sequence[str]], list[str]]
    weights: tuple[str, ...]
    lacking: tuple[str, str]
    cached: tuple[str, ...]
    what: tuple[str, str]
    error: type[AdaptzipError]


_BASE = _Kind(
    wanted_files,
    (".safetensors", ".bin"),
    (
        "has no model.safetensors or pytorch_model.bin on the Hub, whole or in shards",
        "name the repository that has the model in one of these forms",
    ),
    # Names of configurations alone, as the weights in the cache were chosen when they were fetched.
    ("config.json", "model_index.json"),
    ("such model", "the folder of the base model"),
    BaseModelError,
)
_ADAPTER = _Kind(
    adapter_files,
    ADAPTER_WEIGHTS,
    ("has no adapter on the Hub", "name the repository that has its weights at its root"),
    tuple(f"*{end}" for end in ADAPTER_WEIGHTS),
    ("such repository", "its folder"),
    CheckpointError,
)


def _fetched(model: Named, kind: _Kind) -> Path:
    """The snapshot of a model in the Hub's cache."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        told = HfApi().model_info(model.repository, revision=model.revision).siblings or ()
    except (HFValidationError, RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise _refused(model, error, kind) from error
    except Exception as error:
        # No connection, or the Hub is down: what that raises differs with the library that it talks by.
        return _cached(model, error, kind)
    wanted = kind.wanted([sibling.rfilename for sibling in told])
    if not any(name.endswith(kind.weights) for name in wanted):
        lacking, hint = kind.lacking
        raise kind.error(f"{model}: {lacking}", hint=hint)
    return _downloaded(model, wanted, kind)


def _cached(model: Named, why: Exception, kind: _Kind) -> Path:
    """The snapshot as it was fetched before."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        found = snapshot_download(
            model.repository, revision=model.revision, allow_patterns=[*kind.cached], local_files_only=True
        )
    except LocalEntryNotFoundError as error:
        raise kind.error(
            f"{model}: no such folder, the Hub cannot be asked for it ({_told(why)}), and its cache does not hold it",
            hint=f"connect to the network, unset HF_HUB_OFFLINE, or give {kind.what[1]}",
        ) from error
    return Path(found)


def _downloaded(model: Named, wanted: Sequence[str], kind: _Kind) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError

    try:
        names = [escape(name) for name in wanted]
        return Path(snapshot_download(model.repository, revision=model.revision, allow_patterns=names))
    except GatedRepoError as error:
        raise _refused(model, error, kind) from error
    except Exception as error:
        if isinstance(error, OSError) and not isinstance(error, HfHubHTTPError):
            raise  # Of the disk.
        raise kind.error(
            f"{model}: fetching it from the Hub broke off ({_told(error)})",
            hint="run the command again: what has been fetched is kept",
        ) from error


def _told(error: Exception) -> str:
    """The first line of an error, with its kind."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def _refused(model: Named, error: Exception, kind: _Kind) -> AdaptzipError:
    name = type(error).__name__
    if name == "GatedRepoError":
        return kind.error(
            f"{model}: is gated on the Hub, and its owner has not let you in",
            hint=f"ask for it at https://huggingface.co/{model.repository}, then `hf auth login` or set HF_TOKEN",
        )
    if name == "RevisionNotFoundError":
        return kind.error(
            f"{model}: {model.repository} has no revision {model.revision} on the Hub",
            hint="name a branch, a tag or a commit after the @",
        )
    return kind.error(
        f"{model}: no such folder, and no {kind.what[0]} on the Hub",
        hint="check the spelling; a private model needs `hf auth login` or HF_TOKEN",
    )
