"""README's examples print what stands below them: `python -m checks.readme` puts it there."""

from __future__ import annotations

import re

from checks.readme import EXAMPLES, README, examples

_NUMBER = re.compile(r"\d[\d,.]*")


def test_the_examples_print_what_readme_says() -> None:
    shown = README.read_text(encoding="utf-8").partition("<!-- benchmark: examples -->")[2]
    shown = shown.partition("<!-- end benchmark -->")[0].strip()
    assert shown.count("$ adaptzip") == len(EXAMPLES)
    # Other processors round otherwise in the last digits.
    assert _NUMBER.sub("#", examples()) == _NUMBER.sub("#", shown)
