"""Explains why a connection cannot be opened: closed port, unknown name, untrusted certificate.

Libraries wrap the operating system's error, each in its own way, and some keep only its text; both are looked through.
"""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Iterator
from typing import Final

_UNTRUSTED: Final = "its certificate is not trusted"
_NO_TLS: Final = "the TLS handshake fails"
_NO_NAME: Final = "its name cannot be resolved"
_REFUSED: Final = "no program listens there (connection refused)"
_NO_ROUTE: Final = "its network cannot be reached"
_NO_SOCKET: Final = "the socket does not exist"
_FORBIDDEN: Final = "this user may not open the socket"
_SILENT: Final = "it does not answer in time"

_TYPES: Final = (
    (ssl.SSLError, _NO_TLS),
    (socket.gaierror, _NO_NAME),
    (TimeoutError, _SILENT),
    (ConnectionRefusedError, _REFUSED),
    (FileNotFoundError, _NO_SOCKET),
    (PermissionError, _FORBIDDEN),
)
_VERIFICATION: Final = re.compile(r"certificate verify failed:? ?(?P<why>[^(:\n]*)", re.IGNORECASE)
_TEXTS: Final = (
    (re.compile(r"certificate_verify_failed|certificate verify failed|hostname mismatch", re.IGNORECASE), _UNTRUSTED),
    (re.compile(r"\[SSL[:\]]|ssl error|sslv3|tlsv1|wrong version number|does not support SSL", re.IGNORECASE), _NO_TLS),
    (
        re.compile(
            r"name or service not known|nodename nor servname|name resolution|no address associated|getaddrinfo|"
            r"failed to resolve|could not translate host name",
            re.IGNORECASE,
        ),
        _NO_NAME,
    ),
    (re.compile(r"connection refused|connect call failed", re.IGNORECASE), _REFUSED),
    (re.compile(r"network is unreachable|no route to host", re.IGNORECASE), _NO_ROUTE),
    (re.compile(r"no such file or directory", re.IGNORECASE), _NO_SOCKET),
    (re.compile(r"permission denied", re.IGNORECASE), _FORBIDDEN),
    (re.compile(r"timed out|timeout", re.IGNORECASE), _SILENT),
)


def connection_failure(error: BaseException) -> str | None:
    """Why a connection cannot be opened, as a clause about the server; None for other errors."""
    for inner in _chain(error):
        if (found := _of_type(inner)) is not None:
            return found
    for inner in _chain(error):
        for pattern, meaning in _TEXTS:
            if pattern.search(str(inner)):
                return _detailed(meaning, str(inner))
    return None


def _of_type(error: BaseException) -> str | None:
    if isinstance(error, ssl.SSLCertVerificationError):
        said = getattr(error, "verify_message", None)  # aiohttp's own kind has only the text
        return _detailed(_UNTRUSTED, f"certificate verify failed: {said}" if said else str(error))
    return next((meaning for kind, meaning in _TYPES if isinstance(error, kind)), None)


def _detailed(meaning: str, text: str) -> str:
    why = _VERIFICATION.search(text) if meaning == _UNTRUSTED else None
    detail = why["why"].strip(" .'") if why else ""
    return f"{meaning} ({detail})" if detail else meaning


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and whatever it came from, each once."""
    waiting, seen = [error], set[int]()
    while waiting:
        current = waiting.pop(0)
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        waiting += [inner for inner in (current.__cause__, current.__context__) if inner is not None]
        if isinstance(current, BaseExceptionGroup):
            waiting += current.exceptions
