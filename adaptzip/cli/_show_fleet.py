"""What `adaptzip fleet` shows of its jobs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from adaptzip.cli import _text as text

Values = Mapping[str, Any]


def bases(values: Values) -> str:
    """A paragraph for each group: what its basis holds, and what sharing is worth."""
    return "\n\n".join(_group(group) for group in values["groups"])


def banks(values: Values) -> str:
    """A paragraph for each bank, likewise."""
    return "\n\n".join(_bank(bank) for bank in values["banks"])


def compressed(values: Values) -> str:
    """The methods, and the sums."""
    rows = [[name, f"{told['adapters']:,}", text.size(told["bytes"])] for name, told in values["methods"].items()]
    rows += [["shared", f"{sum(one['used'] for one in values['artefacts'])}", text.size(values["shared_bytes"])]]
    lines = [text.table(rows, head=["method", "adapters", "size"])]
    lines.append(
        text.fields(
            [
                ("in all", f"{text.size(values['bytes'])}  {text.ratio(values['source_bytes'], values['bytes'])}"),
                ("each alone by svd", text.size(values["alone_bytes"])),
                ("error", _error(values["error"])),
                ("worst error", _error(values["worst_error"])),
                ("error of the mean alone", _error(values["mean_error"])),
            ]
        )
    )
    return "\n\n".join(lines)


def verified(adapters: int, values: Values) -> str:
    """How many adapters came back, and how far off."""
    return text.fields(
        [
            ("adapters", f"{adapters:,}"),
            ("sound", f"{values['sound']:,}"),
            ("compared with originals", f"{values['compared']:,}" if values["compared"] else ""),
            ("worst error", _error(values["worst_error"]) if values["compared"] else ""),
            ("without a row in the index", f"{len(values['unlisted'])}" if values["unlisted"] else ""),
        ]
    )


def reported(values: Values) -> str:
    """The sums of a store, and what is wrong with it."""
    shared = f"{text.size(values['shared_bytes'])} shared"
    if values["unused_bytes"]:
        shared += f", {text.size(values['unused_bytes'])} of that used by no adapter"
    parts = [
        text.fields(
            [
                ("store", values["store"]),
                ("adapters", f"{values['adapters']:,}"),
                ("size", f"{text.size(values['bytes'])}, of these {shared}"),
                ("rows without a file", ", ".join(values["missing"])),
                ("files without a row", ", ".join(values["unlisted"])),
                ("damaged", ", ".join(values["damaged"])),
            ]
        )
    ]
    for title, field in (("method", "methods"), ("base", "bases"), ("group", "groups")):
        rows = [
            [one[title] or "-", f"{one['adapters']:,}", text.size(one["bytes"]), text.number(one["error"])]
            + [text.number(one["worst_error"])]
            for one in values[field]
        ]
        parts.append(text.table(rows, head=[title, "adapters", "size", "error", "worst"]))
    parts += [bases(run) for run in values["runs"] if "groups" in run]
    parts += [banks(run) for run in values["runs"] if "banks" in run]
    parts += [_past(run) for run in values["runs"] if run.get("current")]
    return "\n\n".join(part for part in parts if part)


def _past(run: Values) -> str:
    """What came of a job over adapters, some of which are still as it left them."""
    count = sum(told["adapters"] for told in run["methods"].values())
    told = f"the run {run['run']}, {run['current']:,} of whose {count:,} adapters are still in the store"
    return f"{told}\n\n{compressed(run)}"


def _group(group: Values) -> str:
    adapters = f"{text.count(group['members'], 'adapter')}, {group['held_out']} left out"
    told = text.fields(
        [
            ("group", group["label"]),
            ("base", group["base"] or ""),
            ("adapters", adapters),
            ("basis", f"{group['file']}  {text.size(group['bytes'])}"),
            ("directions", f"{group['directions']} at most in {text.count(group['modules'], 'module')}"),
            ("holds", f"{100 * group['kept']:.1f} % of the members' energy"),
        ]
    )
    return f"{told}\n\n{_worth(group)}"


def _bank(bank: Values) -> str:
    adapters = f"{text.count(bank['members'], 'adapter')}, {bank['held_out']} left out"
    told = text.fields(
        [
            ("adapters", adapters),
            ("bank", f"{bank['file']}  {text.size(bank['bytes'])}"),
            ("vectors", f"{bank['vectors']:,} of {bank['length']:,} numbers"),
        ]
    )
    return f"{told}\n\n{_worth(bank)}"


def _worth(shared: Values) -> str:
    """What adapters take in each way, members beside those left out."""
    everyone = shared["members"] + shared["held_out"]
    part = -(-shared["bytes"] // everyone)
    mean = shared.get("mean_bytes")
    limit = _error(shared["max_error"])
    rows = [["each alone by svd"], ["with what is shared, and its part of that"], ["each alone by svd, at these bytes"]]
    rows += [["the mean for all, and its part of that"], ["energy that the basis holds, at least"]]
    for told in (shared["of_members"], shared["of_held_out"]):
        with_part = None if told["shared_bytes"] is None else told["shared_bytes"] + part
        rows[0] += [_bytes(told["alone_bytes"]), "-" if told["alone_bytes"] is None else limit]
        rows[1] += [_bytes(with_part), limit if with_part is not None else "not reached"]
        rows[2] += [_bytes(with_part), _error(told["equal_error"])]
        rows[3] += [_bytes(None if mean is None else mean // everyone), _error(told["mean_error"])]
        rows[4] += ["", "" if told["least_captured"] is None else f"{100 * told['least_captured']:.1f} %"]
    if mean is None:
        del rows[3]
    if "label" not in shared:
        rows.pop()
    table = text.table(rows, head=["median of", "members", "error", "left out", "error"])
    return f"{table}\n\n{_verdict(shared, everyone)}"


def _verdict(shared: Values, everyone: int) -> str:
    """Whether sharing pays at the error of the table, by what members take."""
    alone, own = shared["of_members"]["alone_bytes"], shared["of_members"]["shared_bytes"]
    limit = _error(shared["max_error"])
    if own is None or alone is None:
        return f"sharing does not pay: error {limit} is not reached"
    part = shared["bytes"] / everyone
    told = f"an adapter takes {_bytes(alone)} alone, and {_bytes(own)} with what is shared"
    if own >= alone:
        return f"sharing does not pay at error {limit}, with however many adapters: {told}"
    if own + part < alone:
        return f"sharing pays at error {limit}: {told}, and {_bytes(part)} for its part of that"
    enough = math.ceil(shared["bytes"] / (alone - own))
    return f"sharing does not pay at error {limit} with {everyone:,} adapters, and would with {enough:,}: {told}"


def _bytes(value: float | None) -> str:
    return "-" if value is None else text.size(round(value))


def _error(value: float | None) -> str:
    return "-" if value is None else text.number(value)
