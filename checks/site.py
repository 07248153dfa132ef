"""The documentation site, as a hook of MkDocs: `make site`.

A page of the site is called as its file in the repository, so that one relative link serves readers of both, and
MkDocs checks it. Addresses alone leave out `docs/`. The page of the library lists what `docs/reference/api.md` lists,
under the same anchors, with signatures that mkdocstrings makes of the sources, which are read and not imported.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from checks.markdown import anchors

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

API = "docs/reference/api.md"
OUTSIDE = (
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "fixtures/README.md",
    "formats/*.md",
    "formats/methods/*.md",
)
"""Pages that lie outside `docs/`."""
CARRIED = ("formats/decoder.py", "adaptzip/adz/container/*.schema.json")
"""Other files that pages link to."""

_HEADING = re.compile(r"^(#{2,4}) (\S+)$\n*(?:```text\n.*?\n```\n)?", re.MULTILINE | re.DOTALL)
"""A heading of the reference, and the signature below it."""
_PICTURE = re.compile(
    r'<picture>\s*<source media="\(prefers-color-scheme: dark\)" srcset="([^"]+)">\s*<img ([^>]*)src="([^"]+)">\s*'
    r"</picture>"
)
_LOADED = re.compile(r'<(?:img|script|source|iframe)\b[^>]*\bsrc(?:set)?="([^"]+)"|<link\b[^>]*\bhref="([^"]+)"')
_log = logging.getLogger("mkdocs.hooks.adaptzip")


def on_config(config: MkDocsConfig) -> None:
    """Give headings the anchors that they have on a code host, and list the pages that patterns in `nav` stand for."""
    config.mdx_configs["toc"]["slugify"] = lambda text, _: anchors([text])[0]
    config.nav = listed(config.nav, _root(config))


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Call files as the repository does, and add those that lie outside of `docs/`."""
    from mkdocs.structure.files import File, Files

    root = _root(config)

    def called(path: str, address: str | None = None) -> File:
        return File(path, str(root), config.site_dir, config.use_directory_urls, dest_uri=address)

    own = [called(f"docs/{file.src_uri}", file.dest_uri) for file in files if file.src_dir == config.docs_dir]
    others = [file for file in files if file.src_dir != config.docs_dir]
    return Files([*own, *others, *map(called, outside(root))])


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Have mkdocstrings write the page of the library."""
    return library(markdown) if page.file.src_uri == API else markdown


def on_page_content(html: str, **_: object) -> str:
    """Let pictures follow the site's colours, as they follow the system's elsewhere."""
    return _PICTURE.sub(r'<img \2src="\1#only-dark"><img \2src="\3#only-light">', html)


def on_post_build(config: MkDocsConfig) -> None:
    """Warn, and so fail, where a page shows what the site does not hold."""
    for page in sorted(Path(config.site_dir).rglob("*.html")):
        for address in missing(page, Path(config.site_dir)):
            _log.warning("%s: loads %s; expected a file of the site", page.relative_to(config.site_dir), address)


def listed(nav: Any, root: Path) -> Any:
    """A navigation whose patterns are replaced by what they match, in order."""
    if isinstance(nav, dict):
        return {title: listed(below, root) for title, below in nav.items()}
    if isinstance(nav, list):
        return [
            page for item in nav for page in (_matches(item, root) if isinstance(item, str) else [listed(item, root)])
        ]
    return nav


def outside(root: Path) -> list[str]:
    """Files outside of `docs/` that belong to the site."""
    return [path for place in (*OUTSIDE, *CARRIED) for path in _matches(place, root)]


def missing(page: Path, site: Path) -> list[str]:
    """The pictures, scripts and styles of a page that are no files of the site."""
    addresses = [first or second for first, second in _LOADED.findall(page.read_text(encoding="utf-8"))]
    return [address for address in addresses if not _held(address.partition("#")[0].partition("?")[0], page, site)]


def library(markdown: str) -> str:
    """The reference with mkdocstrings' headings and signatures, whose types are links, in the place of plain ones."""
    title, headings = markdown.partition("\n")[0].removeprefix("# "), [name for _, name in _HEADING.findall(markdown)]
    slugs = iter(anchors([title, *headings])[1:])
    above: dict[str, str] = {}

    def directive(found: re.Match[str]) -> str:
        level, name = found.groups()
        above[level] = _path(level, name, above)
        if level == "##":
            next(slugs)
            return found[0]
        return (
            f'<a id="{next(slugs)}"></a>\n\n::: {above[level]}\n'
            f"    options:\n      heading: {name}\n      heading_level: {len(level)}\n\n"
        )

    return _HEADING.sub(directive, markdown)


def _path(level: str, name: str, above: Mapping[str, str]) -> str:
    """The whole name of what a heading names: a module, what is in one, or a member of a class."""
    if level == "####":
        return f"{above['###']}.{name.rpartition('.')[2]}"
    return name if name.partition(".")[0] == "adaptzip" else f"{above['##']}.{name}"


def _root(config: MkDocsConfig) -> Path:
    return Path(config.config_file_path).parent


def _matches(place: str, root: Path) -> list[str]:
    return [path.relative_to(root).as_posix() for path in sorted(root.glob(place))] if "*" in place else [place]


def _held(address: str, page: Path, site: Path) -> bool:
    if re.match(r"[a-z]+:|//", address):
        return False
    file = site / address.lstrip("/") if address.startswith("/") else page.parent / address
    return file.is_file()
