"""Log records of Letta and of libraries as events: ids, never message texts."""

from __future__ import annotations

import contextlib
import logging
import re
import sys
from collections.abc import Mapping
from typing import Any, Final

import structlog

from letta_server.logs.templates import template
from letta_server.logs.tracebacks import describe, traceback_text
from shared_utils.observability.logs import LibraryHandler

_IDS: Final = ("agent_id", "run_id", "step_id", "conversation_id")
"""What Letta's own context holds of a request and what goes into its lines."""
_ID: Final = re.compile(r"[a-z_]+-[0-9a-f-]{36}")
_AGENT_LOGGER: Final = re.compile(r"agent-[0-9a-f-]{36}")
_WARNING: Final = re.compile(r"(?s)(?P<place>.+?:\d+): (?P<category>\w+): ")
_LOGGED: Final = "_letta_server_logged"
"""Set in an exception whose traceback is in the log: layers of the server log the same one up to three times."""
_APP: Final = "letta.server.rest_api.app"
_MIDDLEWARE: Final = "letta.server.rest_api.middleware.logging"

_WATCHDOG: Final = "letta.monitoring.event_loop_watchdog"
"""It quotes places in programs only. Its warnings are of a load; a loop that hangs is an error of its own."""

_ROUTINE: Final = (
    # One organization has everything in this Letta, so a query without a filter for it finds the same rows.
    "SECURITY: ",
    # Letta sets it itself, one line later.
    "Run {run_id} completed without a completed_at timestamp",
    # Before the first call of the model there is none.
    "Context token estimate is not set",
    # Nothing is wrong at the start: what the setting is, what is off by default, what is created now.
    "[Worker {worker_id}] PostgreSQL statement_timeout: {statement_timeout}",
    "Metrics are not initialized or meter is not available.",
    "LETTA_TOOL_SANDBOX_DIR does not exist, creating now: ",
    # letta-server says it once, at the start.
    "No encryption key configured.",
)
"""Beginnings of warnings that a faultless Letta writes; they count as debug lines."""

_REFUSALS: Final = frozenset(
    {
        "AgentNotFoundForExportError",
        "ConversationBusyError",
        "EmbeddingConfigRequiredError",
        "HandleNotFoundError",
        "LettaAgentNotFoundError",
        "LettaExpiredError",
        "LettaImageFetchError",
        "LettaInvalidArgumentError",
        "LettaUnsupportedFileUploadError",
        "LettaUserNotFoundError",
        "NoActiveRunsToCancelError",
        "NoResultFound",
        "PendingApprovalError",
    }
)
"""Exceptions by which Letta answers a request with a 4xx: nothing is wrong with the server. A ValueError is answered
like that too, but may be a defect."""


class RecordHandler(LibraryHandler):
    """Writes log records as events. The program's threshold decides which levels are written."""

    quoting = True
    """Whether texts are written as they are: before the first request no message is known to this process."""

    def write(self, record: logging.LogRecord, level: int) -> None:
        """See the base class."""
        error = _error_of(record)
        name = _name(record)
        if error is not None and name in {_APP, "uvicorn.error"} and _is_logged(error):
            return
        log = structlog.get_logger(module="letta.agents" if _is_agents(name) else name, **_ids(name))
        if name == _APP and error is not None and type(error).__name__ in _REFUSALS:
            log.info("request_refused", error=type(error).__name__)
            return
        level, fields = self._line(record, level, error)
        if error is not None and name in {_APP, _MIDDLEWARE}:
            log.log(level, "request_failed", **fields)
        else:
            log.log(level, "library_log", **fields)

    def _line(self, record: logging.LogRecord, level: int, error: BaseException | None) -> tuple[int, dict[str, Any]]:
        """Level and fields."""
        if record.name == "py.warnings":
            return _of_warning(record, level)
        text = template(record)
        watchdog = _name(record) == _WATCHDOG
        if level == logging.WARNING and (watchdog or text.startswith(_ROUTINE)):
            level = logging.DEBUG
        fields: dict[str, Any] = {"detail": record.getMessage() if self.quoting or watchdog else text}
        if error is not None:
            fields["error"] = describe(error, quoting=self.quoting)
            if (record.exc_info or level >= logging.ERROR) and not _is_logged(error):
                fields["exception"] = traceback_text(error, quoting=self.quoting)
                with contextlib.suppress(AttributeError, TypeError):  # a frozen exception, or one with slots
                    setattr(error, _LOGGED, True)
        return level, fields


def _error_of(record: logging.LogRecord) -> BaseException | None:
    """The exception that the record brings, or that is being handled where it was made."""
    given = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
    return given if given is not None else sys.exc_info()[1]


def _is_logged(error: BaseException) -> bool:
    return bool(getattr(error, _LOGGED, False))


def _of_warning(record: logging.LogRecord, level: int) -> tuple[int, dict[str, Any]]:
    """A warning of Python's: place and category; the rest may quote a value."""
    found = _WARNING.match(record.getMessage())
    if found is None:
        return level, {"detail": "<a warning>"}
    level = logging.DEBUG if "Deprecation" in found["category"] else level
    return level, {"detail": f"{found['place']}: {found['category']}"}


def _name(record: logging.LogRecord) -> str:
    """The logger's name without Letta's root: a module's, or an agent's id."""
    return record.name.removeprefix("Letta.")


def _is_agents(name: str) -> bool:
    return _AGENT_LOGGER.fullmatch(name) is not None


def _ids(name: str) -> dict[str, str]:
    context = _letta_context()
    found = {"agent_id": name} if _is_agents(name) else {}
    given = {name: str(context[name]) for name in _IDS if name in context}
    return found | {name: value for name, value in given.items() if _ID.fullmatch(value)}


def _letta_context() -> Mapping[str, object]:
    module = sys.modules.get("letta.log_context")
    return module.get_log_context() if module is not None else {}
