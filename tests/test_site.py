"""The site is the repository's pages, has the list of the library, shows what it holds alone, and is strict."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest

from checks import api_reference, site
from checks.markdown import anchors

ROOT = Path(__file__).parent.parent
PAGES = sorted({*(ROOT / "docs").rglob("*.md"), *(ROOT / name for name in site.outside(ROOT) if name.endswith(".md"))})
needs_mkdocs = pytest.mark.skipif(find_spec("mkdocs") is None, reason="mkdocs is not installed (extra docs)")


def test_what_lies_outside_is_there() -> None:
    found = site.outside(ROOT)
    assert {"CHANGELOG.md", "fixtures/README.md", "formats/adz-1.md", "formats/methods/svd.md"} <= set(found)
    assert [path for path in found if not (ROOT / path).is_file()] == []


def test_patterns_of_the_navigation(tmp_path: Path) -> None:
    for name in ("0002-b.md", "0001-a.md", "index.md"):
        (tmp_path / name).touch()
    assert site.listed(["x.md", {"Below": ["index.md", "0*.md", {"Own": "y.md"}]}], tmp_path) == [
        "x.md",
        {"Below": ["index.md", "0001-a.md", "0002-b.md", {"Own": "y.md"}]},
    ]


def test_what_a_page_shows_has_to_be_held(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "style.css").touch()
    page = tmp_path / "below" / "page.html"
    foreign = ["https://fonts.example/a.css", "//cdn.example/b.js", "../absent.svg", "/style.css/c"]
    held = ["../style.css?v=1", "/style.css", "../style.css#only-dark"]
    page.write_text(
        "".join(f'<link rel="x" href="{address}"><img alt="" src="{address}">' for address in held + foreign)
    )
    assert site.missing(page, tmp_path) == [address for address in foreign for _ in range(2)]


def test_the_page_of_the_library_has_its_list_and_anchors() -> None:
    written = api_reference.reference()
    page = site.library(written)
    entries = [(module, one) for module, found in api_reference.every_entry().items() for one in found]
    paths = [line.removeprefix("::: ") for line in page.splitlines() if line.startswith("::: ")]
    assert paths == [
        path for _, entry in entries for path in (entry.path, *(m.path for m in api_reference.members(entry)))
    ]
    assert "```text" not in page
    assert "```pycon" in page
    headings = ["The library", *(line.partition(" ")[2] for line in written.splitlines() if line.startswith("##"))]
    given = [line.split('"')[1] for line in page.splitlines() if line.startswith("<a id=")]
    modules = set(api_reference.MODULES)
    slugs = zip(headings, anchors(headings), strict=True)
    assert given == [slug for heading, slug in slugs if heading not in {"The library", *modules}]


def test_pictures_follow_the_colours_of_the_site() -> None:
    html = (
        '<p><picture>\n  <source media="(prefers-color-scheme: dark)" srcset="a-dark.svg">\n'
        '  <img alt="A" src="a-light.svg">\n</picture></p>'
    )
    assert site.on_page_content(html) == (
        '<p><img alt="A" src="a-dark.svg#only-dark"><img alt="A" src="a-light.svg#only-light"></p>'
    )


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A small repository whose pages link to each other as ours do."""
    (tmp_path / "mkdocs.yml").write_text(f"INHERIT: {ROOT / 'mkdocs.yml'}\nnav: ['**/*.md']\n")
    for name in ("checks", "adaptzip"):
        (tmp_path / name).symlink_to(ROOT / name)
    pages = {
        "docs/index.md": "# Start\n\n[one](../formats/one.md#a-b), [library](reference/api.md#warn)\n",
        "docs/site.css": "",
        "docs/reference/api.md": "# The library\n\n## adaptzip.errors\n\n### warn\n\n```text\nwarn()\n```\n\nWarns.\n",
        "formats/one.md": "# One\n\n## A: b\n\n[start](../docs/index.md), [decoder](decoder.py)\n",
        "formats/decoder.py": "",
        "fixtures/README.md": "# Fixtures\n",
        "CHANGELOG.md": "# Changelog\n",
        "CONTRIBUTING.md": "# Contributing\n",
        "SECURITY.md": "# Security\n",
    }
    for name, text in pages.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def built(repository: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build"],
        cwd=repository,
        env={**os.environ, "PYTHONPATH": str(repository), "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@needs_mkdocs
def test_links_of_the_repository_are_links_of_the_site(repository: Path) -> None:
    done = built(repository)
    assert done.returncode == 0, done.stderr
    front = (repository / "site" / "index.html").read_text()
    assert 'href="formats/one.html#a-b"' in front
    assert 'href="reference/api.html#warn"' in front
    assert 'href="../index.html"' in (repository / "site" / "formats" / "one.html").read_text()
    assert 'id="adaptzip.errors.warn"' in (repository / "site" / "reference" / "api.html").read_text()


@needs_mkdocs
def test_what_leads_nowhere_fails(repository: Path) -> None:
    wrong = {
        "[no page](../formats/two.md)": "'../formats/two.md'",
        "[no anchor](../formats/one.md#c)": "'formats/one.md' does not contain an anchor '#c'",
        "[no name](reference/api.md#warnings)": "'docs/reference/api.md' does not contain an anchor '#warnings'",
        '<img alt="" src="images/none.svg">': "loads images/none.svg; expected a file of the site",
        '<img alt="" src="https://example.com/a.png">': "loads https://example.com/a.png; expected",
    }
    with (repository / "docs" / "index.md").open("a") as page:
        page.writelines(f"\n{text}\n" for text in wrong)
    done = built(repository)
    assert done.returncode == 1
    assert [said for said in wrong.values() if said not in done.stderr] == []


@needs_mkdocs
def test_a_page_without_a_place_in_the_navigation_fails(repository: Path) -> None:
    (repository / "mkdocs.yml").write_text(
        f"INHERIT: {ROOT / 'mkdocs.yml'}\nnav: [docs/**/*.md, '*.md', fixtures/*.md]\n"
    )
    done = built(repository)
    assert done.returncode == 1
    assert "formats/one.md" in done.stderr


@needs_mkdocs
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_site_reads_a_page_as_a_code_host_does(page: Path) -> None:
    """MkDocs' Markdown wants blank lines and four blanks where CommonMark does not."""
    import markdown
    from markdown_it import MarkdownIt

    text = page.read_text(encoding="utf-8")
    there = MarkdownIt("commonmark", {"html": True}).enable("table").render(text)
    here = markdown.markdown(text, extensions=["tables", "sane_lists", "pymdownx.superfences"])
    assert parts(here) == parts(there)


def parts(html: str) -> Counter[str]:
    """How many there are of what a page is made of."""
    return Counter(re.findall(r"<(h\d|li|ol|ul|pre|table|td|em|strong)\b", html))
