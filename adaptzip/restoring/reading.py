"""Reading an adapter wherever it lies: a PEFT folder, its weight file alone, or a `.adz` file."""

from __future__ import annotations

from pathlib import Path

from adaptzip.adz.container.frame import is_adz
from adaptzip.checkpoints import resolved
from adaptzip.checkpoints._beside import warn_of_others
from adaptzip.core.adapter import Adapter
from adaptzip.core.basis import Basis
from adaptzip.core.calling import public
from adaptzip.core.compressed import Compressed
from adaptzip.core.limits import Limits
from adaptzip.errors import UsageError
from adaptzip.models.hub import adapter_path
from adaptzip.restoring.opening import checkpoint_at, opened_weights, readable, understood, weight_file
from adaptzip.restoring.reconstruction import reconstruct


@public
def read(
    path: str | Path,
    *,
    alpha: float | None = None,
    config: str | Path | None = None,
    base: str | Path | None = None,
    basis: str | Path | Basis | None = None,
    dialect: str | None = None,
    limits: Limits | None = None,
) -> Adapter:
    """Read an adapter completely.

    Args:
        path: a PEFT folder, its weight file (with its configuration beside it, or `alpha`), a `.adz` file, or a
            repository of the Hub, as "owner/name" or "hf://owner/name@revision".
        alpha: lora_alpha for a weight file without configuration; every module's scale is alpha / its rank.
        config: the configuration file, where it does not lie beside the weights.
        base: folder of the base model, for a `.adz` file whose basis is that of the base weights, for checkpoints
            that hold a whole model or leave shapes to it, for GGUF files, for names that come without dots, and for
            experts' factors of an old layout, which mean different things on different models.
        basis: the basis artefact, its path, or that of a store that has it, for a `.adz` file that names one.
        dialect: name of the dialect to read a checkpoint as; None for the one that its keys tell.
        limits: what a `.adz` file may make of itself; None for the usual ones (`adaptzip.Limits`).

    Raises:
        CheckpointError: if the adapter is missing, unreadable or malformed.
        FormatError: if it is a damaged `.adz` file.
        RefusedError: if it is valid but not a low-rank update, or its basis is missing or another.
        UsageError: if `alpha` is given although there is a configuration, or if there is no such dialect.

    Example:
        >>> adapter = adaptzip.read("my-adapter")
        >>> adapter.meta.dialect, adapter.modules["bert.encoder.layer.0.attention.self.query"].rank
        ('peft', 3)
        >>> sorted(adapter.extras)
        ['base_model.model.classifier.bias', 'base_model.model.classifier.weight']
    """
    with readable(path):
        path = adapter_path(path)
        weights = weight_file(path)
        if is_adz(weights):
            return _read_adz(weights, alpha, base, basis, dialect)
        opened = opened_weights(weights)
        given = None if config is None else Path(config)
        adapter = understood(checkpoint_at(Path(path), weights, opened, alpha, given, base), dialect)
        if Path(path).is_dir():
            warn_of_others(Path(path), weights)
        return adapter


def adapter_from(
    source: str | Path | Adapter | Compressed,
    *,
    alpha: float | None = None,
    config: str | Path | None = None,
    base: str | Path | None = None,
    basis: str | Path | Basis | None = None,
    dialect: str | None = None,
) -> Adapter:
    """The adapter that a path, a compressed adapter or an adapter in memory, whose effects are resolved, stands for.

    Args:
        alpha, config, base, basis, dialect: as for `read`.

    Raises:
        CheckpointError, FormatError, RefusedError, UsageError: as `read`.
    """
    if isinstance(source, Adapter):
        return resolved(source)
    if isinstance(source, Compressed):
        return reconstruct(source, base=base, basis=basis)
    return read(source, alpha=alpha, config=config, base=base, basis=basis, dialect=dialect)


def _read_adz(
    path: Path,
    alpha: float | None,
    base: str | Path | None,
    basis: str | Path | Basis | None,
    dialect: str | None,
) -> Adapter:
    """Decode a compressed adapter."""
    refuse_reading(path, alpha, dialect)
    return reconstruct(path, base=base, basis=basis)


def refuse_reading(path: Path, alpha: float | None, dialect: str | None) -> None:
    """Raises: UsageError: if something tells how to read a `.adz` file, which says it itself."""
    if dialect is not None:
        raise UsageError(f"`dialect='{dialect}'` was given, but {path} is a .adz file", hint="leave `dialect=` out")
    if alpha is not None:
        raise UsageError(f"`alpha=` was given, but {path} has its own scales", hint="leave `alpha=` out")
