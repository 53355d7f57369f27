"""Structured logs: one event per line with a stable name and ids, without message texts and secrets.

docs/logs.md lists every event; :mod:`shared_utils.observability.redaction` hides sensitive values.
"""

from __future__ import annotations

import io
import logging
import sys
import threading
from collections.abc import Collection, Mapping
from contextvars import ContextVar
from functools import partial
from types import MappingProxyType, TracebackType
from typing import Any, Final, TextIO, cast

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

from shared_utils.config.settings import LogSettings
from shared_utils.observability.redaction import policy, pseudonym, redact, redact_text

__all__ = ["LibraryHandler", "adjust", "bind", "configure", "get", "identify", "pseudonym", "redact", "redact_text"]

_LOG_LEVELS: Final = (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL)
"""The levels structlog knows; a library may log at one in between."""
_NUMBERS: Final = {logging.getLevelName(level).lower(): level for level in _LOG_LEVELS}


_fields: Final[ContextVar[Mapping[str, Any]]] = ContextVar("log_fields", default=MappingProxyType({}))
"""The fields of every later line of an asyncio task. One variable: to set one per field, as structlog does, takes ten
times as long.
"""
_own_fields: Final[dict[str, Any]] = {}
"""The fields of every line of this process."""


class _Threshold:
    """Drops lines below a level that may change at runtime."""

    level = logging.INFO

    def __call__(self, _logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        if _NUMBERS[method] < self.level:
            raise structlog.DropEvent
        return event


_threshold = _Threshold()


def configure(
    settings: LogSettings, service: str, *, secrets: Collection[str] = (), stream: TextIO | None = None
) -> None:
    """Send every log line of this process, the libraries' too, to one stream in one format.

    Args:
        settings: level, format, and what is shown.
        service: its name, in every line.
        secrets: values to hide wherever they turn up (:func:`shared_utils.config.secret_values.secrets_of`).
        stream: where to; standard output where not given.
    """
    stream = stream or sys.stdout
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")  # for half an emoji in an id
    console = settings.format == "console" or (settings.format == "auto" and stream.isatty())
    shared: list[Processor] = [
        _threshold,
        partial(_add_fields, service),
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        redact,  # last, so that it sees the tracebacks, too
    ]
    rendering: list[Processor] = (
        [structlog.dev.ConsoleRenderer(colors=stream.isatty(), exception_formatter=structlog.dev.plain_traceback)]
        if console
        else [structlog.processors.JSONRenderer(ensure_ascii=False)]
    )
    structlog.configure(
        processors=[*shared, *rendering],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
        logger_factory=lambda *_: _LineLogger(stream),
        cache_logger_on_first_use=True,
    )
    policy.secrets = tuple(sorted(secrets, key=len, reverse=True))
    policy.salt = settings.salt.get_secret_value() if settings.salt else ""
    logging.basicConfig(handlers=[_ToStructlog()], force=True)
    logging.captureWarnings(capture=True)
    sys.excepthook = _log_crash
    threading.excepthook = _log_thread_crash
    sys.unraisablehook = _log_ignored
    adjust(settings)


def adjust(settings: LogSettings) -> None:
    """Apply settings that may change at runtime: the level and the redaction."""
    _threshold.level = _NUMBERS[settings.level]
    # Library lines below warning concern internals, and may quote requests.
    logging.getLogger().setLevel(max(_threshold.level, logging.WARNING))
    policy.user_ids = settings.user_ids
    policy.message_text = settings.message_text


def get(name: str) -> FilteringBoundLogger:
    """A logger whose lines carry ``module=name``."""
    return cast("FilteringBoundLogger", structlog.get_logger(module=name))


def bind(**fields: Any) -> None:
    """Put fields into every later line of this asyncio task."""
    _fields.set({**_fields.get(), **fields})


def identify(**fields: Any) -> None:
    """Put fields into every later line of this process, of all its threads: which of several alike it is."""
    _own_fields.update(fields)


def _add_fields(service: str, _logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    # These are no context variables, because a thread that a library starts has none of them.
    return {"service": service, **_own_fields, **_fields.get(), **event}


def _log_crash(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, traceback)
        return
    get("shared_utils.logs").critical("crashed", exc_info=(kind, error, traceback))


def _log_thread_crash(crash: threading.ExceptHookArgs) -> None:
    if not issubclass(crash.exc_type, SystemExit):
        _log_stray("A thread crashed", crash.exc_value)


def _log_ignored(ignored: sys.UnraisableHookArgs) -> None:
    _log_stray("An exception was ignored", ignored.exc_value)


def _log_stray(detail: str, error: BaseException | None) -> None:
    # By the root handler, which knows whether texts may be written.
    logging.getLogger("shared_utils.logs").error(detail, exc_info=error)


class _LineLogger(structlog.PrintLogger):
    """Drops a line that cannot be written (disk full, reader gone): a log must not fail what it reports on."""

    def msg(self, message: str) -> None:
        try:
            super().msg(message)
        except (OSError, ValueError):  # ValueError: the stream is closed
            return

    log = debug = info = warn = warning = error = critical = fatal = failure = err = exception = msg


class LibraryHandler(logging.Handler):
    """Base of handlers of libraries' log records. A record that cannot be written leaves a line without its text."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record; a library's odd log call must not fail its caller."""
        try:
            self.write(record, max(known for known in _LOG_LEVELS if known <= max(record.levelno, logging.DEBUG)))
        except Exception:  # noqa: BLE001  # whatever it is
            self.handleError(record)

    def write(self, record: logging.LogRecord, level: int) -> None:
        """Write a record as a line; ``level`` is the record's, rounded down to one that structlog knows."""
        raise NotImplementedError

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        # The original prints message and arguments, which may quote a user, to standard error.
        reason = type(sys.exc_info()[1]).__name__
        place = f"{record.pathname}:{record.lineno}"
        get(record.name).error("library_log", detail=f"<a log call that failed: {reason} at {place}>")


class _ToStructlog(LibraryHandler):
    """The libraries' own log lines, in the same format."""

    def write(self, record: logging.LogRecord, level: int) -> None:
        structlog.get_logger(module=record.name).log(
            level, "library_log", detail=record.getMessage(), exc_info=record.exc_info
        )
