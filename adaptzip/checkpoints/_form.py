"""What every dialect says of itself and hands back, checked for those of other packages, which no type checker saw."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from numbers import Real

from torch import Tensor

from adaptzip.checkpoints._base import Checkpoint, Dialect, Files, Reader, Signature
from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.core.effects import Effects
from adaptzip.errors import UsageError
from adaptzip.files.names import is_file_name

_SOMEBODY_ELSES = "a-file-of-somebody-else"


def fault(dialect: Dialect) -> str | None:
    """What is wrong with what a dialect says of itself, or None."""
    title = getattr(dialect, "title", None)
    if not isinstance(title, str) or not title.strip():
        return f"has the title {title!r}, expected what messages call it"
    return _fault_of_files(dialect.files) or _fault_of_signature(dialect.signature)


def sureness(reader: Reader, source: Checkpoint) -> float:
    """How sure a dialect is of a checkpoint, from 0 to 1.

    Raises:
        UsageError: if it says anything else.
    """
    told = reader.sniff(source)
    if not isinstance(told, Real) or not 0 <= float(told) <= 1:
        raise _astray(reader, f"is {told!r} sure of {source.weights}, expected a number from 0 to 1")
    return float(told)


def read_by(reader: Reader, source: Checkpoint) -> Adapter:
    """What a dialect reads of a checkpoint that is its own, with its effects.

    Raises:
        CheckpointError, RefusedError: as `Reader.read`.
        UsageError: if it gives no adapter, or one that it does not call its own.
    """
    found = reader.read(source)
    wrong = _fault_of_adapter(found)
    if wrong is not None:
        raise _astray(reader, f"makes of {source.weights} {wrong}")
    if found.meta.dialect != reader.name:
        raise _astray(reader, f"calls what it reads of {source.weights} {found.meta.dialect!r}, expected its own name")
    return with_effects(reader, found)


def with_effects(dialect: Dialect, adapter: Adapter) -> Adapter:
    """An adapter with what its dialect tells of all of its extras.

    Raises:
        CheckpointError: as `Dialect.effects`.
        UsageError: if the dialect does not tell what each of them does.
    """
    told = dialect.effects(adapter)
    if not isinstance(told, Effects):
        raise _astray(dialect, f"tells effects of type {type(told).__name__}, expected Effects")
    untold = sorted(adapter.extras.keys() - told.extras.keys())
    if untold:
        raise _astray(dialect, f"does not tell what the extra {untold[0]} does")
    return replace(adapter, effects=told)


def _astray(dialect: Dialect, what: str) -> UsageError:
    return UsageError(
        f"dialect {dialect.name!r} of {type(dialect).__module__} {what}",
        hint="mend the package that brings it, or uninstall it",
    )


def _fault_of_adapter(found: object) -> str | None:
    if not isinstance(found, Adapter):
        return f"a {type(found).__name__}, expected an Adapter"
    if not isinstance(found.modules, Mapping) or not isinstance(found.extras, Mapping):
        return "an adapter whose modules or extras are no mapping"
    for name, module in found.modules.items():
        if not isinstance(name, str) or not isinstance(module, LoraFactors):
            return f"a module {name!r} of type {type(module).__name__}, expected LoraFactors by name"
        if not (module.A.is_floating_point() and module.B.is_floating_point()):
            return f"the module {name!r} with whole numbers in its factors, expected floats"
    for key, tensor in found.extras.items():
        if not isinstance(key, str) or not isinstance(tensor, Tensor):
            return f"an extra {key!r} of type {type(tensor).__name__}, expected tensors by key"
    return None


def _fault_of_files(files: object) -> str | None:
    if not isinstance(files, Files):
        return f"has files of type {type(files).__name__}, expected Files"
    if not isinstance(files.weights, tuple) or not isinstance(files.written, tuple):
        return "has names of files that are no tuple"
    for name in (*files.weights, *files.written, *([] if files.config is None else [files.config])):
        if not is_file_name(name):
            return f"has the file {name!r}, expected a name without folders in it"
    if files.owns(_SOMEBODY_ELSES):
        return f"says that it writes files of any name: {', '.join(files.written)}"
    return None


def _fault_of_signature(signature: object) -> str | None:
    if not isinstance(signature, tuple) or not all(isinstance(own, Signature) for own in signature):
        return "has a signature that is no tuple of Signature"
    for own in signature:
        try:
            re.compile(own.pattern)
        except (re.error, TypeError) as error:
            return f"has the signature {own.pattern!r}, which is no regular expression: {error}"
    return None
