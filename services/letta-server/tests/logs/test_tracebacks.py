from __future__ import annotations

import errno
import socket
from enum import Enum
from typing import Any

import pytest

from letta_server.logs.tracebacks import describe, traceback_text

SECRET = "what a user said"


class Refused(Exception):
    def __init__(self, message: str, **fields: Any) -> None:
        super().__init__(message)
        for name, value in fields.items():
            setattr(self, name, value)


class Untold(Exception):
    def __str__(self) -> str:
        raise ValueError(SECRET)


class Code(Enum):
    TOO_LONG = "CONTEXT_TOO_LONG"


def raised(error: BaseException, cause: BaseException | None = None) -> BaseException:
    try:
        raise error from cause  # noqa: TRY301  # for its traceback
    except BaseException as caught:  # noqa: BLE001
        return caught


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError(SECRET), f"ValueError: <{len(SECRET)} characters>"),
        (KeyError(), "KeyError"),
        (OSError(errno.ECONNREFUSED, "Connection refused"), "ConnectionRefusedError: [Errno 111] Connection refused"),
        (
            FileNotFoundError(errno.ENOENT, "No such file", SECRET),
            "FileNotFoundError: [Errno 2] No such file or directory",
        ),
        (TimeoutError(SECRET), f"TimeoutError: <{len(SECRET)} characters>"),
        (socket.gaierror(-2, "Name or service not known"), "socket.gaierror: Name or service not known"),
        (Untold(), "Untold"),
        (Refused(SECRET, status_code=400, code="bad_request"), "Refused: status_code 400, code bad_request"),
        (Refused(SECRET, code=Code.TOO_LONG), "Refused: code CONTEXT_TOO_LONG"),
        (Refused(SECRET, code=SECRET), f"Refused: <{len(SECRET)} characters>"),
        (Refused(SECRET, orig=Refused(SECRET, sqlstate="23505")), "Refused: Refused: sqlstate 23505"),
    ],
)
def test_description_has_codes_and_no_message(error: BaseException, line: str) -> None:
    described = describe(error, quoting=False).replace(f"{__name__}.", "")
    assert described == line
    assert SECRET not in described


def test_traceback_keeps_frames_and_causes_and_leaves_messages_out() -> None:
    error = raised(RuntimeError(SECRET), raised(ValueError(SECRET)))
    text = traceback_text(error, quoting=False)
    assert SECRET not in text
    assert text.count("Traceback (most recent call last):") == 2
    assert text.index("ValueError") < text.index("direct cause") < text.index("RuntimeError")
    assert "in raised" in text


def test_traceback_of_a_group_names_its_members() -> None:
    group = ExceptionGroup(SECRET, [ValueError(SECRET), TypeError(SECRET)])
    text = traceback_text(raised(group), quoting=False)
    assert "ValueError" in text
    assert "TypeError" in text
    assert SECRET not in text


def test_an_exception_that_is_its_own_context_ends() -> None:
    first, second = ValueError(SECRET), TypeError(SECRET)
    first.__context__, second.__context__ = second, first
    assert "TypeError" in traceback_text(first, quoting=False)


def test_messages_are_there_on_request() -> None:
    assert SECRET in traceback_text(raised(ValueError(SECRET)), quoting=True)
    assert describe(ValueError(SECRET), quoting=True) == f"ValueError: {SECRET}"
