"""Types of settings that more than one service has."""

from __future__ import annotations

from typing import Annotated, Final
from urllib.parse import urlsplit

from pydantic import AfterValidator, SecretStr

from shared_utils.config.values import header_problem, trimmed, value_problem

_BEARER: Final = "bearer "


def http_address(url: str) -> str:
    """The address of an HTTP server, unchanged.

    Raises:
        ValueError: it is none, or it holds a user or a password, which logs and health pages would show.
    """
    problem = value_problem(url, one_line=True)
    if problem:
        raise ValueError(problem)
    try:
        parts = urlsplit(url)
        has_host = bool(parts.hostname)
        _ = parts.port
    except ValueError:
        has_host = False
    if "@" in url:
        raise ValueError("an address must not hold a user or password; the key or password has its own setting")
    if not has_host or parts.scheme not in {"http", "https"} or " " in url:
        raise ValueError("this is not the address of an HTTP server; write http://host:port or https://host/path")
    return url


def _sendable(key: SecretStr) -> SecretStr:
    text = trimmed(key.get_secret_value())
    if text.lower().startswith(_BEARER):
        text = text[len(_BEARER) :].strip()  # the header's own word, copied along
    if problem := header_problem(text):
        raise ValueError(problem)
    return SecretStr(text)


HttpAddress = Annotated[str, AfterValidator(http_address)]
HttpKey = Annotated[SecretStr, AfterValidator(_sendable)]
"""A key or password that this service sends in an HTTP header."""
HttpToken = Annotated[SecretStr, AfterValidator(lambda token: SecretStr(trimmed(token.get_secret_value())))]
"""A token that clients send to this service, compared byte by byte."""
