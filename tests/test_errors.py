"""What errors keep when the place that they are about is put in front of them."""

from __future__ import annotations

import pytest

from adaptzip.errors import CheckFailedError, NoRoomError, OutputError, naming


def test_what_an_error_tells_beside_its_message_is_kept() -> None:
    with (
        pytest.raises(NoRoomError, match=r"^a\.adz: module b: too small$") as caught,
        naming("a.adz", CheckFailedError),
        naming("module b", NoRoomError),
    ):
        raise NoRoomError("too small", hint="allow more", least=7)
    assert (caught.value.hint, caught.value.least) == ("allow more", 7)


def test_errors_of_other_kinds_are_left_alone() -> None:
    with pytest.raises(OutputError, match="^full$"), naming("a.adz", CheckFailedError):
        raise OutputError("full")
