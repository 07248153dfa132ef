"""Which platforms have wheels of what adaptzip needs: `python -m checks.platforms` asks the package index, through uv.

The versions are those of constraints.txt. Nothing is downloaded but what the index says of each package. The tables go
into docs/reference/platforms.md.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from packaging.tags import Tag, compatible_tags, cpython_tags, mac_platforms
from packaging.utils import parse_wheel_filename

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "reference" / "platforms.md"
START, END = "<!-- Made by `python -m checks.platforms`; do not edit. -->\n", "<!-- end -->\n"
PYTHONS = (11, 12, 13, 14)
_GLIBC, _MUSL, _MACOS = range(17, 40), range(1, 3), (14, 0)
"""Systems whose wheels count: glibc from 2.17 to 2.39, musl 1.1 and 1.2, macOS up to 14."""


def _linux(machine: str) -> list[str]:
    return [f"manylinux_2_{minor}_{machine}" for minor in _GLIBC] + [f"manylinux2014_{machine}"]


def _musl(machine: str) -> list[str]:
    return [f"musllinux_1_{minor}_{machine}" for minor in _MUSL]


PLATFORMS = {
    "Linux x86_64": _linux("x86_64"),
    "Linux aarch64": _linux("aarch64"),
    "musl x86_64": _musl("x86_64"),
    "musl aarch64": _musl("aarch64"),
    "macOS arm64": list(mac_platforms(_MACOS, "arm64")),
    "macOS x86_64": list(mac_platforms(_MACOS, "x86_64")),
    "Windows x86_64": ["win_amd64"],
    "Windows arm64": ["win_arm64"],
}
"""Tags of platforms, by what the page calls them."""
_WEIGHED = {
    "Linux x86_64": "x86_64-unknown-linux-gnu",
    "macOS arm64": "aarch64-apple-darwin",
    "Windows x86_64": "x86_64-pc-windows-msvc",
}
"""uv's names of the platforms that all of it can be installed on."""
_OF_CUDA = ("cuda-", "nvidia-", "triton")


def main() -> int:
    """Write the tables into the page."""
    pinned = _locked("--universal", "-c", str(ROOT / "constraints.txt"))
    made = f"{START}\n{_wheels_table(pinned)}\n{_weights_table()}\n{END}"
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8"), made), encoding="utf-8")
    print(f"wrote {PAGE}")
    return 0


def with_tables(page: str, made: str) -> str:
    """The page with other tables between its two marks, which `made` includes."""
    before, rest = page.split(START)
    return before + made + rest.split(END)[1]


def runs_on(wheel: str, platform: str, minor: int) -> bool:
    """Whether a wheel of this file name installs on a platform of the table, with Python 3.`minor`."""
    return not parse_wheel_filename(wheel)[3].isdisjoint(_tags(platform, minor))


def span(minors: Sequence[int]) -> str:
    """Versions of Python in a row, as a cell of the table."""
    if not minors:
        return "none"
    return f"3.{minors[0]}" if len(minors) == 1 else f"3.{minors[0]} to 3.{minors[-1]}"


def _tags(platform: str, minor: int) -> set[Tag]:
    platforms = PLATFORMS[platform]
    own = cpython_tags((3, minor), abis=[f"cp3{minor}"], platforms=platforms)
    return {*chain(own, compatible_tags((3, minor), f"cp3{minor}", platforms))}


def _wheels_table(locked: Sequence[dict[str, Any]]) -> str:
    compiled = [package for package in locked if not package["name"].startswith(_OF_CUDA) and not _is_pure(package)]
    rows = {f"{package['name']} {package['version']}": _minors(package) for package in compiled}
    every = {name: [m for m in PYTHONS if all(m in row[name] for row in rows.values())] for name in PLATFORMS}
    return _table(["", *PLATFORMS], [[name, *map(span, row.values())] for name, row in (*rows.items(), ("all", every))])


def _minors(package: dict[str, Any]) -> dict[str, list[int]]:
    """By platform, the versions of Python that a package has wheels for."""
    names = [_file_name(wheel) for wheel in package["wheels"]]
    return {
        platform: [minor for minor in PYTHONS if any(runs_on(name, platform, minor) for name in names)]
        for platform in PLATFORMS
    }


def _weights_table() -> str:
    rows = []
    for name, platform in _WEIGHED.items():
        locked = _locked("--python-platform", platform)
        sizes = {package["name"]: package["wheels"][0]["size"] for package in locked}
        torch = sum(size for key, size in sizes.items() if key.startswith(("torch", *_OF_CUDA)))
        amounts = (torch, sum(sizes.values()) - torch)
        rows.append([name, str(len(sizes)), *(f"{size / 1e6:,.0f} MB" for size in amounts)])
    return _table(["Python 3.11", "packages", "torch and what it brings for GPUs", "all others"], rows)


def _locked(*options: str) -> list[dict[str, Any]]:
    """What an installer would take for Python 3.11: names, versions, wheels and their sizes."""
    command = [sys.executable, "-m", "uv", "pip", "compile", "pyproject.toml", "--quiet", "--python-version", "3.11"]
    told = {**os.environ, "MACOSX_DEPLOYMENT_TARGET": ".".join(map(str, _MACOS))}
    done = subprocess.run(
        [*command, "--format", "pylock.toml", *options], capture_output=True, text=True, check=False, cwd=ROOT, env=told
    )
    if done.returncode:
        raise SystemExit(f"error: uv could not resolve adaptzip: {done.stderr.strip()}")
    packages: list[dict[str, Any]] = tomllib.loads(done.stdout)["packages"]
    return packages


def _is_pure(package: dict[str, Any]) -> bool:
    return all(_file_name(wheel).endswith("-none-any.whl") for wheel in package["wheels"])


def _file_name(wheel: dict[str, Any]) -> str:
    """Of a locked wheel, whose address spells some characters otherwise."""
    return unquote(str(wheel["url"]).rpartition("/")[2])


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "".join(f"| {' | '.join(line)} |\n" for line in (head, ["---"] * len(head), *rows))


if __name__ == "__main__":
    sys.exit(main())
