"""What errors keep when the place that they are about is put in front of them."""

from __future__ import annotations

import pickle

import pytest

from adaptzip.errors import (
    AdaptzipError,
    CheckFailedError,
    NoRoomError,
    OutOfReachError,
    OutputError,
    StoppedError,
    naming,
)


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


@pytest.mark.parametrize(
    "error",
    [
        CheckFailedError("no", hint="yes"),
        NoRoomError("too small", hint="allow more", least=7),
        OutOfReachError(0.1, 0.2, hint=None, settings=3),
        StoppedError("stopped", exit_code=130),
        OutputError("full"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_of_another_process_arrive_whole(error: AdaptzipError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)
    assert again.exit_code == error.exit_code
