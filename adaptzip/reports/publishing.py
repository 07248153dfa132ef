"""An adapter as a repository of the Hub that PEFT loads, with the `.adz` beside and a model card that tells of both."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from adaptzip.adz.container.frame import is_adz
from adaptzip.adz.container.reader import open_adz
from adaptzip.checkpoints._base_name import is_local
from adaptzip.checkpoints._config import CONFIG_NAME
from adaptzip.core.budget import AnyBudget
from adaptzip.core.calling import public
from adaptzip.core.progress import Progress
from adaptzip.core.showing import Shown
from adaptzip.core.words import count, number, ratio, size
from adaptzip.errors import OutputError, RefusedError, UsageError, without_warnings
from adaptzip.files.atomic import atomic_directory
from adaptzip.fitting.compression import compress
from adaptzip.methods import REFERENCE
from adaptzip.models.hub import INSTALL
from adaptzip.restoring.exporting import export
from adaptzip.restoring.model_card import NAME as README
from adaptzip.restoring.model_card import is_ours, source_card
from adaptzip.restoring.publishable import add_archive, check_repo
from adaptzip.restoring.upload_card import MARK

_OWNED = (CONFIG_NAME, "adapter_model.safetensors", README)


@dataclass(frozen=True, repr=False)
class PublishReport(Shown):
    """What was published, or would be.

    Attributes:
        repo: the repository.
        url: of the commit; "" where nothing was uploaded.
        files: sizes of all files by name.
        archive: the name of the `.adz`.
        source_bytes: size of the source's weight file.
        relative_error: of the update.
        card: the model card.
        folder: where the files lie; None where they were kept nowhere.
    """

    repo: str
    url: str
    files: Mapping[str, int]
    archive: str
    source_bytes: int
    relative_error: float
    card: str
    folder: Path | None = None

    def _told(self) -> Iterable[str]:
        yield self.repo
        yield self.url or "not uploaded"
        yield f"{self.archive} {size(self.files[self.archive])}"
        yield ratio(self.source_bytes, self.files[self.archive])
        yield f"error {number(self.relative_error)}"
        yield count(len(self.files), "file")

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON values."""
        return {
            "repo": self.repo,
            "url": self.url or None,
            "files": dict(self.files),
            "archive": self.archive,
            "source_bytes": self.source_bytes,
            "relative_error": self.relative_error,
            "card": self.card,
            "folder": None if self.folder is None else str(self.folder),
        }


@public
def publish(
    source: str | Path,
    repo: str,
    *,
    output: str | Path | None = None,
    to: str = REFERENCE,
    budget: AnyBudget | None = None,
    max_error: float | None = None,
    base_name: str | None = None,
    base: str | Path | None = None,
    basis: str | Path | None = None,
    private: bool = False,
    dry_run: bool = False,
    force: bool = False,
    token: str | None = None,
    progress: Progress | None = None,
) -> PublishReport:
    """Upload an adapter to the Hub: PEFT's files at the root of the repository, the `.adz` and a model card beside.

    `PeftModel.from_pretrained(repo)` then loads it, with the update that the `.adz` holds. A README of the source is
    kept, and gets a section on the files and how to load them. Other files of the repository stay.

    Args:
        source: a `.adz` file, or an adapter to compress.
        repo: "owner/name"; it is made where there is none.
        output: a folder where the files are kept as well.
        to, budget, max_error: as for `compress`, where the source is no `.adz`.
        base_name: what the base model is called; needed where the adapter names a path.
        base, basis: what a `.adz` has to be decoded with, as for `export`; the model card says so.
        private: make a new repository private.
        dry_run: make everything, and upload nothing.
        force: replace an existing `output`.
        token: of the Hub; None for the one that `hf auth login` keeps.
        progress: told how far it is (`adaptzip.core.progress.Progress`).

    Raises:
        CheckpointError, FormatError: if the source cannot be read.
        UsageError: if the adapter names a path as its base model and there is no `base_name`, options for compressing
            are given for a `.adz`, or `repo` is no name of a repository.
        RefusedError: if PEFT cannot hold the adapter, the file does not decode without another, or huggingface_hub is
            missing.
        OutputError: if the Hub does not take it, or `output` exists without `force`.

    Example:
        >>> report = adaptzip.publish("my-adapter", "me/lists", dry_run=True, budget="20%", base_name="owner/base")
        >>> sorted(report.files)
        ['README.md', 'adapter_config.json', 'adapter_model.safetensors', 'lists.adz']
    """
    path = Path(source)
    check_repo(repo)
    if not dry_run:
        _library()
    archive = f"{repo.rpartition('/')[2]}.adz"
    packed = is_adz(path)
    if packed and (budget is not None or max_error is not None):
        raise UsageError(f"{source}: is compressed already", hint="drop the budget and the error")
    with TemporaryDirectory() as place:
        folder = Path(place) / "upload"
        made = Path(place) / archive
        if packed and base_name is None:
            made.write_bytes(path.read_bytes())
        elif packed:
            raise UsageError(
                f"{source}: is compressed already, with its base model's name in it", hint="drop the base name"
            )
        else:
            with without_warnings():
                compress(
                    source, made, to=to, budget=budget, max_error=max_error, base_name=base_name, progress=progress
                )
        report = _fill(folder, made, source, repo, {"base": base, "basis": basis})
        if output is not None:
            _keep(folder, Path(output), force)
        url = "" if dry_run else _upload(folder, repo, report, private, token)
    kept = None if output is None else Path(output)
    return replace(report, url=url, folder=kept)


def _fill(folder: Path, made: Path, source: str | Path, repo: str, beside: Mapping[str, Any]) -> PublishReport:
    """All files of the repository, in a folder."""
    opened = open_adz(made)
    named = opened.meta.base_model
    if named is None or is_local(named):
        told = "names no base model" if named is None else f"names the path {named!r} as its base model"
        raise UsageError(f"{source}: {told}, which nobody else could load it on", hint="give `base_name='owner/model'`")
    with without_warnings():
        # What it refers to is looked for beside the source.
        export(replace(opened, path=Path(source)), folder, as_="peft", **beside)
    text = add_archive(folder, made.read_bytes(), made.name, card=source_card(source), place=repo, base=named)
    files = {file.name: file.stat().st_size for file in sorted(folder.iterdir())}
    origin = opened.provenance
    return PublishReport(repo, "", files, made.name, origin.source_bytes, origin.relative_error, text, folder)


def _keep(folder: Path, output: Path, force: bool) -> None:
    """The same files where the user wants them."""

    def owned(name: str) -> bool:
        return name.endswith(".adz") or name in _OWNED[:2] or (name == README and is_ours(output / README, MARK))

    with atomic_directory(output, force, owned=owned) as place:
        for file in folder.iterdir():
            (place / file.name).write_bytes(file.read_bytes())


def _upload(folder: Path, repo: str, report: PublishReport, private: bool, token: str | None) -> str:
    """Upload the folder as one commit; the commit's URL."""
    library = _library()
    smaller = ratio(report.source_bytes, report.files[report.archive])
    message = f"Add the adapter, {smaller} smaller at relative error {number(report.relative_error)}"
    api = library.HfApi(token=token)
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        done = api.upload_folder(repo_id=repo, folder_path=folder, commit_message=message)
    except Exception as error:
        # What the Hub refuses, and what a missing connection raises, differs with the library that it talks by.
        told = " ".join(str(error).split())
        raise OutputError(
            f"{repo}: the Hub did not take it: {told[:300]}", hint="log in with `hf auth login`, or check the name"
        ) from error
    return str(done.commit_url)


def _library() -> Any:
    """huggingface_hub.

    Raises:
        RefusedError: if it is not installed.
    """
    try:
        import huggingface_hub
    except ImportError as error:
        raise RefusedError("publishing needs the package huggingface_hub", hint=INSTALL) from error
    return huggingface_hub
