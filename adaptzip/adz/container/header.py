"""The metadata of a `.adz` file: one canonical JSON object (formats/adz-1.md, "metadata")."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from adaptzip.adz.container.names import expand, factor, parameter_of
from adaptzip.adz.container.training import read_report, write_report
from adaptzip.core.basis import BasisReference
from adaptzip.core.compressed import Compressed, Provenance, Site
from adaptzip.core.meta import Meta
from adaptzip.errors import FormatError, RefusedError
from adaptzip.files import strict_json

FORMAT = 1
KEY = "adaptzip"
"""The one key in the safetensors metadata."""
SUPPORTED: frozenset[str] = frozenset()
"""Names that `requires` may list and this version understands."""
MAX_MODULES = 1_000_000
MAX_WIDTH = 2**31 - 1
MAX_RANK = 2**20
LAYOUTS = ("linear", "transposed", "conv", "embedding", "expert", "expert_transposed")
BLANK_HASH = "0" * 22
"""What stands for the hash while the file is hashed."""

_MOST_KERNEL = 8
_METHOD = re.compile(r"([a-z0-9][a-z0-9-]*)/([1-9][0-9]{0,8})")
_HASH = re.compile(r"[A-Za-z0-9_-]{22}")
_FACTOR_DTYPES = ("F32", "F16", "BF16")


@dataclass(frozen=True)
class Header:
    """What the metadata says.

    Attributes:
        patterns: module names as brace patterns, each with the site that its modules share.
        sites: the same, expanded and sorted by name.
        hash: digest of the whole file, with `BLANK_HASH` in its own place.
        base_model: the base model where the source's configuration does not name it.
        basis: where the frozen basis is found, or None.
        renamed: whether a lossless file calls the base model otherwise than its source did.
        dtype: safetensors' name of the dtype that the source's factors have.
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
    basis: BasisReference | None
    renamed: bool
    dtype: str


def write_metadata(compressed: Compressed, content: str) -> str:
    """The metadata of a compressed adapter: sorted keys, no spaces, defaults left out.

    Args:
        content: the file's hash, or `BLANK_HASH` while it is being computed.
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
        "base": None if _named_in_config(compressed.meta) else compressed.meta.base_model,
        "basis": _write_basis(compressed.basis),
        "config": dict(compressed.config),
        "dialect": None if compressed.meta.dialect == "peft" else compressed.meta.dialect,
        "distilled": write_report(provenance.distilled),
        "renamed": compressed.renamed,
        "dtype": None if compressed.dtype == "F32" else compressed.dtype,
        "seed": provenance.seed,
    }
    value |= {key: item for key, item in optional.items() if item}
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _named_in_config(meta: Meta) -> bool:
    # A dialect may give its fields other names than its file's text has, which is what is kept where it is there.
    config = meta.config if meta.config_text is None else json.loads(meta.config_text)
    return bool(meta.base_model == config.get("base_model_name_or_path"))


def parse_metadata(text: str) -> Header:
    """Read and check the metadata.

    Raises:
        FormatError: if it is malformed.
        RefusedError: if it needs something that this version does not have.
    """
    value = strict_json.parse(text, "metadata")
    if not isinstance(value, dict):
        raise FormatError("metadata is not a JSON object")
    _check_version(value)
    fields = _Fields(value)
    method = _METHOD.fullmatch(fields.text("method"))
    if method is None:
        raise FormatError(f"metadata: method {value['method']!r} is not NAME/VERSION")
    if not _HASH.fullmatch(fields.text("hash")):
        raise FormatError("metadata: 'hash' is not 22 characters of base64url")
    source = fields.list("source")
    if len(source) != 2 or not (_whole(source[0]) and 0 <= source[0] < 2**63) or not isinstance(source[1], str | None):
        raise FormatError("metadata: 'source' is not [bytes, hash]")
    config = fields.table("config", {})
    if not isinstance(config.get("lossless", False), bool):
        raise FormatError("metadata: 'lossless' is neither true nor false")
    patterns = tuple(_read_site(item) for item in fields.list("modules"))
    return Header(
        method=method[1],
        method_version=int(method[2]),
        config=config,
        patterns=patterns,
        sites=_sites(patterns),
        max_rank=fields.integer("max_rank", most=MAX_RANK),
        step=fields.single("step"),
        hash=fields.text("hash"),
        provenance=Provenance(
            fields.text("by"),
            source[0],
            source[1],
            fields.number("error"),
            fields.integer("parameters"),
            fields.integer("seed", default=0),
            read_report(value.get("distilled")),
        ),
        dialect=fields.text("dialect", "peft"),
        base_model=fields.text("base", "") or None,
        basis=_read_basis(value.get("basis")),
        renamed=_read_renamed(value.get("renamed", False)),
        dtype=_read_dtype(fields.text("dtype", "F32")),
    )


def _read_dtype(name: str) -> str:
    if name not in _FACTOR_DTYPES:
        raise FormatError(f"metadata: 'dtype' is {_shown(name)}, expected one of {', '.join(_FACTOR_DTYPES)}")
    return name


def _read_renamed(item: Any) -> bool:
    if not isinstance(item, bool):
        raise FormatError("metadata: 'renamed' is neither true nor false")
    return item


def _write_basis(basis: BasisReference | None) -> list[Any] | None:
    return None if basis is None else [basis.source, basis.size, basis.hash, basis.description]


def _read_basis(item: Any) -> BasisReference | None:
    match item:
        case None:
            return None
        case [("base" | "file" | "embedded") as source, size, str(found), str(description)]:
            if _whole(size) and 0 < size <= MAX_RANK and (source == "embedded" or _HASH.fullmatch(found)):
                return BasisReference(source, size, found, description)
    raise FormatError(f"metadata: 'basis' is malformed: {_shown(item)}")


def _check_version(value: Mapping[str, Any]) -> None:
    version = value.get("format")
    if not _whole(version):
        raise FormatError("metadata: 'format' is missing or of the wrong type")
    if version != FORMAT:
        raise RefusedError(f"format version {version} is not {FORMAT}", hint="install a newer adaptzip")
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

    def integer(self, key: str, *, default: int | None = None, most: int = 2**63 - 1) -> int:
        item: int = self._get(key, (int,), default)
        if not 0 <= item <= most:
            raise FormatError(f"metadata: {key!r} is out of range")
        return item

    def number(self, key: str) -> float:
        item = self._get(key, (int, float), None)
        if not 0 <= item < 2**63:
            raise FormatError(f"metadata: {key!r} is out of range")
        return float(item)

    def single(self, key: str) -> float:
        """A number that is rounded to float32."""
        return float(np.float32(self.number(key)))

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
        case [str(pattern), out, width]:
            site = Site(out, width)
        case [str(pattern), out, width, str(layout)] if layout in LAYOUTS:
            site = Site(out, width, layout)
        case [str(pattern), out, width, "conv", [*kernel]]:
            site = Site(out, width, "conv", tuple(kernel))
        case _:
            raise FormatError(f"metadata: module entry {_shown(item)} is malformed")
    if not all(_whole(size) and 0 < size <= MAX_WIDTH for size in (site.out, site.width, *site.kernel)):
        raise FormatError(f"metadata: module entry {_shown(item)} has an impossible shape")
    if len(site.kernel) > _MOST_KERNEL or site.width % math.prod(site.kernel):
        raise FormatError(f"metadata: module entry {_shown(item)} has a kernel that does not divide its width")
    return pattern, site


def _whole(item: Any) -> bool:
    return isinstance(item, int) and not isinstance(item, bool)


def _shown(item: Any) -> str:
    return repr(item)[:100]


def _sites(patterns: tuple[tuple[str, Site], ...]) -> dict[str, Site]:
    sites: dict[str, Site] = {}
    for pattern, site in patterns:
        names = expand([pattern], MAX_MODULES - len(sites))
        if any(name in sites for name in names) or len(set(names)) < len(names):
            raise FormatError(f"metadata: pattern {pattern!r} repeats a module name")
        sites |= dict.fromkeys(names, site)
    _check_experts(sites)
    return dict(sorted(sites.items()))


def _check_experts(sites: Mapping[str, Site]) -> None:
    """Every expert is the only one of its parameter and number, and no module has its parameter's name."""
    for name, site in sites.items():
        if site.layout.startswith("expert"):
            parameter = parameter_of(name)
            if parameter is None:
                raise FormatError(
                    f"metadata: expert {_shown(name)} is not named PARAMETER[NUMBER], a number below 10^6 without "
                    "leading zeros"
                )
            if parameter in sites:
                raise FormatError(f"metadata: {_shown(parameter)} is a module, and has experts as well")
