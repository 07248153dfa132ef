"""The metadata of a `.adz` file: one JSON object on one line (formats/adz-1.md, section 2.3)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from adaptzip.adz.container.adapter_config import read_config, write_config
from adaptzip.adz.container.extras import read_extras, write_extras
from adaptzip.adz.container.frames import read_basis, write_basis
from adaptzip.adz.container.modules import expand_modules, read_modules, write_modules
from adaptzip.core.basis import BasisReference
from adaptzip.core.compressed import Compressed, ExtraEntry, Site
from adaptzip.core.limits import WHOLE, Room
from adaptzip.core.meta import Meta
from adaptzip.errors import FormatError, RefusedError
from adaptzip.files import strict_json

SUPPORTED: frozenset[str] = frozenset()
"""Names that `requires` may list and this version understands."""
_METHOD = re.compile(r"([a-z0-9][a-z0-9-]*)/([1-9][0-9]{0,8})")
_USUAL = "svd/1"
_FACTOR_DTYPES = ("F32", "F16", "BF16")


@dataclass(frozen=True)
class Metadata:
    """What the metadata says.

    Attributes:
        method, method_version, config: what made the file, and its options.
        patterns: module names as brace patterns, each with the site that its modules share.
        sites: the same, expanded and sorted by name.
        made_by: program and version.
        dialect: the kind of checkpoint that the source was.
        base_model: the base model where the source's configuration does not name it.
        basis: where the frozen basis or the frame is found, or None; without a start's offsets.
        renamed: whether a lossless file calls the base model otherwise than its source did.
        dtype: safetensors' name of the dtype that the source's factors have.
        adapter: the source's configuration, where it is not kept as text.
        extras: the packed extras, in the order of their payload.
    """

    method: str
    method_version: int
    config: Mapping[str, Any]
    patterns: tuple[tuple[str, Site], ...]
    sites: Mapping[str, Site]
    made_by: str
    dialect: str
    base_model: str | None
    basis: BasisReference | None
    renamed: bool
    dtype: str
    adapter: Mapping[str, Any]
    extras: tuple[ExtraEntry, ...]


def write_metadata(compressed: Compressed) -> str:
    """The metadata of a compressed adapter: no spaces, defaults left out, in the order of the deflate dictionary."""
    meta = compressed.meta
    method = f"{compressed.method}/{compressed.method_version}"
    adapter = write_config(meta.config) if meta.config_text is None and meta.config else None
    parts: dict[str, Any] = {
        "method": None if method == _USUAL else method,
        "config": dict(compressed.config),
        "basis": write_basis(compressed.basis),
        "dialect": None if meta.dialect == "peft" else meta.dialect,
        "dtype": None if compressed.dtype == "F32" else compressed.dtype,
        "renamed": compressed.renamed,
        "base": None if _named_in_config(meta) else meta.base_model,
        "modules": write_modules(compressed.sites),
        "extras": write_extras(compressed.extras.entries),
    }
    told = {key: _text(item) for key, item in parts.items() if item or key == "modules"}
    if adapter is not None:
        told["adapter"] = adapter
    told["by"] = _text(compressed.provenance.made_by)
    return "{" + ",".join(f'"{key}":{item}' for key, item in told.items()) + "}"


def _text(item: Any) -> str:
    return json.dumps(item, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _named_in_config(meta: Meta) -> bool:
    # A dialect may give its fields other names than its file's text has, which is what is kept where it is there.
    config = meta.config if meta.config_text is None else json.loads(meta.config_text)
    return bool(meta.base_model == config.get("base_model_name_or_path"))


def parse_metadata(text: str | bytes, basis_hash: str = "", room: Room = WHOLE) -> Metadata:
    """Read and check the metadata.

    Args:
        basis_hash: what the head has as the hash of the basis.
        room: what the file may hold.

    Raises:
        FormatError: if it is malformed.
        RefusedError: if it needs something that this version does not have, or holds more than there is room for.
    """
    value = strict_json.parse(text, "metadata")
    if not isinstance(value, dict):
        raise FormatError("metadata is not a JSON object")
    _check_requirements(value.get("requires", []))
    fields = _Fields(value)
    method = _METHOD.fullmatch(fields.text("method", _USUAL))
    if method is None:
        raise FormatError(f"metadata: method {_shown(value['method'])} is not NAME/VERSION")
    config = fields.table("config")
    if not isinstance(config.get("lossless", False), bool):
        raise FormatError("metadata: 'lossless' is neither true nor false")
    renamed = value.get("renamed", False)
    if not isinstance(renamed, bool):
        raise FormatError("metadata: 'renamed' is neither true nor false")
    dtype = fields.text("dtype", "F32")
    if dtype not in _FACTOR_DTYPES:
        raise FormatError(f"metadata: 'dtype' is {_shown(dtype)}, expected one of {', '.join(_FACTOR_DTYPES)}")
    patterns = read_modules(fields.list("modules"))
    return Metadata(
        method=method[1],
        method_version=int(method[2]),
        config=config,
        patterns=patterns,
        sites=expand_modules(patterns, room),
        made_by=fields.text("by"),
        dialect=fields.text("dialect", "peft"),
        base_model=fields.text("base", "") or None,
        basis=read_basis(value.get("basis"), basis_hash),
        renamed=renamed,
        dtype=dtype,
        adapter=read_config(value["adapter"]) if "adapter" in value else {},
        extras=read_extras(fields.list("extras", []), room),
    )


def _check_requirements(requires: Any) -> None:
    unknown = sorted(set(map(str, requires)) - SUPPORTED) if isinstance(requires, list) else [str(requires)]
    if unknown:
        raise RefusedError(
            f"the file requires {', '.join(unknown)[:100]}, which this version lacks",
            hint="install a newer adaptzip",
        )


@dataclass(frozen=True)
class _Fields:
    """Typed access to the metadata object."""

    value: Mapping[str, Any]

    def _get(self, key: str, kind: type, default: Any) -> Any:
        item = self.value.get(key, default)
        if not isinstance(item, kind):
            raise FormatError(f"metadata: {key!r} is missing or of the wrong type")
        return item

    def text(self, key: str, default: str | None = None) -> str:
        return str(self._get(key, str, default))

    def list(self, key: str, default: list[Any] | None = None) -> list[Any]:
        items: list[Any] = self._get(key, list, default)
        return items

    def table(self, key: str) -> dict[str, Any]:
        items: dict[str, Any] = self._get(key, dict, {})
        return items


def _shown(item: Any) -> str:
    return repr(item)[:100]
