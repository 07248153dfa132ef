"""What other engines say of patterns as Python's `re`, which PEFT asks, says it: each case where one differs.

pip install google-re2 regex
python -m benchmarks.pattern_engines
"""

from __future__ import annotations

import argparse
import re
import warnings
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec

CASES = (
    (r"\d", "\u0663"), (r"\w+", "\u00e9"), (r"\s", "\x1f"), ("a{,2}", "aa"), ("a{,2}", "a{,2}"), ("(?=a)a", "a"),
    (r"(a)\1", "aa"), ("(?<!x)a", "a"), ("a++", "aa"), ("[[:alpha:]]", "a]"), (r"\Z", ""), ("(?:ab){e<=1}", "ac"),
    ("(?P<x>a)(?P=x)", "aa"), ("(a)?b(?(1)c|d)", "bd"), (r"\pN", "1"), ("(?>a+)b", "aab"), (r"a\z", "a"),
    (r"\Qa.b\E", "a.b"), (r"\h", " "), ("(?|a|b)", "a"), ("a{1001}", "a" * 1001),
)  # fmt: skip
"""A pattern, and a text that it may fit as a whole."""


def engines() -> Mapping[str, Callable[[str, str], object]]:
    """Those that are installed, by name: whether a pattern fits the whole of a text."""
    found: dict[str, Callable[[str, str], object]] = {"re": re.fullmatch}
    if find_spec("re2") is not None:
        re2 = import_module("re2")
        options = re2.Options()
        options.log_errors = False
        found["re2"] = lambda pattern, text: re2.fullmatch(pattern, text, options)
    if find_spec("regex") is not None:
        found["regex"] = import_module("regex").fullmatch
    return found


def said(fits: Callable[[str, str], object], pattern: str, text: str) -> str:
    """Its answer in a word."""
    try:
        return "fits" if fits(pattern, text) else "does not"
    except Exception:
        return "error"


def main() -> int:
    """Print the answers that differ."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    warnings.simplefilter("ignore")
    asked = engines()
    for pattern, text in CASES:
        answers = {name: said(fits, pattern, text) for name, fits in asked.items()}
        if len(set(answers.values())) > 1:
            told = ", ".join(f"{name} {answer}" for name, answer in answers.items())
            print(f"{pattern!a:20} {text[:8]!a:12} {told}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
