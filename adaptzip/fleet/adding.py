"""Putting one adapter into a store: what it shares first, then its file, then its row."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adaptzip.adz.coding.packing import ExtrasMode
from adaptzip.core.adapter import Adapter
from adaptzip.core.basis import Basis
from adaptzip.core.budget import AnyBudget, Budget
from adaptzip.core.calling import public
from adaptzip.core.compressed import Compressed
from adaptzip.core.effort import Effort
from adaptzip.errors import CheckFailedError, OutputError, UsageError, warn
from adaptzip.files.hub_cache import named_by_cache
from adaptzip.files.trees import Tree, tree_at
from adaptzip.fitting.keywords import method_options
from adaptzip.fitting.requests import Request
from adaptzip.fleet.preparing import prepared
from adaptzip.fleet.store.index import Row, row_of, write_rows
from adaptzip.fleet.store.layout import adapter_file, adapter_name, folded, located
from adaptzip.fleet.variants import Sharing
from adaptzip.methods import REFERENCE
from adaptzip.models.hub import base_path, on_the_hub


@public
def add_to_store(
    source: str | Path | Adapter | Compressed,
    store: str | Path,
    name: str | None = None,
    *,
    group: str | None = None,
    share: Sharing = "auto",
    to: str = REFERENCE,
    budget: AnyBudget | None = None,
    max_error: float | None = None,
    lossless: bool = False,
    extras: ExtrasMode = "lossless",
    alpha: float | None = None,
    config: str | Path | None = None,
    dialect: str | None = None,
    seed: int = 0,
    base: str | Path | None = None,
    basis: str | Path | Basis | None = None,
    effort: Effort = "default",
    start: str | Path | None = None,
    base_name: str | None = None,
    options: Mapping[str, Any] | None = None,
    force: bool = False,
) -> Row:
    """Put one adapter into a store, without writing any other again.

    Args:
        source: what `compress` takes; a `.adz`, or one in memory, is taken as it is.
        store: a folder, or a bucket as fsspec names it; made if it is not there.
        name: what the store calls it, as `team/support`; None takes the name of the source's file or folder.
        group: what it is put together with others under.
        share: "auto" codes it with a basis or bank that others of the store refer to, where that is smaller than alone,
            or nearer within the budget, and nothing else of how to compress is said; "always" with any of the store's
            that it can be coded with, even if it is the first to refer to it; "never" alone.
        basis: what it is compressed with, or what a `.adz` refers to; None looks for that beside the file.
        to, budget, max_error, lossless, extras, alpha, config, dialect, seed, base, effort, start, base_name, options:
            as for `compress`.
        force: replace an adapter of this name.

    Returns:
        Its row in the index: its name, size, error, hash and what it shares.

    Raises:
        UsageError: if the name is none, or how to compress is said of a `.adz`.
        OutputError: if the store has an adapter of this name without `force`, or one whose name differs by case alone,
            or cannot be written.
        RefusedError: if it refers to an artefact that was not given and is not in the store.
        CheckpointError, FormatError, CheckFailedError: as `compress` and `open`.

    Warns with an AdaptzipWarning where it stands on another adapter, which no store keeps for it.

    Example:
        >>> row = adaptzip.add_to_store("my-adapter", "store", "team/support", max_error=0.2)
        >>> row.name, row.method, row.error <= 0.2
        ('team/support', 'svd', True)
    """
    request = Request(
        to=to,
        budget=Budget.of(budget),
        max_error=max_error,
        lossless=lossless,
        extras=extras,
        alpha=alpha,
        config=config,
        dialect=dialect,
        seed=seed,
        base=base_path(base),
        basis=basis,
        effort=effort,
        start=start,
        base_name=base_name,
        options=method_options(add_to_store, (to,), options, {}),
    )
    return add(tree_at(located(store)), source, name, request, share=share, group=group, force=force)


def add(
    tree: Tree,
    source: str | Path | Adapter | Compressed,
    name: str | None,
    request: Request,
    *,
    share: Sharing = "auto",
    group: str | None = None,
    force: bool = False,
) -> Row:
    """Put an adapter into a store; see `adaptzip.add_to_store`.

    Args:
        tree: the store.
        request: how to compress it, or nothing but `basis` for one that is a `.adz`.
    """
    named = default_name(source) if name is None else name
    file = _free(tree, named, force=force)
    put = prepared(tree, source, request, share)
    reference = put.compressed.basis
    if reference is not None and reference.source == "reference":
        warn(f"{named}: stands on another adapter's A, without which nobody who has the store alone can decode it")
    if put.artefact is not None and put.shared is not None and tree.size(put.artefact) is None:
        tree.write(put.artefact, put.shared)
    tree.write(file, put.content)
    # Tidying may have taken it for one that no adapter refers to, before there was one.
    if put.artefact is not None and tree.size(put.artefact) is None:
        if put.shared is None:
            tree.remove(file)
            raise CheckFailedError(
                f"{tree.location}: {put.artefact} was removed by somebody else while {named!r} was added",
                hint="add it again with `basis=FILE`",
            )
        tree.write(put.artefact, put.shared)
    row = row_of(named, put.compressed, put.content, group or put.group)
    write_rows(tree, [row])
    return row


def default_name(source: str | Path | Adapter | Compressed) -> str:
    """What an adapter is called by its file or folder.

    Raises:
        UsageError: if it has no such name.
    """
    if isinstance(source, str | Path):
        path = Path(source)
        named, fetched = on_the_hub(source), named_by_cache(path)
        repository = fetched[0] if fetched is not None else named.repository if named is not None else ""
        if repository:
            return repository.rpartition("/")[2]
        found = path.resolve() if path.name in ("", "..") else path
        if found.name:
            return found.stem if found.is_file() else found.name
    raise UsageError("the adapter has no name to be stored under", hint="name it with `name=NAME`")


def _free(tree: Tree, name: str, *, force: bool) -> str:
    """The file of a name that may be written."""
    file, own = adapter_file(name), folded(name)
    for other in filter(None, map(adapter_name, tree.names())):
        if other == name and not force:
            raise OutputError(f"{tree.location}: has an adapter {name!r}", hint="replace it with `force=True`")
        if other != name and folded(other) == own:
            raise OutputError(
                f"{tree.location}: has an adapter {other!r}, whose name differs from {name!r} by case or accents' "
                "spelling alone",
                hint="some systems know no such difference: give another name with `name=NAME`",
            )
    return file
