from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import structlog

from letta_server.logs.records import RecordHandler

SECRET = "what a user said"
AGENT = "agent-123e4567-e89b-42d3-8456-426614174000"
RUN = "run-123e4567-e89b-42d3-8456-426614174000"


class NoResultFound(Exception):
    pass


@pytest.fixture
def events() -> Iterator[list[Any]]:
    with structlog.testing.capture_logs() as captured:
        yield captured


@pytest.fixture
def handler() -> RecordHandler:
    made = RecordHandler()
    made.quoting = False
    return made


def record(name: str, level: int, message: str, *arguments: object, error: BaseException | None = None) -> Any:
    information = (type(error), error, error.__traceback__) if error is not None else None
    return logging.LogRecord(name, level, "/nowhere.py", 1, message, arguments, information)


def raised(error: Exception) -> Exception:
    try:
        raise error  # noqa: TRY301  # for its traceback
    except Exception as caught:  # noqa: BLE001
        return caught


def test_line_names_module_and_ids_and_quotes_nothing(
    handler: RecordHandler, events: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    context = {"agent_id": AGENT, "run_id": RUN, "user_id": SECRET, "step_id": SECRET}
    monkeypatch.setitem(sys.modules, "letta.log_context", SimpleNamespace(get_log_context=lambda: context))
    handler.emit(record("Letta.letta.services.x", logging.WARNING, "said %s", SECRET))
    expected = {"module": "letta.services.x", "agent_id": AGENT, "run_id": RUN, "detail": "said %s"}
    assert events == [{**expected, "event": "library_log", "log_level": "warning"}]


def test_an_agents_logger_gives_its_id(handler: RecordHandler, events: list[Any]) -> None:
    handler.emit(record(f"Letta.{AGENT}", logging.ERROR, SECRET))
    assert (events[0]["module"], events[0]["agent_id"]) == ("letta.agents", AGENT)
    assert events[0]["detail"] == f"<{len(SECRET)} characters>"


@pytest.mark.parametrize(
    "routine", ["SECURITY: Listing org-scoped model %s without actor.", "Context token estimate is not set%s"]
)
def test_routine_warnings_are_debug_lines(handler: RecordHandler, events: list[Any], routine: str) -> None:
    handler.emit(record("Letta.letta.orm", logging.WARNING, routine, "Step"))
    handler.emit(record("Letta.letta.orm", logging.ERROR, routine, "Step"))
    assert [event["log_level"] for event in events] == ["debug", "error"]


def test_a_refused_request_is_no_error(handler: RecordHandler, events: list[Any]) -> None:
    error = raised(NoResultFound(SECRET))
    handler.emit(record("Letta.letta.server.rest_api.app", logging.ERROR, "NoResultFound", error=error))
    assert [(event["event"], event["log_level"]) for event in events] == [("request_refused", "info")]
    assert "exception" not in events[0]


def test_a_failed_request_has_its_traceback_once(handler: RecordHandler, events: list[Any]) -> None:
    error = raised(RuntimeError(SECRET))
    for name in (
        "Letta.letta.server.rest_api.middleware.logging",
        "Letta.letta.server.rest_api.app",
        "uvicorn.error",
    ):
        handler.emit(record(name, logging.ERROR, "Unhandled %s", SECRET, error=error))
    assert [(event["event"], event["log_level"]) for event in events] == [("request_failed", "error")]
    assert "in raised" in events[0]["exception"]
    assert SECRET not in str(events)


def test_an_error_logged_while_an_exception_is_handled_has_its_traceback(
    handler: RecordHandler, events: list[Any]
) -> None:
    for level in (logging.WARNING, logging.ERROR):
        try:
            raise ConnectionRefusedError(111, "Connection refused")
        except OSError:
            handler.emit(record("Letta.letta.x", level, "cannot reach it: %s", SECRET))
    assert "Connection refused" in events[0]["error"]
    assert ["exception" in event for event in events] == [False, True]


def test_a_warning_of_python_shows_its_category_alone(handler: RecordHandler, events: list[Any]) -> None:
    for category in ("UserWarning", "DeprecationWarning"):
        text = f"/site/x.py:7: {category}: got {SECRET}\n  code()"
        handler.emit(record("py.warnings", logging.WARNING, "%s", text))
    assert [(event["detail"], event["log_level"]) for event in events] == [
        ("/site/x.py:7: UserWarning", "warning"),
        ("/site/x.py:7: DeprecationWarning", "debug"),
    ]


def test_texts_are_written_where_that_is_switched_on(events: list[Any]) -> None:
    quoting = RecordHandler()
    error = raised(ValueError(SECRET))
    quoting.emit(record("Letta.letta.x", logging.ERROR, "said %s", SECRET, error=error))
    assert events[0]["detail"] == f"said {SECRET}"
    assert events[0]["exception"].endswith(f"ValueError: {SECRET}")


@dataclass(frozen=True)
class Frozen(Exception):
    reason: str = SECRET


def test_an_exception_that_takes_no_attribute_is_logged(
    handler: RecordHandler, events: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    handler.emit(record("Letta.x", logging.ERROR, SECRET, error=raised(Frozen())))
    assert "in raised" in events[0]["exception"]
    assert SECRET not in f"{events}{capsys.readouterr()}"


def test_a_log_call_that_fails_quotes_nothing(
    handler: RecordHandler, events: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    handler.quoting = True
    handler.emit(record("Letta.x", logging.ERROR, "said %d", SECRET))
    assert [event["detail"] for event in events] == ["<a log call that failed: TypeError at /nowhere.py:1>"]
    assert SECRET not in f"{events}{capsys.readouterr()}"


def test_a_dropped_warning_leaves_the_traceback_to_the_error_that_follows() -> None:
    program = """
import logging
from letta_server import logs
from shared_utils.config.settings import LogSettings
logs.configure(LogSettings(level="error"), secrets=())
try:
    raise ValueError
except ValueError as error:
    logging.getLogger("Letta.x").warning("first", exc_info=True)
    logging.getLogger("uvicorn.error").error("second", exc_info=error)
"""
    environment = {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    [line] = map(json.loads, done.stdout.splitlines())
    assert (line["module"], "Traceback" in line["exception"]) == ("uvicorn.error", True)


def test_the_watchdog_names_places_and_a_load_is_no_warning(handler: RecordHandler, events: list[Any]) -> None:
    name = "Letta.letta.monitoring.event_loop_watchdog"
    handler.emit(record(name, logging.WARNING, "Severe lag detected - dumping active tasks (3 total):"))
    handler.emit(record(name, logging.ERROR, "    in serve"))
    assert [(event["log_level"], event["detail"]) for event in events] == [
        ("debug", "Severe lag detected - dumping active tasks (3 total):"),
        ("error", "    in serve"),
    ]
