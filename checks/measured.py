"""Put measured tables into the documentation: `python -m checks.measured` after `make demo`.

A page says where a table goes with a pair of comments, `<!-- measured: NAME -->` and `<!-- end -->`; what is
between them is replaced by the file that the measuring program wrote.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
TABLES = {"demo": ROOT / "demo-output" / "table.md"}
PLACE = re.compile(r"(<!-- measured: (\w+) -->\n).*?(<!-- end -->)", flags=re.DOTALL)


def main() -> int:
    """Fill in every page; 1 if a table has not been measured."""
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        text = page.read_text(encoding="utf-8")
        missing = [name for _, name, _ in PLACE.findall(text) if not TABLES[name].is_file()]
        if missing:
            print(f"{page.name}: no table {missing[0]!r}; run `make {missing[0]}` first", file=sys.stderr)
            return 1
        filled = PLACE.sub(lambda place: place[1] + TABLES[place[2]].read_text() + place[3], text)
        if filled != text:
            page.write_text(filled, encoding="utf-8")
            print(f"filled in {page.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
