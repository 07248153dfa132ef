"""Make must-reject/: invalid files, each broken in one way, and the error that each must raise.

usage: python -m formats.make_must_reject

Every file is a golden one with one change. Unless the hash is what is wrong, it is right, so that a reader gets as far
as the fault.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zstandard
from constriction import stream

from adaptzip.adz.coding import entropy
from adaptzip.adz.coding.levels import Levels
from adaptzip.adz.coding.packing import pack_factors, pack_tensors
from adaptzip.adz.coding.tables import NOTHING, Class
from adaptzip.adz.coding.trellis import Quantised
from adaptzip.core.adapter import LoraFactors
from formats.taken_apart import USUAL, File, index, leb128, sha, single

HERE = Path(__file__).resolve().parent
FOLDER = HERE / "must-reject"

Case = tuple[str, str, str, bytes]
"""Name, error, reason, content."""
BROKEN, REFUSED = "FormatError", "RefusedError"


def cases() -> Iterator[Case]:
    """Every file."""
    lossy, lossless = File.open("layouts"), File.open("lossless")
    for make in (_frames, _hashes, _headers, _numbers, _metadata, _modules, _tables, _index, _extras, _blocks, _planes):
        yield from make(lossy)
    yield from _pieces(File.open("pieces"))
    yield from _configurations(lossy, File.open("odd-configuration"))
    yield from _groups(File.open("default"), lossless)
    yield from _lossless(lossless)
    yield from _gains(File.open("gains"))
    yield from _reports(File.open("distilled"))
    yield from _starts(File.open("gains"))
    yield from _made_again(File.open("start-uniform"))
    yield from _moved(File.open("start-lossless"))
    yield from _cores(File.open("lora-sb-embedded"), lossy)
    yield from _banks(File.open("vblora-k2"))
    yield from _trains(File.open("loretta-delta"))
    yield from _functions(File.open("loretta-adp"))


def _frames(file: File) -> Iterator[Case]:
    data, head = file.build(), file.head()
    length = int.from_bytes(data[:8], "little")
    yield "empty", BROKEN, "no bytes at all", b""
    yield "stub", BROKEN, "shorter than the header's length", data[:5]
    yield "length-alone", BROKEN, "a header's length and no header", data[:8]
    yield "truncated", BROKEN, "its last ten bytes are missing", data[:-10]
    yield "truncated-header", BROKEN, "ends within its header", data[: length // 2]
    yield "truncated-head", BROKEN, "ends within its head", data[: 8 + length + 30]
    yield "appended", BROKEN, "has bytes after its tensor", data + b"more"
    yield "header-huge", BROKEN, "announces a header of 2^62 bytes", (2**62).to_bytes(8, "little") + data[8:]
    yield "header-long", BROKEN, "announces a header longer than the file", len(data).to_bytes(8, "little") + data[8:]
    yield "header-wide", BROKEN, "its header is longer than 2^16 bytes", file.build(header=USUAL + " " * 2**16)
    yield "header-empty", BROKEN, "has a header of no bytes", bytes(8) + data[8 + length :]
    yield "pointer", BROKEN, "is a pointer to a file elsewhere", b"version https://git-lfs.github.com/spec/v1\n"
    yield "safetensors", BROKEN, "is another safetensors file", b"\x02" + bytes(7) + b"{}"
    yield "tensor-empty", BROKEN, "its tensor holds nothing", _framed(b"")
    yield "tensor-version", BROKEN, "its tensor holds a version alone", _framed(b"\1")
    yield "tensor-hash", BROKEN, "its tensor ends within the hash", _framed(b"\1" + bytes(9))
    yield "head-absent", BROKEN, "its tensor ends after the hash", _framed(b"\1" + bytes(16))
    yield "head-long", BROKEN, "its head is longer than the file", file.build(length=leb128([len(data)]))
    yield "head-huge", BROKEN, "its head is longer than 2^24 bytes", file.build(length=leb128([2**24 + 1]))
    yield "head-endless", BROKEN, "the head's length has no end", file.build(length=b"\xff" * 9)
    yield "head-padded", BROKEN, "the head's length is longer than it need be", file.build(length=_padded(len(head)))
    yield "head-empty", BROKEN, "a head of no bytes", file.build(b"")
    yield "head-short", BROKEN, "a head that lacks a byte", file.build(head[:-1], head[-1:] + file.payload())
    yield "head-alone", BROKEN, "nothing but a head", file.build(payload=b"")
    yield "version-0", REFUSED, "is of version 0", file.build(version=0)
    yield "version-2", REFUSED, "is of version 2", file.build(version=2)


def _framed(data: bytes) -> bytes:
    """A safetensors file with these bytes as its tensor."""
    header = USUAL.replace("SIZE", str(len(data))).encode()
    return len(header).to_bytes(8, "little") + header + data


def _padded(number: int) -> bytes:
    """A number with a byte that it does not need."""
    plain = leb128([number])
    return plain[:-1] + bytes([plain[-1] | 128, 0])


def _hashes(file: File) -> Iterator[Case]:
    data = file.build()
    start = 8 + int.from_bytes(data[:8], "little")

    def flipped(place: int) -> bytes:
        return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]

    yield "hash-payload", BROKEN, "a bit of its last extra is flipped", flipped(len(data) - 1)
    yield "hash-step", BROKEN, "a bit of its step is flipped", flipped(start + 21)
    yield "hash-own", BROKEN, "a bit of its hash is flipped", flipped(start + 1)
    longer = (start - 7).to_bytes(8, "little")
    yield "hash-header", BROKEN, "a space was put behind its header", longer + data[8:start] + b" " + data[start:]


def _pieces(file: File) -> Iterator[Case]:
    """A payload of two pieces, each with a hash."""
    data, payload = file.build(), file.payload()
    pieces = [payload[: 2**17], payload[2**17 :]]
    hashes = b"".join(map(sha, pieces))

    def flipped(place: int) -> bytes:
        return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]

    first = len(data) - len(payload)
    yield "piece-first", BROKEN, "a bit of its first piece is flipped", flipped(first + 99)
    yield "piece-last", BROKEN, "a bit of its last piece is flipped", flipped(len(data) - 1)
    yield "piece-hash", BROKEN, "the hash of a piece is wrong", file.build(hashes=hashes[:-1] + b"?")
    yield (
        "piece-hashes-swapped",
        BROKEN,
        "the hashes of pieces are swapped",
        file.build(hashes=hashes[16:] + hashes[:16]),
    )
    yield "piece-hashes-few", BROKEN, "the hash of a piece is missing", file.build(hashes=hashes[:16])
    yield "piece-hashes-none", BROKEN, "the hashes of pieces are missing", file.build(hashes=b"")
    yield "piece-hashes-many", BROKEN, "there is a hash too many", file.build(hashes=hashes + sha(b""))
    small = replace(file, packed=b"").with_metadata(extras=[])
    yield "piece-needless", BROKEN, "the only piece has a hash", small.build(hashes=sha(small.payload()))
    edge = replace(file, packed=b"")
    spare = 2**17 - len(edge.payload())
    body = struct.pack("<BQ", 0, spare - 9) + bytes(spare - 9)
    named = replace(edge, packed=body).with_metadata(extras=[["filler", [spare - 9], "U8"]])
    yield "piece-whole", BROKEN, "a payload of one whole piece has a hash", named.build(hashes=sha(named.payload()))


def _headers(file: File) -> Iterator[Case]:
    def headed(header: str) -> bytes:
        return file.build(header=header)

    entry = USUAL.removeprefix('{"adz":').removesuffix("}")
    yield "header-no-json", BROKEN, "its header is not JSON", headed("{" + USUAL)
    yield "header-utf16", BROKEN, "its header is UTF-16", _utf16(file.build())
    yield "header-repeated", BROKEN, "names its tensor twice", headed(USUAL[:-1] + ',"adz":' + entry + "}")
    yield "header-deep", BROKEN, "its header is nested too deeply", headed('{"__metadata__":' + "[" * 50000)
    yield "tensor-absent", BROKEN, "has no tensor", headed("{}")
    yield "tensor-other", BROKEN, "its tensor has another name", headed(USUAL.replace("adz", "tables"))
    yield (
        "tensor-second",
        BROKEN,
        "has a second tensor",
        headed(USUAL[:-1] + ',"x":' + entry.replace("SIZE", "0") + "}"),
    )
    yield "tensor-f32", BROKEN, "its tensor is not U8", headed(USUAL.replace("U8", "F32"))
    yield "tensor-2d", BROKEN, "its tensor has two dimensions", headed(USUAL.replace("[SIZE]", "[1,SIZE]"))
    yield "tensor-wrong-size", BROKEN, "its tensor's shape is wrong", headed(USUAL.replace("[SIZE]", "[1]"))
    yield "tensor-extra-key", BROKEN, "its tensor has an unknown key", headed(USUAL[:-2] + ',"more":1}}')
    yield "tensor-bool", BROKEN, "an offset is a truth value", headed(USUAL.replace("[0,", "[false,"))
    yield "tensor-negative", BROKEN, "an offset is negative", headed(USUAL.replace("[0,", "[-1,"))
    yield "tensor-hole", BROKEN, "bytes lie before its tensor", headed(USUAL.replace("[0,", "[9,"))
    yield "tensor-outside", BROKEN, "its tensor ends outside", headed(USUAL.replace("SIZE", str(2**60)))
    yield "tensor-short", BROKEN, "its tensor ends before the file", headed(USUAL.replace("SIZE", "9"))
    yield "tensor-list", BROKEN, "its tensor is a list", headed('{"adz":[SIZE]}')


def _utf16(data: bytes) -> bytes:
    length = int.from_bytes(data[:8], "little")
    start = data[8 : 8 + length].decode().encode("utf-16-le")
    return len(start).to_bytes(8, "little") + start + data[8 + length :]


def _numbers(file: File) -> Iterator[Case]:
    def with_number(**changes: bytes) -> bytes:
        return file.with_numbers(**changes).build()

    head = file.head()
    yield (
        "flags-unknown",
        REFUSED,
        "its head has a part that no reader knows",
        file.build(leb128([head[0] | 256]) + head[1:]),
    )
    yield "flags-endless", BROKEN, "its flags have no end", file.build(b"\xff" * 12 + head[1:])
    yield "flags-shared", BROKEN, "a shared block that is not there", file.build(file.head(flags=head[0] | 64))
    yield "step-nan", BROKEN, "its step is NaN", with_number(step=single(math.nan))
    yield "step-infinite", BROKEN, "its step is infinite", with_number(step=single(math.inf))
    yield "step-huge", BROKEN, "its step is 2^63", with_number(step=single(2.0**63))
    yield "step-negative", BROKEN, "its step is negative", with_number(step=single(-1.0))
    yield "error-nan", BROKEN, "its error is NaN", with_number(error=b"\x1f" + struct.pack("<d", math.nan))
    yield "error-negative", BROKEN, "its error is negative", with_number(error=b"\x1f" + struct.pack("<d", -0.5))
    yield "error-huge", BROKEN, "its error is 2^63", with_number(error=b"\x1f" + struct.pack("<d", 2.0**63))
    yield "error-code", BROKEN, "its error has digits and is a float64", with_number(error=b"\x3f" + bytes(8))
    yield "error-digits", BROKEN, "its error has more digits than there may be", with_number(error=leb128([2**47]))
    yield "error-padded", BROKEN, "its error is longer than it need be", with_number(error=b"\x80\0")
    yield "rank-huge", BROKEN, "its largest rank is beyond the limit", with_number(max_rank=leb128([2**20 + 1]))
    yield "parameters-huge", BROKEN, "its parameters are 2^63", with_number(parameters=leb128([2**63]))
    yield "parameters-endless", BROKEN, "its parameters have no end", with_number(parameters=b"\x80" * 400)
    yield "seed-huge", BROKEN, "its seed is 2^63", with_number(seed=leb128([2**63]))
    yield "source-huge", BROKEN, "its source has 2^63 bytes", with_number(size=leb128([2**63]))
    yield "head-number", BROKEN, "its head ends within a number", file.build(head[:6])


def _metadata(file: File) -> Iterator[Case]:
    def changed(**changes: Any) -> bytes:
        return file.with_metadata(**changes).build()

    def texted(text: str | bytes) -> bytes:
        return file.build(file.head(texts=file.texts(text)))

    plain = json.dumps(dict(file.metadata))
    yield "requires-unknown", REFUSED, "requires what no reader has", changed(requires=["time-travel"])
    yield "requires-text", REFUSED, "its requirements are no list", changed(requires="time-travel")
    yield "method-unknown", REFUSED, "its method is unknown", changed(method="no-such-method/1")
    yield "method-newer", REFUSED, "its method is of a newer version", changed(method="svd/999")
    yield "method-zero", BROKEN, "its method's version is 0", changed(method="svd/0")
    yield "method-bare", BROKEN, "its method has no version", changed(method="svd")
    yield "method-null", BROKEN, "its method is null", changed(method=None)
    yield "option-unknown", REFUSED, "has an unknown option", changed(config={"colour": "blue"})
    yield "options-list", BROKEN, "its options are a list", changed(config=[])
    yield "lossless-text", BROKEN, "'lossless' is no truth value", changed(config={"lossless": "no"})
    yield "dtype-unknown", BROKEN, "its factors had a dtype of four bits", changed(dtype="F4")
    yield "dtype-whole", BROKEN, "its factors were whole numbers", changed(dtype="I8")
    yield "dtype-list", BROKEN, "its factors' dtype is a list", changed(dtype=["BF16"])
    yield "by-absent", BROKEN, "does not say what made it", changed(by=...)
    yield "by-number", BROKEN, "was made by a number", changed(by=1)
    yield "renamed-number", BROKEN, "'renamed' is no truth value", changed(renamed=1)
    yield "metadata-empty", BROKEN, "its metadata is empty", texted("")
    yield "metadata-list", BROKEN, "its metadata is a list", texted("[]")
    yield "metadata-number", BROKEN, "its metadata is a number", texted("1")
    yield "metadata-repeated", BROKEN, "its metadata repeats a key", texted(plain.replace('"by"', '"by": "", "by"'))
    yield "metadata-nan", BROKEN, "its metadata holds NaN", texted(plain.replace("{", '{"x": NaN, ', 1))
    yield "metadata-deep", BROKEN, "its metadata is nested too deeply", texted("[" * 5000)
    yield (
        "metadata-surrogate",
        BROKEN,
        "a name holds half a character",
        texted(plain.replace('"by": "', '"by": "\\ud800')),
    )
    yield "metadata-utf16", BROKEN, "its metadata is UTF-16", texted(plain.encode("utf-16-le"))
    yield "metadata-lines", BROKEN, "its metadata takes two lines", texted(plain.replace(", ", ",\n", 1))
    yield "metadata-long", BROKEN, "its metadata has more than 2^24 bytes", texted(plain + " " * 2**24)


def _configurations(file: File, kept: File) -> Iterator[Case]:
    def adapter(*item: Any) -> bytes:
        return file.with_metadata(adapter=list(item)).build()

    yield "adapter-object", BROKEN, "a configuration is no list", file.with_metadata(adapter={}).build()
    yield "adapter-empty", BROKEN, "a configuration is an empty list", adapter()
    yield "adapter-number", BROKEN, "a configuration of unknown defaults", adapter(99, {})
    yield "adapter-negative", BROKEN, "a configuration of defaults -1", adapter(-1, {})
    yield "adapter-true", BROKEN, "a configuration whose defaults are a truth value", adapter(True, {})
    yield "adapter-list", BROKEN, "a configuration's fields are a list", adapter(1, [])
    yield "adapter-absent", BROKEN, "a configuration lacks what no defaults have", adapter(1, {}, "colour")
    yield "adapter-nothing", BROKEN, "a configuration without defaults lacks a field", adapter(0, {}, "r")
    yield "adapter-both", BROKEN, "a field is absent and there", adapter(1, {"r": 4}, "r")
    yield "adapter-odd", BROKEN, "a list is absent", adapter(1, {}, ["r"])
    twice = kept.with_metadata(adapter=[1, {}])
    yield "config-twice", BROKEN, "the configuration is there twice", twice.build()
    yield "config-list", BROKEN, "the configuration is a list", replace(kept, config=b"[]").build()
    yield "config-broken", BROKEN, "the configuration is not JSON", replace(kept, config=b'{"r":').build()
    yield "config-utf16", BROKEN, "the configuration is UTF-16", replace(kept, config="{}".encode("utf-16")).build()
    long = replace(kept, config=b"{" + b" " * 2**24 + b"}")
    yield "config-long", BROKEN, "the configuration has more than 2^24 bytes", long.build()


def _modules(file: File) -> Iterator[Case]:
    def listed(*entries: Any) -> bytes:
        return file.with_metadata(modules=list(entries)).build()

    first, *rest = file.metadata["modules"]
    yield "pattern-bomb", BROKEN, "a pattern stands for 10^18 names", listed(["{0-999999}" * 3, 8, 8])
    yield "pattern-range", BROKEN, "a range has 10^17 numbers", listed(["{0-99999999999999999}", 8, 8])
    yield "pattern-ranges", BROKEN, "ranges add up to too many", listed(["{" + ",".join(["0-999999"] * 99) + "}", 8, 8])
    yield "pattern-long", BROKEN, "names are too long together", listed(["x" * 9999 + "{0-9999}", 8, 8])
    yield "pattern-open", BROKEN, "a brace is not closed", listed(["a{b", 8, 8])
    yield "pattern-close", BROKEN, "a brace is not opened", listed(["a}b", 8, 8])
    yield "pattern-nested", BROKEN, "braces are nested", listed(["a{b{c}}", 8, 8])
    yield "pattern-empty", BROKEN, "an alternative is empty", listed(["a{b,}", 8, 8])
    yield "pattern-backslash", BROKEN, "ends in a lone backslash", listed(["a\\", 8, 8])
    yield "pattern-backwards", BROKEN, "a range runs backwards", listed(["{3-2}", 8, 8])
    yield "module-repeated", BROKEN, "a module is named twice", listed(first, first, *rest)
    yield "module-within", BROKEN, "a pattern names a module twice", listed(["{a,a}", 8, 8])
    yield "module-flat", BROKEN, "a module has no rows", listed([first[0], 0, 8], *rest)
    yield "module-negative", BROKEN, "a module has negative rows", listed([first[0], -8, 8], *rest)
    yield "module-true", BROKEN, "a module's rows are a truth value", listed([first[0], True, 8], *rest)
    yield "module-huge", BROKEN, "a module is too wide", listed([first[0], 2**31, 8], *rest)
    yield "module-layout", BROKEN, "a layout is unknown", listed([first[0], 8, 8, "diagonal"], *rest)
    yield "module-kernel", BROKEN, "a kernel does not divide its width", listed([first[0], 8, 27, "conv", [2]], *rest)
    yield "module-linear", BROKEN, "a linear module has a kernel", listed([first[0], 8, 8, "linear", [2]], *rest)
    yield "module-short", BROKEN, "a module has no shape", listed([first[0]], *rest)
    expert, shape = "experts.w", (8, 12, "expert")
    for name, bracket in (
        ("zeros", "[00]"),
        ("digits", "[\u0661]"),
        ("huge", "[1000000]"),
        ("bare", ""),
        ("open", "[1"),
    ):
        yield f"expert-{name}", BROKEN, "an expert has no proper number", listed([expert + bracket, *shape], *rest)
    yield "expert-alone", BROKEN, "an expert has no parameter", listed(["[1]", *shape], *rest)
    yield "expert-module", BROKEN, "an expert's parameter is a module", listed(["a.w", 8, 8], ["a.w[0]", *shape])
    yield "module-missing", BROKEN, "the index has more modules", listed(*rest)


def _tables(file: File) -> Iterator[Case]:
    def raw(data: bytes) -> bytes:
        return file.build(file.head(deflated=data))

    def plain(texts: bytes) -> bytes:
        return file.build(file.head(texts=texts))

    texts = file.texts()
    yield "texts-damaged", BROKEN, "the texts are not deflated", raw(b"\xff\xff\xff\xff")
    yield "texts-short", BROKEN, "the deflated texts are cut off", file.build(file.head(index=b"")[:-5])
    yield "texts-absent", BROKEN, "there are no texts", file.build(file.head(deflated=b"", index=b""))
    yield "texts-bomb", BROKEN, "the texts inflate to 2^26 bytes and more", plain(texts + bytes(2**26 + 1))
    yield "texts-empty", BROKEN, "the texts are empty", plain(b"")
    yield "texts-appended", BROKEN, "bytes follow the tables", plain(texts + b"1")
    yield "texts-lines", BROKEN, "a line follows the metadata, and no table is told of", plain(texts + b"\n")


def _index(file: File) -> Iterator[Case]:
    def indexed(data: bytes) -> bytes:
        return file.build(file.head(index=data))

    def lengths(*numbers: int) -> bytes:
        return indexed(index(list(numbers), [(0, 0)] * len(numbers)))

    good = file.index()
    sizes = list(map(len, file.blocks))
    yield "index-absent", BROKEN, "there is no index", indexed(b"")
    yield "index-short", BROKEN, "the index is cut off", indexed(good[:-1])
    yield "index-head-alone", BROKEN, "the index has its first byte alone", indexed(good[:1])
    yield "index-long", BROKEN, "bytes follow the index", indexed(good + b"\0")
    yield "index-endless", BROKEN, "an index of more bytes than its modules can need", indexed(good + bytes(999))
    yield "index-bits", BROKEN, "bits follow the index", indexed(good[:-1] + bytes([good[-1] | 1]))
    yield "index-order", BROKEN, "an index of order 43", indexed(bytes([64 + 43]) + good[1:])
    yield "index-flag", BROKEN, "an index with an unknown flag", indexed(bytes([128 + good[0]]) + good[1:])
    yield "index-open", BROKEN, "the index ends within a number", indexed(bytes([0]) + bytes(4))
    yield (
        "index-huge",
        BROKEN,
        "a number of the index has 44 zeros before it",
        indexed(bytes([0]) + bytes(6) + b"\xff" * 60),
    )
    yield "index-negative", BROKEN, "a length is below 0", indexed(bytes([0, 0b01000000, *[255] * 40]))
    yield "index-sum", BROKEN, "the index adds up to more than there is", file.build(payload=b"".join(file.blocks)[:-1])
    wide = replace(file, packed=b"").with_metadata(extras=[])
    yield "index-sum-less", BROKEN, "the index adds up to less than there is", wide.build(payload=wide.payload() + b"1")
    yield "index-length-huge", BROKEN, "a block of 2^41 bytes", lengths(2**41, *sizes[1:])


def _extras(file: File) -> Iterator[Case]:
    entries = file.metadata["extras"]

    def listed(*table: Any) -> bytes:
        return file.with_metadata(extras=list(table)).build()

    def first(role: Any, name: Any, dtype: Any, shape: Any, stored: Any) -> bytes:
        return listed([name, shape, dtype, stored, role], *entries[1:])

    name, shape, dtype, stored, role = entries[0]
    yield "extras-object", BROKEN, "the table of extras is an object", file.with_metadata(extras={}).build()
    yield "extras-short", BROKEN, "an entry has no shape", listed([name], *entries[1:])
    yield "extras-long", BROKEN, "an entry has six items", listed([*entries[0], "more"], *entries[1:])
    yield "extras-text", BROKEN, "an entry is a text", listed("entry", *entries[1:])
    yield "extras-name", BROKEN, "a name is a number", first(role, 1, dtype, shape, stored)
    yield "extras-none", BROKEN, "has a table of extras and no extras", replace(file, packed=b"").build()
    yield "extras-no-table", BROKEN, "has extras and no table of them", listed()
    yield "extras-repeated", BROKEN, "an extra is named twice", listed(entries[0], *entries)
    yield "extras-role", BROKEN, "an extra has an unknown role", first("spare", name, dtype, shape, stored)
    yield "extras-stranger", BROKEN, "an extra belongs to no module", first(role, "nobody", dtype, shape, stored)
    yield "extras-misfit", BROKEN, "an extra does not fit its module", first(role, name, dtype, [1, *shape], stored)
    yield "extras-dtype", BROKEN, "an extra's dtype is unknown", first(role, name, "F4", shape, "F4")
    yield "extras-stored", BROKEN, "an extra is kept in an unknown way", first(role, name, dtype, shape, "Q4")
    yield "extras-rounded", BROKEN, "whole numbers are kept as floats", first(role, name, "I32", shape, "F16")
    yield "extras-widened", BROKEN, "an F16 is kept as F32", first(role, name, "F16", shape, "F32")
    yield "extras-q8-vector", BROKEN, "a vector is kept as Q8", first(role, name, dtype, shape, "Q8")
    yield "extras-q8-scalar", BROKEN, "a scalar is kept as Q8", first("extra", "s", dtype, [], "Q8")
    for end, key in (
        ("a", "base_model.model.m.lora_A.weight"),
        ("bare", "lora_B.weight"),
        ("short", "m.lora_embedding_A"),
        ("core", "m_lora_latent_mapping.weight"),
        ("bank", "base_model.vblora_vector_bank"),
    ):
        alone = _alone(file, "extra", key, torch.ones(2)).build()
        yield f"extras-factor-{end}", BROKEN, "an extra is named as part of a factor", alone
    whole = torch.ones(9, dtype=torch.int32)
    yield "extras-whole", BROKEN, "a magnitude of whole numbers", _alone(file, "magnitude", "z", whole).build()
    endless = torch.full((9,), math.inf)
    yield "extras-endless", BROKEN, "a bias that is infinite", _alone(file, "bias", "z", endless).build()
    yield "extras-negative", BROKEN, "an extra has a negative size", first("extra", "n", dtype, [-1], stored)
    yield "extras-bomb", BROKEN, "an extra of 2^39 bytes in a few", first("extra", "b", "U8", [2**39], "U8")
    yield (
        "extras-many-bombs",
        BROKEN,
        "extras of 2^43 bytes",
        listed(*([str(i), [2**39], "U8"] for i in range(16))),
    )
    yield "extras-large", BROKEN, "an extra of 2^80 elements", first("extra", "b", "U8", [2**40, 2**40], "U8")
    yield "extras-hidden", BROKEN, "an empty extra with sizes of 2^80", first("extra", "b", "U8", [0, 2**80], "U8")
    yield "extras-deep", BROKEN, "an extra of 17 dimensions", first("extra", "b", "U8", [1] * 17, "U8")
    yield "extras-float", BROKEN, "a size is no whole number", first(role, name, dtype, [12.0], stored)


def _alone(file: File, role: str, name: str, tensor: torch.Tensor) -> File:
    """A file with one extra only."""
    packed = pack_tensors([(role, name, tensor)])
    entries = [[e.name, list(e.shape), e.dtype, e.stored, e.role] for e in packed.entries]
    return replace(file.with_metadata(extras=entries), packed=bytes(packed.payload))


def _blocks(file: File) -> Iterator[Case]:
    def with_block(i: int, block: bytes) -> File:
        return replace(file, blocks=(*file.blocks[:i], block, *file.blocks[i + 1 :]))

    block = file.blocks[0]
    full = block + bytes(-len(block) % 4)
    yield "block-short", BROKEN, "a block lacks its first word", with_block(0, block[4:]).build()
    yield "block-cut", BROKEN, "a block lacks its last word", with_block(0, full[:-4]).build()
    yield "block-long", BROKEN, "a block has a word too many", with_block(0, b"\1\2\3\4" + full).build()
    yield "block-zeros", BROKEN, "a block ends in zeros", with_block(0, full + bytes(4)).build()
    yield "block-all-zero", BROKEN, "a block is a zero", with_block(0, b"\0").build()
    yield "block-swapped", BROKEN, "two blocks are swapped", replace(file, blocks=file.blocks[::-1]).build()
    yield (
        "block-no-rank",
        BROKEN,
        "blocks have ranks where none is allowed",
        file.with_numbers(max_rank=leb128([0])).build(),
    )
    wide = [["m", 2**31 - 1, 2**31 - 1]]
    one = replace(File.open("extras"), blocks=(block,)).with_metadata(modules=wide)
    yield "block-bomb", BROKEN, "a few bytes for 2^32 numbers", one.build()
    small = (
        replace(one, blocks=(_encode(3, [3, 3], [0] * 6),))
        .with_metadata(modules=[["m", 2, 2]])
        .with_numbers(max_rank=leb128([3]))
    )
    yield "block-rank", BROKEN, "a rank beyond its module's shape", small.build()
    large = (
        replace(one, blocks=(_encode(1, [1, 1], [2**22, 0]),))
        .with_metadata(modules=[["m", 1, 1]])
        .with_numbers(max_rank=leb128([1]))
    )
    yield "block-level", BROKEN, "a level beyond the format's", large.build()
    levels = [2**20] * 4096 + [0]
    long = (
        replace(one, blocks=(_encode(1, [4096, 1], levels),))
        .with_metadata(modules=[["m", 4096, 1]])
        .with_numbers(max_rank=leb128([1]))
    )
    yield "block-norm", BROKEN, "a row of U whose squares exceed 2^53", long.build()


def _groups(file: File, lossless: File) -> Iterator[Case]:
    """The one bit string of all modules."""

    def grouped(data: bytes) -> bytes:
        return replace(file, grouped=data).build()

    full = file.grouped + bytes(-len(file.grouped) % 4)
    yield "group-short", BROKEN, "the group lacks its first word", grouped(full[4:])
    yield "group-cut", BROKEN, "the group lacks its last word", grouped(full[:-4])
    yield "group-long", BROKEN, "the group has a word too many", grouped(b"\1\2\3\4" + full)
    yield "group-zeros", BROKEN, "the group ends in zeros", grouped(full + bytes(4))
    yield "group-large", BROKEN, "the group has more than 65536 bytes", grouped(bytes(65533) + full)
    yield "group-fewer", BROKEN, "the group has more modules than the file", _fewer(file).build()
    yield "group-lossless", BROKEN, "a lossless file is grouped", replace(lossless, blocks=(), grouped=full).build()
    none = file.with_numbers(max_rank=leb128([0]))
    yield "group-no-rank", BROKEN, "modules have ranks where none is allowed", none.build()
    wide = [(name, 2**31 - 1, 2**31 - 1) for name, *_ in file.metadata["modules"]]
    yield "group-bomb", BROKEN, "a few bytes for 2^32 numbers", file.with_metadata(modules=wide).build()
    # Of rows of zeros, nothing but their class is coded, whatever their width.
    zeros = np.zeros((1, 8), dtype=np.int32)
    rows = Levels(Quantised(zeros, np.zeros(zeros.shape, dtype=np.uint8)), (Class(NOTHING, 0),))
    many = entropy.encode_group([((8, 8), entropy.Coded(1, (rows, rows)))] * 200, 1)
    assert many is not None
    bomb = replace(file, grouped=many).with_metadata(modules=[["h.{0-199}", 4096, 4096]])
    bomb = bomb.with_numbers(max_rank=leb128([1]))
    yield "group-zero-bomb", BROKEN, "a few bytes for 200 modules of zeros", bomb.build()


def _fewer(file: File) -> File:
    """Without the last entry of the list of modules."""
    return file.with_metadata(modules=file.metadata["modules"][:-1])


def _encode(rank: int, widths: list[int], levels: list[int]) -> bytes:
    """A block of `rank` rows in each tensor, all of one class, without regard for what a module allows."""
    blocks, position = [], 0
    for width in widths:
        part = np.array(levels[position : position + rank * width] or [0] * rank * width, dtype=np.int32)
        part = np.resize(part, (rank, width))
        position += rank * width
        quantised = Quantised(part, _quantisers(part))
        blocks.append(Levels(quantised, (Class(3, 30),) * rank))
    return entropy.encode(rank, max(rank, 1), blocks)


def _quantisers(levels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The quantiser of every level, from the trellis."""
    from adaptzip.adz.coding.trellis import next_states

    if not levels.any():
        return np.zeros(levels.shape, dtype=np.uint8)
    state, following = 0, next_states().tolist()
    found = np.empty(levels.size, dtype=np.uint8)
    for e, level in enumerate(levels.reshape(-1)):
        found[e] = state & 1
        state = following[state][int(level) & 1]
    return found.reshape(levels.shape)


def _gains(file: File) -> Iterator[Case]:
    count = len(file.blocks)
    yield "gains-short", BROKEN, "a gain is missing", replace(file, gains=file.gains[:-1]).build()
    yield "gains-long", BROKEN, "there is a gain too many", replace(file, gains=bytes(count + 1)).build()
    named = file.with_metadata(basis=["file", 4]).with_numbers(basis_hash=bytes(16))
    yield "basis-needless", BROKEN, "a method that needs no basis names one", named.build()
    yield (
        "shared-needless",
        BROKEN,
        "a method that shares nothing has shared tensors",
        replace(file, shared=b"1").build(),
    )
    lossless = File.open("lossless")
    gained = replace(lossless, gains=bytes(len(lossless.blocks)))
    yield "exact-gains", BROKEN, "a lossless file has gains", gained.build()
    yield "exact-shared", BROKEN, "a lossless file has shared tensors", replace(lossless, shared=b"1").build()
    based = lossless.with_metadata(basis=["file", 4]).with_numbers(basis_hash=bytes(16))
    yield "exact-basis", BROKEN, "a lossless file names a basis", based.build()


def _reports(file: File) -> Iterator[Case]:
    report = file.numbers["report"]
    rows = report[5:]

    def told(data: bytes) -> bytes:
        return file.with_numbers(report=data).build()

    yield "report-short", BROKEN, "a report has no figures", file.build(file.head()[:60])
    yield "report-count", BROKEN, "a report counts 2^63 texts", told(leb128([2**63]) + report[2:])
    yield "report-metric", BROKEN, "a report's metric is unknown", told(leb128([9, 1, 2, 3, 5]) + rows[1:])
    negative = b"\x20" + struct.pack("<d", -1.0)
    for name, figure in (
        ("negative", negative),
        ("nan", b"\x20" + struct.pack("<d", math.nan)),
        ("code", b"\x40" + bytes(8)),
    ):
        yield (
            f"report-{name}",
            BROKEN,
            f"a report's figure is {name}",
            told(leb128([9, 1, 2, 3, 0]) + figure + bytes(11)),
        )


def _starts(file: File) -> Iterator[Case]:
    """What a start must look like, whatever its method."""
    count = len(file.blocks)
    sizes, offsets = bytes([2] * count), leb128([2000, *[64] * (count - 1)])

    def started(start: Any, **tables: bytes) -> bytes:
        named = file.with_metadata(basis=["start", 2, "", start])
        found = {"sizes": sizes, "offsets": offsets, **tables}
        return replace(named, sizes=found["sizes"], offsets=found["offsets"]).build()

    good = ["uniform", 42, 93]
    yield "start-text", BROKEN, "a start is a text", started("uniform")
    yield "start-short", BROKEN, "a start has no seed", started(["uniform"])
    yield "start-generator", BROKEN, "a start's generator is a number", started([1, 42, 93])
    yield "start-seed", BROKEN, "a start's seed is 2^64", started(["uniform", 2**64, 93])
    yield "start-seed-negative", BROKEN, "a start's seed is negative", started(["uniform", -1, 93])
    yield "start-seed-true", BROKEN, "a start's seed is a truth value", started(["uniform", True, 93])
    yield "start-correlation", BROKEN, "a start's correlation is above 1", started(["uniform", 42, 101])
    yield "start-sizes", BROKEN, "a start's sizes are missing", started(good, sizes=b"", offsets=b"")
    yield "start-offsets", BROKEN, "a start's offset is missing", started(good, offsets=offsets[:-1])
    yield "start-offsets-many", BROKEN, "a start has an offset too many", started(good, offsets=offsets + b"\2")
    yield (
        "start-offset-negative",
        BROKEN,
        "a start's offset is negative",
        started(good, offsets=b"\1" + bytes(count - 1)),
    )
    far = leb128([2**43]) + bytes(count - 1)
    yield "start-offset-far", BROKEN, "a start's offset is 2^42", started(good, offsets=far)
    zeros = started(good, sizes=bytes(count))
    yield "start-frameless", BROKEN, "offsets of modules without directions", zeros
    other = file.with_metadata(basis=["base", 2, "", good]).with_numbers(basis_hash=bytes(16))
    yield "start-base", BROKEN, "a basis of base weights has a start", other.build()
    unnamed = file.with_metadata(basis=["reference", 2])
    yield "reference-hash", BROKEN, "a reference has no hash", replace(unnamed, sizes=sizes).build()
    known = unnamed.with_numbers(basis_hash=bytes(16))
    yield "reference-sizes", BROKEN, "a reference's sizes are missing", known.build()
    yield (
        "basis-hash-needless",
        BROKEN,
        "a hash of a basis that is not named",
        file.with_numbers(basis_hash=bytes(16)).build(),
    )
    yield "sizes-needless", BROKEN, "sizes of a basis that is not named", replace(file, sizes=sizes).build()


def _made_again(file: File) -> Iterator[Case]:
    """Frames of known starts and of other adapters."""

    def start(generator: str) -> bytes:
        return file.with_metadata(basis=["start", 5, "", [generator, 42, 97]]).build()

    def sized(*sizes: int) -> bytes:
        return replace(file, sizes=leb128(sizes)).build()

    def placed(*offsets: int) -> bytes:
        return replace(file, offsets=leb128([2 * offset for offset in offsets])).build()

    yield "start-unknown", BROKEN, "a start of an unknown generator", start("philox")
    yield "start-offset", BROKEN, "an offset beyond the work that a reader does", placed(2**40, 0, 0)
    yield "start-offset-end", BROKEN, "a start's last numbers are beyond it", placed(2**28 + 16 * 459 - 159, 0, 0)
    yield "start-offsets-few", BROKEN, "a start has too few offsets", placed(7, 293)
    yield "frame-none", BROKEN, "no module has a frame", replace(file, sizes=bytes(4), offsets=b"").build()
    yield "frame-wide", BROKEN, "a frame of more directions than inputs", sized(4, 34, 5, 0)
    yield "frame-other", BROKEN, "a frame of another size than its block has", sized(4, 2, 5, 0)
    key = file.with_metadata(basis=["start", 5, "", ["mlx", 42, 97]])
    late = replace(key, offsets=leb128([2 * 65537, 0, 0]))
    yield "start-key", BROKEN, "a key beyond those that a reader draws", late.build()
    shapes = [(name, 2**16, 2**16 - 1) for name, *_ in file.metadata["modules"]]
    large = file.with_metadata(modules=shapes)
    yield "frame-large", BROKEN, "a frame of 1025 directions", replace(large, sizes=leb128([1025, 3, 5, 0])).build()
    yield "frame-numbers", BROKEN, "2^27 numbers of frames", replace(large, sizes=leb128([1024, 1024, 5, 0])).build()
    square = file.with_metadata(modules=[(name, 4096, 4096) for name, *_ in file.metadata["modules"]])
    yield "frame-work", BROKEN, "2^31 multiplications", replace(square, sizes=leb128([700, 3, 5, 0])).build()
    within = replace(file, basis=bytes(8), offsets=b"").with_metadata(basis=["embedded", 5])
    yield "frame-embedded", BROKEN, "frames that are embedded", within.build()
    other = replace(file, offsets=b"").with_numbers(basis_hash=bytes(16)).with_metadata(basis=["reference", 5, "it"])
    yield "reference-missing", REFUSED, "the frames are another adapter's, which is not there", other.build()
    both = {"sides": 2}
    yield "sides-start", BROKEN, "a start of outputs", file.with_metadata(config=both).build()
    shared = replace(file, offsets=b"").with_numbers(basis_hash=bytes(16)).with_metadata(basis=["file", 5, "it"])
    yield "sides-missing", REFUSED, "a basis of both sides that is not there", shared.with_metadata(config=both).build()
    wide = replace(shared, sizes=leb128([21, 3, 5, 0])).with_metadata(config=both)
    yield "sides-wide", BROKEN, "a frame of more directions than outputs", wide.build()
    heavy = large.with_numbers(basis_hash=bytes(16)).with_metadata(basis=["file", 1024, "it"], config=both)
    much = replace(heavy, offsets=b"", sizes=leb128([1024, 1024, 1024, 0]))
    yield "sides-work", BROKEN, "3 * 2^27 numbers of a basis", much.build()
    for name, sides in (("three", 3), ("true", True), ("text", "2")):
        config = {"sides": sides}
        yield f"sides-{name}", BROKEN, f"frames on {sides!r} sides", file.with_metadata(config=config).build()
    foreign = file.with_metadata(method="vblora/1", config={"rank": 2, "length": 4, "vectors": 4})
    yield "frame-method", BROKEN, "frames for a method that has no use for them", foreign.build()


def _moved(file: File) -> Iterator[Case]:
    """Lossless files whose A is stored as its distance from a start."""
    yield "moved-rank", BROKEN, "an A of another rank than its start", replace(file, sizes=leb128([3, 3, 5, 0])).build()
    yield "moved-none", BROKEN, "a start that no module has", replace(file, sizes=bytes(4), offsets=b"").build()
    other = replace(file, offsets=b"").with_numbers(basis_hash=bytes(16)).with_metadata(basis=["reference", 5, "it"])
    yield "moved-reference", BROKEN, "a lossless file with a reference", other.build()


def _cores(file: File, svd: File) -> Iterator[Case]:
    def named(*basis: Any) -> bytes:
        return file.with_metadata(basis=list(basis)).build()

    def sized(*sizes: int) -> bytes:
        return replace(file, sizes=leb128(sizes)).build()

    def configured(**config: Any) -> bytes:
        return file.with_metadata(config=config).build()

    sizes = list(file.sizes)
    largest = file.metadata["basis"][1]
    bare = replace(file, sizes=b"", basis=b"")
    yield "basis-unnamed", BROKEN, "a method needs a basis and none is named", bare.with_metadata(basis=...).build()
    yield "basis-source", BROKEN, "a basis is of an unknown source", named("disk", largest)
    yield "basis-short", BROKEN, "a basis has no size", named("embedded")
    yield "basis-long", BROKEN, "a basis has five items", named("embedded", largest, "", None, None)
    yield "basis-null", BROKEN, "a basis's description is null", named("embedded", largest, None)
    yield "basis-text", BROKEN, "a basis is a text", file.with_metadata(basis="embedded").build()
    yield "basis-size-zero", BROKEN, "a basis has no directions", named("embedded", 0)
    yield "basis-size-huge", BROKEN, "a basis of 2^21 directions", named("embedded", 2**21)
    yield "basis-size-true", BROKEN, "a basis's size is a truth value", named("embedded", True)
    alone = file.with_numbers(basis_hash=b"")
    yield "basis-hash", BROKEN, "a basis in a file has no hash", alone.with_metadata(basis=["file", largest]).build()
    other = file.with_numbers(basis_hash=bytes(16))
    yield (
        "basis-not-embedded",
        BROKEN,
        "a basis is embedded, and another named",
        other.with_metadata(basis=["file", 4]).build(),
    )
    yield "basis-absent", BROKEN, "an embedded basis is not there", bare.build()
    yield "basis-none", BROKEN, "sizes of a basis, and nothing of it", replace(file, basis=b"").build()
    yield "basis-no-sizes", BROKEN, "a basis, and no sizes", replace(file, sizes=b"").build()
    yield "basis-sizes-few", BROKEN, "the size of a module's basis is missing", sized(*sizes[:-1])
    yield "basis-sizes-many", BROKEN, "there is a basis's size too many", sized(*sizes, 1)
    yield "basis-sizes-large", BROKEN, "a basis has more directions than its module", sized(41, *sizes[1:])
    yield "basis-sizes-wrong", BROKEN, "the basis holds less than its sizes say", sized(sizes[0] + 1, *sizes[1:])
    yield "basis-sizes-none", BROKEN, "all sizes are 0, and the basis is not", sized(*[0] * len(sizes))
    yield "basis-cut", BROKEN, "the basis is cut off", replace(file, basis=file.basis[:-1]).build()
    yield "basis-appended", BROKEN, "bytes follow the basis", replace(file, basis=file.basis + b"1").build()
    wide = file.with_metadata(modules=[["m", 2**31 - 1, 2**31 - 1]])
    bomb = replace(wide, sizes=leb128([2**31 - 1]), blocks=file.blocks[:1])
    yield "basis-bomb", BROKEN, "a basis of 2^62 numbers in a few bytes", bomb.build()
    yield "basis-first", BROKEN, "the basis stands before the modules", file.build(payload=_turned(file))
    small = [1, *sizes[1:]]
    short = replace(file, blocks=(_encode_core(2), *file.blocks[1:]), sizes=leb128(small))
    yield "core-rank", BROKEN, "a core is larger than its basis", replace(short, basis=_halves(file, small)).build()
    yield "core-option-text", BROKEN, "an option is a text", configured(rank="4")
    yield "core-option-true", BROKEN, "an option is a truth value", configured(rank=True)
    yield "core-option-fraction", BROKEN, "a rank is no whole number", configured(rank=2.5)
    yield "core-option-huge", BROKEN, "an option takes 400 digits", configured(min_energy=7**470)
    yield "core-option-unknown", REFUSED, "an option is another method's", configured(top_k=2)
    yield "svd-embedded", BROKEN, "svd with an embedded basis", _embedding(svd).build()


def _turned(file: File) -> bytes:
    """The payload with the basis before the blocks."""
    return file.basis + b"".join(file.blocks) + file.packed


def _embedding(file: File) -> File:
    """A file with an empty basis embedded."""
    empty = 2 * (struct.pack("<BQ", 0, 0))
    named = file.with_metadata(basis=["embedded", 1])
    return replace(named, sizes=bytes(len(file.blocks)), basis=empty)


def _halves(file: File, sizes: list[int]) -> bytes:
    """A basis of zeros."""
    shapes = [(24 + i, 40 - i) for i in range(len(sizes))]
    count = sum(k * (out + width) for k, (out, width) in zip(sizes, shapes, strict=True))
    return (struct.pack("<BQ", 0, count) + bytes(count)) * 2


def _encode_core(rank: int) -> bytes:
    """A block of a core of zeros."""
    parts = [(1, rank), (1, rank * (rank - 1))]
    zeros = [np.zeros(shape, dtype=np.int32) for shape in parts]
    blocks = [Levels(Quantised(part, _quantisers(part)), (Class(3, 30),)) for part in zeros]
    return entropy.encode(rank, 6, blocks)


def _banks(file: File) -> Iterator[Case]:
    def configured(**changes: Any) -> bytes:
        merged = {**file.metadata["config"], **changes}
        return file.with_metadata(config={key: value for key, value in merged.items() if value is not ...}).build()

    def with_block(block: bytes) -> bytes:
        return replace(file, blocks=(block, *file.blocks[1:])).build()

    named = file.with_numbers(basis_hash=bytes(16))
    outside = replace(named, shared=b"")
    both, other = named.with_metadata(basis=["bank", 30]), outside.with_metadata(basis=["file", 30])
    sized = replace(outside, sizes=bytes(len(file.metadata["modules"]))).with_metadata(basis=["bank", 30])
    yield "bank-twice", BROKEN, "a bank is named, and another is in the file", both.build()
    yield "bank-file", BROKEN, "vectors come from what is no bank", other.build()
    yield "bank-sizes", BROKEN, "a bank has sizes", sized.build()
    unknown = replace(file, shared=b"").with_metadata(basis=["bank", 30])
    yield "bank-hash", BROKEN, "a bank has no hash", unknown.build()
    foreign = File.open("gains").with_metadata(basis=["bank", 30]).with_numbers(basis_hash=bytes(16))
    yield "bank-needless", BROKEN, "a method without use for a bank names one", foreign.build()
    for key in ("rank", "length", "vectors", "top_k"):
        yield f"bank-no-{key.replace('_', '-')}", BROKEN, f"'{key}' is missing", configured(**{key: ...})
    yield "bank-null", BROKEN, "'vectors' is null", configured(vectors=None)
    yield "bank-vectors-huge", BROKEN, "a bank of 2^40 vectors", configured(vectors=2**40)
    yield "bank-vectors-many", BROKEN, "a bank of 2^20 vectors in a few bytes", configured(vectors=2**20, length=2**20)
    yield "bank-length-zero", BROKEN, "vectors of length 0", configured(length=0)
    yield "bank-levels", BROKEN, "3 levels", configured(levels=3)
    yield "bank-levels-huge", BROKEN, "2^40 levels", configured(levels=2**40)
    yield "bank-top-k", BROKEN, "a mixture of 9", configured(top_k=9)
    yield "bank-top-k-large", BROKEN, "a mixture of more vectors than there are", configured(top_k=4, vectors=3)
    yield "bank-rank-fraction", BROKEN, "a rank is no whole number", configured(rank=2.0)
    yield "bank-rank-true", BROKEN, "a rank is a truth value", configured(rank=True)
    yield "bank-scale", BROKEN, "a scale is no power of two", configured(scale=3.0)
    yield "bank-scale-zero", BROKEN, "a scale is 0", configured(scale=0)
    yield "bank-scale-infinite", BROKEN, "a scale takes 400 digits", configured(scale=7**470)
    yield "bank-memory-text", BROKEN, "'memory' is a text", configured(memory="1")
    yield "bank-uniform-number", BROKEN, "'uniform' is a number", configured(uniform=1)
    yield "bank-floor", BROKEN, "'floor' is above 1", configured(floor=2)
    yield "bank-rank-beyond", BROKEN, "a rank beyond the configuration's", configured(rank=1)
    yield "shared-absent", BROKEN, "the shared tensors are missing", replace(file, shared=b"").build()
    yield (
        "shared-unsaid",
        BROKEN,
        "shared tensors that the head does not tell of",
        file.build(replace(file, shared=b"").head()),
    )
    yield "shared-cut", BROKEN, "the shared tensors are cut off", replace(file, shared=file.shared[4:]).build()
    last = b"".join(file.blocks) + file.shared + file.packed
    yield "shared-last", BROKEN, "the shared tensors stand after the modules", file.build(payload=last)
    yield "block-guard", BROKEN, "a block of whole numbers lacks its guard", _guardless(file).build()
    yield "simplex-sum", BROKEN, "weights add up to more than 1", _overweight().build()
    huge = file.with_metadata(
        modules=[["m", 2**31 - 1, 2**31 - 1]],
        config={"rank": 1, "length": 2**20, "vectors": 1, "top_k": 1},
    ).with_numbers(max_rank=leb128([1]))
    bomb = replace(huge, shared=_bank(1, 2**20), blocks=(b"\0\0\x80",))
    yield "factors-bomb", BROKEN, "factors of 2^32 numbers in four bytes", bomb.build()


def _guardless(file: File) -> File:
    """One module of one piece on either side, whose indices are 1 and whose last bits are no guard."""
    config = {"rank": 1, "length": 4, "vectors": 300, "top_k": 1}
    alone = file.with_metadata(modules=[["m", 4, 4]], config=config).with_numbers(max_rank=leb128([1]))
    coder = stream.stack.AnsCoder()
    coder.encode_reverse(np.array([1, 1], dtype=np.int32), stream.model.Uniform(300))
    block = coder.get_compressed().astype("<u4").tobytes().rstrip(b"\0")
    return replace(alone, blocks=(block,), shared=_bank(300, 4))


def _overweight() -> File:
    """One module whose mixtures of four have three weights of one half."""
    file = File.open("vblora-k3-levels")
    config = {"rank": 1, "length": 4, "vectors": 6, "top_k": 4, "levels": 16}
    pair = [entropy.Whole(np.zeros((1, 4), np.int32), 6), entropy.Whole(np.full((1, 3), 8, np.int32), 9)]
    alone = file.with_metadata(modules=[["m", 4, 4]], config=config).with_numbers(max_rank=leb128([1]))
    return replace(alone, blocks=(entropy.encode(1, 1, pair * 2),), shared=_bank(6, 4))


def _bank(vectors: int, length: int) -> bytes:
    """A bank of zeros."""
    zeros = np.zeros((vectors, length), dtype=np.int32)
    return entropy.encode(1, 1, [Levels(Quantised(zeros, _quantisers(zeros)), (Class(3, 0),) * vectors)])


def _trains(file: File) -> Iterator[Case]:
    def configured(**changes: Any) -> bytes:
        return file.with_metadata(config={**file.metadata["config"], **changes}).build()

    yield "train-order", BROKEN, "an unknown order", configured(order="gamma")
    yield "train-order-list", BROKEN, "an order is a list", configured(order=["delta"])
    yield "train-lora-rank", BROKEN, "a LoRA rank of 0", configured(lora_rank=0)
    yield "train-lora-rank-true", BROKEN, "a LoRA rank is a truth value", configured(lora_rank=True)
    yield "train-tolerance", BROKEN, "a tolerance of 1", configured(tolerance=1)
    yield "train-sweeps", BROKEN, "negative sweeps", configured(sweeps=-1)
    yield "train-rank-beyond", BROKEN, "ranks beyond the largest of their shapes", configured(lora_rank=1)
    wide = file.with_metadata(modules=[["m", 2**30, 2**30]], config={"order": "delta", "lora_rank": 1}).with_numbers(
        max_rank=leb128([1])
    )
    shapes = [*[(1, 8)] * 9, (1, 8)] * 2
    zeros = [np.zeros(shape, dtype=np.int32) for shape in shapes]
    blocks = [Levels(Quantised(part, _quantisers(part)), (Class(3, 30),)) for part in zeros]
    bomb = replace(wide, blocks=(entropy.encode(1, 1, blocks),), gains=b"")
    yield "train-bomb", BROKEN, "factors of 2^31 numbers in a few bytes", bomb.build()


def _functions(file: File) -> Iterator[Case]:
    def configured(**changes: Any) -> bytes:
        return file.with_metadata(config={**file.metadata["config"], **changes}).build()

    def placed(*site: Any) -> bytes:
        first, *rest = file.metadata["modules"]
        return file.with_metadata(modules=[[first[0], *site], *rest]).build()

    (pattern, out, width), *_ = file.metadata["modules"]
    yield "function-bottleneck", BROKEN, "a bottleneck of 0", configured(bottleneck=0)
    yield "function-bottleneck-huge", BROKEN, "a bottleneck beyond 2^20", configured(bottleneck=2**20 + 1)
    yield "function-bottleneck-true", BROKEN, "a bottleneck is a truth value", configured(bottleneck=True)
    yield "function-rank", BROKEN, "a rank of 0", configured(rank=0)
    yield "function-activation", BROKEN, "an unknown activation", configured(activation="step")
    yield "function-activation-list", BROKEN, "an activation is a list", configured(activation=["gelu"])
    yield "function-bias", BROKEN, "an unknown choice of biases", configured(bias="up")
    yield "function-layers", BROKEN, "a blank end of a name", configured(layers="q_proj, ,down_proj")
    yield "function-layers-list", BROKEN, "ends of names are a list", configured(layers=["q_proj"])
    yield "function-oblong", BROKEN, "a function from other outputs than its own", placed(out, width + 1)
    yield "function-transposed", BROKEN, "a function in a weight's layout", placed(out, width, "transposed")
    gains = bytes([4] * len(file.blocks))
    yield "function-gains", BROKEN, "functions have gains", replace(file, gains=gains).build()
    yield "function-shape", BROKEN, "numbers that are too few for their widths", configured(bottleneck=7)
    wide = file.with_metadata(modules=[["m", 2**30, 2**30]], config={"bottleneck": 2**20}).with_numbers(
        max_rank=leb128([1])
    )
    bomb = replace(wide, blocks=(file.blocks[-1],))
    yield "function-bomb", BROKEN, "matrices of 2^51 numbers in a few bytes", bomb.build()


def _planes(file: File) -> Iterator[Case]:
    def one(dtype: str, shape: list[int], stored: str, payload: bytes) -> bytes:
        return replace(file.with_metadata(extras=[["x", shape, dtype, stored]]), packed=payload).build()

    def plane(coding: int, body: bytes) -> bytes:
        return struct.pack("<BQ", coding, len(body)) + body

    def floats(number: float) -> bytes:
        (word,) = struct.unpack("<I", struct.pack("<f", number))
        rotated = (word << 1 | word >> 31) & 0xFFFFFFFF
        return b"".join(plane(0, bytes([rotated >> shift & 255])) for shift in (24, 16, 8, 0))

    def halves(word: int) -> bytes:
        rotated = (word << 1 | word >> 15) & 0xFFFF
        return plane(0, bytes([rotated >> 8])) + plane(0, bytes([rotated & 255]))

    zeros = zstandard.ZstdCompressor().compress(bytes(100))
    sizeless = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(100))
    large = zstandard.ZstdCompressor().compress(bytes(2**20))
    ones = struct.pack("<256H", *[1] * 256)
    yield "plane-short", BROKEN, "a plane is cut off", one("U8", [4], "U8", plane(0, b"1234")[:-1])
    yield "plane-stub", BROKEN, "a plane's size is cut off", one("U8", [4], "U8", b"\0\4\0")
    yield "plane-small", BROKEN, "a plane holds too few bytes", one("U8", [4], "U8", plane(0, b"123"))
    yield "plane-large", BROKEN, "a plane holds too many bytes", one("U8", [4], "U8", plane(0, b"12345"))
    yield "plane-size", BROKEN, "a plane announces 2^63 bytes", one("U8", [4], "U8", struct.pack("<BQ", 0, 2**63))
    yield "plane-coding", BROKEN, "a plane's coding is unknown", one("U8", [4], "U8", plane(3, b"1234"))
    yield "plane-appended", BROKEN, "bytes follow the last plane", one("U8", [1], "U8", plane(0, b"1") + b"1")
    yield "zstd-damaged", BROKEN, "a frame is no frame", one("U8", [100], "U8", plane(1, b"1234567890"))
    yield "zstd-cut", BROKEN, "a frame is cut off", one("U8", [100], "U8", plane(1, zeros[:-1]))
    yield "zstd-bomb", BROKEN, "a frame holds more than its plane", one("U8", [100], "U8", plane(1, large))
    yield "zstd-sizeless", BROKEN, "a frame does not state its size", one("U8", [100], "U8", plane(1, sizeless))
    yield "zstd-two", BROKEN, "a second frame follows", one("U8", [100], "U8", plane(1, zeros + zeros))
    yield "ans-short", BROKEN, "a plane's weights are cut off", one("U8", [4], "U8", plane(2, ones[:-4]))
    yield "ans-odd", BROKEN, "a plane's words are cut off", one("U8", [4], "U8", plane(2, ones + b"123"))
    yield "ans-weightless", BROKEN, "a plane's weights are 0", one("U8", [4], "U8", plane(2, bytes(512) + b"1234"))
    yield "ans-long", BROKEN, "a plane has words left over", one("U8", [1], "U8", plane(2, ones + b"12345678" * 2))
    yield "ans-zeros", BROKEN, "a plane's words end in 0", one("U8", [1], "U8", plane(2, ones + bytes(4)))
    yield "bool-two", BROKEN, "a BOOL is 2", one("BOOL", [1], "BOOL", plane(0, b"\2"))
    yield "rounded-nan", BROKEN, "a rounded tensor holds NaN", one("F32", [1], "BF16", halves(0x7FC0))
    scaled = floats(math.inf) + plane(0, b"\1")
    yield "q8-infinite", BROKEN, "a scale is infinite", one("F32", [1, 1], "Q8", scaled)


def _lossless(file: File) -> Iterator[Case]:
    def first(block: bytes) -> bytes:
        return replace(file, blocks=(block, *file.blocks[1:])).build()

    block = file.blocks[0]
    yield "exact-empty", BROKEN, "a lossless block is empty", first(b"")
    yield "exact-short", BROKEN, "a lossless block is cut off", first(block[:-1])
    yield "exact-long", BROKEN, "a lossless block has a byte too many", first(block + b"1")
    yield "exact-dtype", BROKEN, "a lossless block has dtype 15", first(block[:12] + b"\x0f" + block[13:])
    yield "exact-stored", BROKEN, "factors of F32 are kept as I64", first(block[:14] + b"\x06" + block[15:])
    yield "exact-scaling", BROKEN, "a scaling is NaN", first(struct.pack("<d", math.nan) + block[8:])
    last = torch.ones(2, 1)
    for name, number, dtype in (
        ("whole", 1, torch.int64),
        ("small", 1, torch.float8_e4m3fn),
        ("truth", 1, torch.bool),
        ("nan", math.nan, torch.float32),
        ("infinite", -math.inf, torch.bfloat16),
    ):
        made = pack_factors(LoraFactors(torch.full((1, 3), number).to(dtype), last))
        broken = replace(file, blocks=(*file.blocks[:-1], made)).build()
        yield f"exact-{name}", BROKEN, f"a factor that is {name}", broken
    yield "exact-rank", BROKEN, "a rank of 2^32 - 1 in a few bytes", first(block[:8] + b"\xff" * 4 + block[12:])


def main() -> None:
    """Make every file again."""
    FOLDER.mkdir(exist_ok=True)
    for path in FOLDER.glob("*.adz"):
        path.unlink()
    expected = {}
    for name, error, reason, content in cases():
        path = FOLDER / f"{name}.adz"
        if path.exists():
            raise ValueError(f"two files are called {name}")
        path.write_bytes(content)
        expected[path.name] = {"error": error, "because": reason}
    (FOLDER / "expected.json").write_text(json.dumps(expected, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
