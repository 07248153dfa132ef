"""Write the table of checkpoint dialects from their registry: `python -m checks.dialects_reference`.

The test suite fails where the page differs from what this makes.
"""

from __future__ import annotations

import sys
from pathlib import Path

from adaptzip.checkpoints import Dialect, NativeWriter, Reader, Writer
from adaptzip.checkpoints._registry import built_in

PAGE = Path(__file__).parent.parent / "docs" / "reference" / "dialects.md"
_START = """\
# Checkpoint dialects

<!-- Made by `python -m checks.dialects_reference`; do not edit. -->

A checkpoint is read as the dialect that its keys tell, or as the one that `--from` names; `export` and `convert` write
the one that `--as` names, by default the one that the adapter came in; where that is not written, kohya's for image
models, else PEFT's. Beside these, `--as peft-portable` writes PEFT's
folder with one rank and one scale. Whose code judges a dialect is what the tests hold it against.

| dialect | files | read | written | judged by | has no place for, or does not read |
|---|---|---|---|---|---|
"""


def main() -> int:
    """Write the page."""
    PAGE.write_text(reference(), encoding="utf-8")
    print(f"wrote {PAGE}")
    return 0


def reference() -> str:
    """The page as it should be."""
    return _START + "".join(_row(found) for _, found in sorted(built_in().items()))


def _row(found: Dialect) -> str:
    names = ", ".join(f"`{name}`" for name in found.files.weights) or "any name"
    written = "yes" if isinstance(found, Writer) else ""
    if isinstance(found, NativeWriter):
        written = f"a `.adz` of {' or '.join(f'`{name}`' for name in found.takes)}"
    read = "yes" if isinstance(found, Reader) else ""
    return f"| `{found.name}` | {names} | {read} | {written} | {found.judged_by} | {found.lacks} |\n"


if __name__ == "__main__":
    sys.exit(main())
