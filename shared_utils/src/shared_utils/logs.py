"""Structured logs: one event a line, a stable name and ids, never a user's words, never a secret."""

from __future__ import annotations

import logging
import re
import sys
from typing import Any, Final, cast

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

from shared_utils.settings import LogSettings

_SECRET_KEY: Final = re.compile(r"(?i)(passwo?r?d|secret|token$|api_?key|authorization)")
_URL_PASSWORD: Final = re.compile(r"(\w+://[^\s/:@]*):[^\s\"'<>]+@")
"""Up to the last @: a password that should have been escaped is hidden whole."""
_BEARER: Final = re.compile(r"(?i)\b(bearer\s+|sk-)[\w.~+/=-]{4,}")
_ASSIGNED: Final = re.compile(r"(?i)((?:passwo?r?d|secret|api_?key)[\"']?\s*[=:]\s*[\"']?)[^\s\"'&,;]+")

_LEVELS: Final = (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL)
"""The levels structlog knows; a library may log at one in between."""


def configure(settings: LogSettings, service: str) -> None:
    """Send every log line of this process, the libraries' too, to standard output in one format."""
    console = settings.format == "console" or (settings.format == "auto" and sys.stdout.isatty())
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        redact,  # last, so that it sees the tracebacks, too
    ]
    rendering: list[Processor] = (
        [structlog.dev.ConsoleRenderer(colors=sys.stdout.isatty(), exception_formatter=structlog.dev.plain_traceback)]
        if console
        else [structlog.processors.JSONRenderer(ensure_ascii=False)]
    )
    structlog.configure(
        processors=[*shared, *rendering],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stdout),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(service=service)
    logging.basicConfig(level=max(level, logging.WARNING), handlers=[_ToStructlog()], force=True)


def get(name: str) -> FilteringBoundLogger:
    """A logger whose lines carry ``module=name``."""
    return cast("FilteringBoundLogger", structlog.get_logger(module=name))


def redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Hide what looks like a secret, by the name of its key or by its shape."""
    return {key: "***" if _SECRET_KEY.search(key) else _redacted(value) for key, value in event.items()}


def redact_text(text: str) -> str:
    """A text without passwords (in URLs, or after ``password=``), bearer tokens and API keys."""
    return _ASSIGNED.sub(r"\1***", _BEARER.sub(r"\1***", _URL_PASSWORD.sub(r"\1:***@", text)))


def _redacted(value: Any) -> Any:
    if isinstance(value, str):
        return redact_text(value)
    if isinstance(value, dict):
        return {key: "***" if _SECRET_KEY.search(str(key)) else _redacted(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_redacted(item) for item in value]
    # What is no JSON would be written as its repr anyway.
    return value if value is None or isinstance(value, int | float) else redact_text(repr(value))


class _ToStructlog(logging.Handler):
    """The libraries' own log lines, in the same format."""

    def emit(self, record: logging.LogRecord) -> None:
        level = max(known for known in _LEVELS if known <= max(record.levelno, logging.DEBUG))
        try:
            structlog.get_logger(module=record.name).log(
                level, "library_log", message=record.getMessage(), exc_info=record.exc_info
            )
        except Exception:  # noqa: BLE001  # a library's odd log call must not fail its caller
            self.handleError(record)
