"""Check the documentation against the repository and the program: `python -m checks.docs`.

Every link into the repository and its fragment must resolve, and be absolute in `README.md`, which package indexes
show alone. Every page must be reachable from `docs/index.md`, every `python` block must parse, and every command in a
`console` block (a line that starts with `$ `) must exist, with the options it uses. Everything public must have a
docstring, of which the library's reference is made.
"""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

from adaptzip.cli.app import GROUPS
from checks import addresses, api_reference
from checks.markdown import Block, Page, read_page

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PLACES = ("*.md", "docs/**/*.md", "formats/**/*.md", "fixtures/**/*.md", "benchmarks/**/*.md")


def main() -> int:
    """Print every problem, one a line; 1 if there is one."""
    pages = [read_page(path) for place in PLACES for path in sorted(ROOT.glob(place))]
    problems = [problem for page in pages for problem in problems_of(page)]
    problems += [f"{_name(path)}: no link leads here from docs/index.md" for path in unreachable(pages)]
    problems += api_reference.problems()
    for problem in problems:
        print(problem, file=sys.stderr)
    blocks = sum(len(page.blocks) for page in pages)
    links = sum(len(page.links) for page in pages)
    print(f"{len(pages)} pages, {links} links, {blocks} code blocks: {len(problems)} problems")
    return 1 if problems else 0


def problems_of(page: Page) -> Iterator[str]:
    """What is wrong with one page, as `file:line: what`."""
    for line, target in page.links:
        if not _resolves(page, target):
            yield f"{_name(page.path)}:{line}: link to {target!r} leads nowhere"
        elif page.path == README and addresses.is_relative(target):
            wanted = addresses.address(target)
            yield f"README.md:{line}: link to {target!r} is relative, expected {wanted}: package indexes show it alone"
    for block in page.blocks:
        if block.language == "python":
            yield from _python_problems(block)
        elif block.language == "console":
            yield from _console_problems(block)


def unreachable(pages: Sequence[Page]) -> list[Path]:
    """The pages that no chain of links from `docs/index.md` and `README.md` leads to."""
    by_path = {page.path: page for page in pages}
    waiting = [ROOT / "docs" / "index.md", README]
    seen = set(waiting)
    while waiting:
        page = by_path[waiting.pop()]
        targets = {_file(page, target) for _, target in page.links}
        waiting += (targets & by_path.keys()) - seen
        seen |= targets
    return sorted(by_path.keys() - seen)


def _resolves(page: Page, target: str) -> bool:
    if addresses.path_of(target) is None and re.match(r"[a-z]+:", target):
        return not target.startswith(addresses.base() + "/blob/")
    file, fragment = _file(page, target), target.partition("#")[2]
    if not file.exists():
        return False
    return not fragment or file.suffix != ".md" or fragment in _anchors(file)


def _file(page: Page, target: str) -> Path:
    """The file that a link of a page leads to, itself for a mere fragment."""
    inside = addresses.path_of(target)
    path = (target if inside is None else inside).partition("#")[0]
    return ((page.path.parent if inside is None else ROOT) / path).resolve() if path else page.path


@cache
def _anchors(path: Path) -> frozenset[str]:
    return read_page(path).anchors


def _python_problems(block: Block) -> Iterator[str]:
    try:
        ast.parse(block.text)
    except SyntaxError as error:
        yield f"{_name(block.page)}:{block.line + (error.lineno or 1) - 1}: {error.msg}"


def _console_problems(block: Block) -> Iterator[str]:
    for command in commands_in(block.text):
        words = shlex.split(command, comments=True)
        for problem in _command_problems(words):
            yield f"{_name(block.page)}:{block.line}: `{command}`: {problem}"


def commands_in(text: str) -> list[str]:
    """The commands of a `console` block: the lines after `$ `, with their continuation lines."""
    joined = text.replace("\\\n", " ")
    return [line[2:].strip() for line in joined.splitlines() if line.startswith("$ ")]


def _command_problems(words: list[str]) -> Iterator[str]:
    if words[0] == "make":
        targets = [word for word in words[1:] if "=" not in word]
        yield from (f"the Makefile has no target {word!r}" for word in targets if word not in _make_targets())
    if words[0] != "adaptzip" or len(words) == 1:
        return
    command = words[1:3] if words[1] in GROUPS else words[1:2]
    named = [word for word in command if not word.startswith("-")]
    text = _help(*named)
    if text is None:
        yield f"there is no command {' '.join(named)!r}"
        return
    options = [word.partition("=")[0] for word in words[1:] if re.match(r"--?[a-z]", word)]
    yield from (f"there is no option {option!r}" for option in options if not _offers(text, option))


@cache
def _make_targets() -> frozenset[str]:
    return frozenset(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))


@cache
def _help(*command: str) -> str | None:
    """What `adaptzip COMMAND --help` prints, or None if there is no such command."""
    done = subprocess.run(
        [sys.executable, "-m", "adaptzip", *command, "--help"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    return done.stdout if done.returncode == 0 else None


def _offers(help_text: str, option: str) -> bool:
    return re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", help_text) is not None


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


if __name__ == "__main__":
    sys.exit(main())
