"""The metadata of a `.adz` file: one canonical JSON object (formats/adz-1.md, "metadata")."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from adaptzip.compressed import Compressed, Provenance, Site
from adaptzip.container.names import expand, factor
from adaptzip.errors import FormatError, RefusedError

FORMAT = 1
KEY = "adaptzip"
"""The one key in the safetensors metadata."""
SUPPORTED: frozenset[str] = frozenset()
"""Names that `requires` may list and this version understands."""
MAX_MODULES = 1_000_000
MAX_WIDTH = 2**31 - 1
LAYOUTS = ("linear", "transposed", "conv", "embedding", "expert", "expert_transposed")


@dataclass(frozen=True)
class Header:
    """What the metadata says.

    Attributes:
        patterns: module names as brace patterns, each with the site that its modules share.
        sites: the same, expanded and sorted by name.
        hash: digest of all streams in a row.
        base_model: the base model where the source's configuration does not name it.
    """

    method: str
    method_version: int
    config: Mapping[str, Any]
    patterns: tuple[tuple[str, Site], ...]
    sites: Mapping[str, Site]
    max_rank: int
    step: float
    hash: str
    provenance: Provenance
    dialect: str
    base_model: str | None


def write_metadata(compressed: Compressed, content: str) -> str:
    """The metadata of a compressed adapter: sorted keys, no spaces, defaults left out.

    Args:
        content: digest of all streams in a row.
    """
    provenance = compressed.provenance
    value: dict[str, Any] = {
        "by": provenance.made_by,
        "error": provenance.relative_error,
        "format": FORMAT,
        "hash": content,
        "max_rank": compressed.max_rank,
        "method": f"{compressed.method}/{compressed.method_version}",
        "modules": [_write_site(pattern, site) for pattern, site in _patterns(compressed.sites)],
        "parameters": provenance.parameters,
        "source": [provenance.source_bytes, provenance.source_hash],
        "step": float(str(np.float32(compressed.step))),
    }
    optional = {
        "base": None if _named_in_config(compressed) else compressed.base_model,
        "config": dict(compressed.config),
        "dialect": None if compressed.dialect == "peft" else compressed.dialect,
        "seed": provenance.seed,
    }
    value |= {key: item for key, item in optional.items() if item}
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _named_in_config(compressed: Compressed) -> bool:
    return compressed.base_model == compressed.meta_config.get("base_model_name_or_path")


def parse_metadata(text: str) -> Header:
    """Read and check the metadata.

    Raises:
        FormatError: if it is malformed.
        RefusedError: if it needs something that this version does not have.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"metadata is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise FormatError("metadata is not a JSON object")
    _check_version(value)
    fields = _Fields(value)
    method, _, version = fields.text("method").partition("/")
    if not method or not version.isdecimal():
        raise FormatError(f"metadata: method {value['method']!r} is not NAME/VERSION")
    source = fields.list("source")
    if len(source) != 2 or not isinstance(source[0], int) or not isinstance(source[1], str | None):
        raise FormatError("metadata: 'source' is not [bytes, hash]")
    patterns = tuple(_read_site(item) for item in fields.list("modules"))
    return Header(
        method=method,
        method_version=int(version),
        config=fields.table("config", {}),
        patterns=patterns,
        sites=_sites(patterns),
        max_rank=fields.integer("max_rank"),
        step=float(np.float32(fields.number("step"))),
        hash=fields.text("hash"),
        provenance=Provenance(
            fields.text("by"),
            source[0],
            source[1],
            fields.number("error"),
            fields.integer("parameters"),
            fields.integer("seed", 0),
        ),
        dialect=fields.text("dialect", "peft"),
        base_model=fields.text("base", "") or None,
    )


def _check_version(value: Mapping[str, Any]) -> None:
    if value.get("format") != FORMAT:
        raise RefusedError(f"format version {value.get('format')!r} is not {FORMAT}", hint="install a newer adaptzip")
    requires = value.get("requires", [])
    unknown = sorted(set(map(str, requires)) - SUPPORTED) if isinstance(requires, list) else [str(requires)]
    if unknown:
        raise RefusedError(
            f"the file requires {', '.join(unknown)}, which this version lacks",
            hint="install a newer adaptzip",
        )


@dataclass(frozen=True)
class _Fields:
    """Typed access to the metadata object."""

    value: Mapping[str, Any]

    def _get(self, key: str, kinds: tuple[type, ...], default: Any) -> Any:
        item = self.value.get(key, default)
        if not isinstance(item, kinds) or isinstance(item, bool):
            raise FormatError(f"metadata: {key!r} is missing or of the wrong type")
        return item

    def text(self, key: str, default: str | None = None) -> str:
        return str(self._get(key, (str,), default))

    def integer(self, key: str, default: int | None = None) -> int:
        item: int = self._get(key, (int,), default)
        if not 0 <= item < 2**63:
            raise FormatError(f"metadata: {key!r} is out of range")
        return item

    def number(self, key: str) -> float:
        item = float(self._get(key, (int, float), None))
        if not (math.isfinite(item) and item >= 0):
            raise FormatError(f"metadata: {key!r} is out of range")
        return item

    def list(self, key: str) -> list[Any]:
        items: list[Any] = self._get(key, (list,), None)
        return items

    def table(self, key: str, default: dict[str, Any] | None = None) -> dict[str, Any]:
        items: dict[str, Any] = self._get(key, (dict,), default)
        return items


def _patterns(sites: Mapping[str, Site]) -> list[tuple[str, Site]]:
    names: dict[Site, list[str]] = {}
    for name, site in sites.items():
        names.setdefault(site, []).append(name)
    return [(pattern, site) for site, group in names.items() for pattern in factor(group)]


def _write_site(pattern: str, site: Site) -> list[Any]:
    item: list[Any] = [pattern, site.out, site.width]
    if site.layout != "linear":
        item.append(site.layout)
    if site.kernel:
        item.append(list(site.kernel))
    return item


def _read_site(item: Any) -> tuple[str, Site]:
    match item:
        case [str(pattern), int(out), int(width)]:
            site = Site(out, width)
        case [str(pattern), int(out), int(width), str(layout)] if layout in LAYOUTS:
            site = Site(out, width, layout)
        case [str(pattern), int(out), int(width), str(layout), [*kernel]] if layout in LAYOUTS:
            site = Site(out, width, layout, _kernel(kernel, width))
        case _:
            raise FormatError(f"metadata: module entry {item!r} is malformed")
    if not (0 < site.out <= MAX_WIDTH and 0 < site.width <= MAX_WIDTH):
        raise FormatError(f"metadata: module entry {item!r} has an impossible shape")
    return pattern, site


def _kernel(sizes: list[Any], width: int) -> tuple[int, ...]:
    if not all(isinstance(size, int) and size > 0 for size in sizes) or width % max(1, math.prod(sizes)):
        raise FormatError(f"metadata: kernel {sizes!r} does not divide the input width {width}")
    return tuple(sizes)


def _sites(patterns: tuple[tuple[str, Site], ...]) -> dict[str, Site]:
    sites: dict[str, Site] = {}
    for pattern, site in patterns:
        names = expand([pattern], MAX_MODULES - len(sites))
        if any(name in sites for name in names) or len(set(names)) < len(names):
            raise FormatError(f"metadata: pattern {pattern!r} repeats a module name")
        sites |= dict.fromkeys(names, site)
    return dict(sorted(sites.items()))
