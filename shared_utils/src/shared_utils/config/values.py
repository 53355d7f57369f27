"""Cleans and checks configured values: strips unintended characters, and names values that cannot be sent.

A value reaches a service through an environment, a file of secrets, a ``.env`` file or config.json, and its way there
leaves things on it: a line end, a byte order mark, an invisible character of a web page, quotes. Only the standard
library is used here, so that every service can.
"""

from __future__ import annotations

import re
from typing import Final

_INVISIBLE: Final = "\ufeff\u200b\u200c\u200d\u2060\x00\r\n\v\f\u2028\u2029"
_SPACES: Final = " \t\u00a0\u3000"
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_CONTROL: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_BREAK: Final = re.compile("[\t\n]")
_NOT_IN_A_HEADER: Final = re.compile("[^\x20-\x7e]")
_SERVICE_PORT: Final = re.compile(r"(tcp|udp|sctp)://", re.ASCII)


def trimmed(value: str, *, keep_spaces: bool = False) -> str:
    """The value without line ends, byte order marks and invisible characters around it.

    Args:
        value: as it was found.
        keep_spaces: for passwords, which may begin or end with a space.
    """
    return value.strip(_INVISIBLE if keep_spaces else _INVISIBLE + _SPACES)


def unquoted(value: str) -> str:
    """The value without a pair of quotes around it, which some programs that read ``.env`` files leave there."""
    inner = value[1:-1]
    is_quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "\"'" and value[0] not in inner
    return inner if is_quoted else value


def value_problem(value: str, *, one_line: bool = False) -> str | None:
    """Why the value is unusable, as a clause that does not repeat it; None if it is usable.

    Args:
        value: trimmed.
        one_line: whether a line break or tab within it is a fault, too.
    """
    if _SURROGATE.search(value):
        return "contains bytes that are not UTF-8; write it again, in UTF-8"
    if _CONTROL.search(value) or (one_line and _BREAK.search(value)):
        return "contains a line break or another control character; write it again, in one line"
    return None


def header_problem(value: str) -> str | None:
    """The same for values of HTTP headers, such as keys and tokens."""
    found = _NOT_IN_A_HEADER.search(value)
    if found is None:
        return None
    return f"cannot be sent: its character {found.start() + 1} is not allowed in an HTTP header; copy it again"


def is_service_port(name: str, value: str) -> bool:
    """Whether this is a variable ``…_PORT`` that Kubernetes or Docker set for a service: an address, not a number."""
    return name.endswith("_PORT") and _SERVICE_PORT.match(value.strip()) is not None
