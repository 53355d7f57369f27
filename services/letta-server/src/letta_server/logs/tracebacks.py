"""Exceptions as text without their messages, which quote requests, rows and answers of providers."""

from __future__ import annotations

import errno
import os
import re
import socket
import ssl
import traceback
from collections.abc import Iterator
from typing import Final

_CODE: Final = re.compile(r"[\w.-]{1,64}")
_CODES: Final = ("status_code", "sqlstate", "code", "type", "constraint_name", "table_name")
"""Attributes by which exceptions of HTTP clients, database drivers and Letta say what happened."""
_CAUSE: Final = "\nThe above exception was the direct cause of the following exception:\n\n"
_CONTEXT: Final = "\nDuring handling of the above exception, another exception occurred:\n\n"


def traceback_text(error: BaseException, *, quoting: bool) -> str:
    """The whole traceback, the causes of the exception first.

    Args:
        error: the exception.
        quoting: with the messages of the exceptions, as Python prints them.
    """
    if quoting:
        return "".join(traceback.format_exception(error)).rstrip()
    parts: list[str] = []
    for one, follows in _chain(error, set()):
        frames = "".join(traceback.format_tb(one.__traceback__))
        heading = "Traceback (most recent call last):\n" if frames else ""
        parts.append(f"{heading}{frames}{describe(one, quoting=False)}\n{follows}")
    return "".join(parts).rstrip()


def describe(error: BaseException, *, quoting: bool) -> str:
    """One line: the exception's class and what it says."""
    name = f"{type(error).__module__}.{type(error).__qualname__}".removeprefix("builtins.")
    if quoting:
        return f"{name}: {error}".removesuffix(": ")
    if isinstance(error, OSError) and (words := _system_words(error)):
        return f"{name}: {words}"
    original = getattr(error, "orig", None)  # SQLAlchemy's exceptions quote statements and parameters
    if isinstance(original, BaseException):
        return f"{name}: {describe(original, quoting=False)}"
    codes = [f"{field} {code}" for field in _CODES if (code := _code(error, field))]
    try:
        length = len(str(error))
    except Exception:  # noqa: BLE001  # of a class whose text is defective
        length = 0
    return f"{name}: {', '.join(codes)}" if codes else f"{name}: <{length} characters>" if length else name


def _system_words(error: OSError) -> str:
    """What the system says; empty where a library raised it with a text. File names may quote a request."""
    if isinstance(error, ssl.SSLError):
        return _code(error, "reason") or ""
    if isinstance(error, socket.gaierror):
        return error.strerror or ""
    number = error.errno
    return "" if number is None or number not in errno.errorcode else f"[Errno {number}] {os.strerror(number)}"


def _code(error: BaseException, field: str) -> str | None:
    value = getattr(error, field, None)
    value = getattr(value, "value", value)  # of an enumeration
    return str(value) if isinstance(value, str | int) and _CODE.fullmatch(str(value)) else None


def _chain(error: BaseException, seen: set[int]) -> Iterator[tuple[BaseException, str]]:
    """The exception and those before it, oldest first, each with the words that lead to the next one."""
    seen.add(id(error))
    before, words = error.__cause__, _CAUSE
    if before is None and not error.__suppress_context__:
        before, words = error.__context__, _CONTEXT
    if before is not None and id(before) not in seen:
        *earlier, (last, _) = _chain(before, seen)
        yield from earlier
        yield last, words
    if isinstance(error, BaseExceptionGroup):
        for member in error.exceptions:
            if id(member) not in seen:
                *earlier, (last, _) = _chain(member, seen)
                yield from earlier
                yield last, "\nThe above exception is one of the following group:\n\n"
    yield error, ""
