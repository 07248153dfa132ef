"""Write the command-line reference from the program's own help: `python -m checks.cli_reference`.

The test suite fails where the page differs from what this makes.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from pathlib import Path
from unittest.mock import patch

from adaptzip.cli._failures import EXIT_CODES
from adaptzip.cli.app import COMMANDS, GROUPS
from adaptzip.cli.app import main as adaptzip

PAGE = Path(__file__).parent.parent / "docs" / "reference" / "cli.md"
_START = """\
# The command line

<!-- Made by `python -m checks.cli_reference`; do not edit. -->

- A source is a PEFT folder, its weight file, or a `.adz` file.
- No command writes over what it reads, or into a folder that it reads, also through a link and with `-f`: such an
  output is refused before any work is done.
- Results go to stdout. Progress, warnings, errors and the summary of a write go to stderr, where the last
  line says what was written, its size, its ratio and its error.
- `--json` prints one JSON object on stdout; [its keys](json.md) stay. When a command fails, the last line of
  stderr is a JSON object too.
- An output appears whole or not at all, and an existing one is replaced only with `-f`, in one step where the
  system can. `-n` shows what would be written. What a killed run leaves beside its output, a hidden folder
  `.NAME.*.adaptzip`, is removed by the next run that writes there; `merge` goes on with it where it makes the same.
- Progress bars are shown on a terminal only, without colour where `NO_COLOR` is set.

## Exit codes

| code | meaning |
|---:|---|
"""


def main() -> int:
    """Write the page."""
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(reference(), encoding="utf-8")
    print(f"wrote {PAGE}")
    return 0


def reference() -> str:
    """The page as it should be."""
    codes = "".join(f"| {code} | {meaning} |\n" for code, meaning in EXIT_CODES.items())
    names = [[command.__name__] for command in COMMANDS]
    names += [
        [group, *word] for group, found in GROUPS.items() for word in ([], *([c.__name__] for c in found.COMMANDS))
    ]
    commands = [f"\n## adaptzip {' '.join(words)}\n\n{_help(*words)}" for words in names]
    return f"{_START}{codes}\n## adaptzip\n\n{_help()}{''.join(commands)}"


def _help(*words: str) -> str:
    """What `adaptzip WORDS --help` prints, as a code block."""
    printed = io.StringIO()
    with patch.dict(os.environ, COLUMNS="80"), contextlib.redirect_stdout(printed):
        adaptzip([*words, "--help"])
    return f"```text\n{printed.getvalue().strip()}\n```\n"


if __name__ == "__main__":
    sys.exit(main())
