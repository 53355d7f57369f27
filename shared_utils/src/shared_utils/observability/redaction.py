"""Redacts log lines: secrets, message texts and, unless switched on, user ids."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Any, Final

from structlog.typing import EventDict, WrappedLogger

_SECRET_KEY: Final = re.compile(r"(?i)(passwo?r?d|secret|token$|api_?key|authorization)")
_TEXT_KEYS: Final = frozenset(
    {"answer", "content", "input", "message", "messages", "payload", "prompt", "response_text", "summary", "text"}
)
_USER_KEYS: Final = frozenset({"lane", "user", "user_id"})

_URL_PASSWORD: Final = re.compile(r"(\w+://[^\s/:@]*):[^\s\"'<>]+@")
"""Up to the last @: a password that should have been escaped is hidden whole."""
_BEARER: Final = re.compile(r"(?i)\b(bearer\s+|sk-)[\w.~+/=-]{4,}")
_ASSIGNED: Final = re.compile(r"(?i)((?:passwo?r?d|secret|api_?key)[\"']?\s*[=:]\s*[\"']?)[^\s\"'&,;]+")
_INPUT_VALUE: Final = re.compile(r"(input_value=).*?(, input_type=)")
"""Pydantic's errors quote what they were given."""


@dataclass(slots=True)
class Policy:
    """The redaction policy of this process."""

    user_ids: bool = False
    message_text: bool = False
    salt: str = ""
    secrets: tuple[str, ...] = ()
    """Values to hide wherever they turn up, longest first."""


policy = Policy()


def redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Hide secrets by the name of their key, by their shape or by their value; texts and users by their key."""
    return {key: _field(key, value) for key, value in event.items()}


def redact_text(text: str) -> str:
    """A text without this process's secrets, passwords (in URLs, or after ``password=``), bearer tokens and keys."""
    for secret in policy.secrets:
        text = text.replace(secret, "***")
    text = _ASSIGNED.sub(r"\1***", _BEARER.sub(r"\1***", _URL_PASSWORD.sub(r"\1:***@", text)))
    return text if policy.message_text else _INPUT_VALUE.sub(r"\1***\2", text)


def pseudonym(user_id: str, salt: str = "") -> str:
    """The pseudonym of a user in the log: a salted one-way hash."""
    return "user-" + hashlib.blake2b(user_id.encode(), key=salt.encode()[:64], digest_size=6).hexdigest()


def _field(key: str, value: Any) -> Any:
    if _SECRET_KEY.search(key):
        return "***"
    if key in _TEXT_KEYS and not policy.message_text and value is not None:
        return f"<{len(value)} characters>" if isinstance(value, str) else "<hidden>"
    if key in _USER_KEYS and not policy.user_ids and value is not None:
        return pseudonym(str(value), policy.salt)
    return _value(value)


def _value(value: Any) -> Any:
    if isinstance(value, str):
        return redact_text(value)
    if isinstance(value, dict):
        return {key: _field(str(key), item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_value(item) for item in value]
    # What is no JSON would be written as its repr anyway.
    return value if value is None or isinstance(value, int | float) else redact_text(repr(value))
