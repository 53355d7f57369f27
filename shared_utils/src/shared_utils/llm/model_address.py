"""Compares addresses of models, and shows them without what logs in."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import SplitResult, urlsplit

OPENAI: Final = "https://api.openai.com/v1"
"""Only with exactly this one does Letta name models ``openai/…`` and not ``openai-proxy/…``."""
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_LOGIN: Final = re.compile(r"(?<=//)[^/?#]*@")
_LOGIN_TO_ESCAPE: Final = re.compile(r"(?<=//).*@")
_QUERY: Final = re.compile(r"[?#].*")


def tidy(address: str) -> str:
    """The address without blanks and slashes around it, as Letta is to get it."""
    return address.strip().rstrip("/")


def shown(address: str) -> str:
    """The address without user, password and query, which may hold keys; :func:`same` finds it by that."""
    # What is no URL may be one whose password has a /, ? or # in it.
    login = _LOGIN_TO_ESCAPE if _split(address) is None else _LOGIN
    return _QUERY.sub("", login.sub("", address))


def is_address(address: str) -> bool:
    """Whether it is a URL of a model: http or https, with a host."""
    parts = _split(tidy(address))
    blank = any(map(str.isspace, tidy(address)))
    return parts is not None and parts.scheme in _DEFAULT_PORTS and bool(parts.hostname) and not blank


def same(one: str, other: str) -> bool:
    """Whether two addresses are one: a slash at the end, upper case in the host and a default port do not count.

    Login and query count only if ``one`` has them, so an operator need not write a key down to name an address.
    """
    given, found = _split(tidy(one)), _split(tidy(other))
    if given is None or found is None:
        return tidy(one) == tidy(other)
    return (
        _comparable(given) == _comparable(found)
        and (_login(given) in {(None, None), _login(found)})
        and given.query in {"", found.query}
    )


def _comparable(parts: SplitResult) -> tuple[object, ...]:
    port = parts.port or _DEFAULT_PORTS.get(parts.scheme)
    return parts.scheme, parts.hostname, port, parts.path.rstrip("/")


def _login(parts: SplitResult) -> tuple[str | None, str | None]:
    return parts.username, parts.password


def _split(address: str) -> SplitResult | None:
    try:
        parts = urlsplit(address)
        _ = parts.port
    except ValueError:
        return None
    return None if parts.netloc.endswith(":") else parts  # a login, cut at the slash in its password
