"""The table of dialects is what the registry says, and says of each dialect who judges it."""

from __future__ import annotations

from adaptzip.checkpoints._registry import built_in
from checks.dialects_reference import PAGE, reference


def test_the_page_is_made_from_the_registry() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference(), "run `python -m checks.dialects_reference`"


def test_every_dialect_is_judged_by_somebody_elses_code() -> None:
    assert not [name for name, found in built_in().items() if not found.judged_by]
