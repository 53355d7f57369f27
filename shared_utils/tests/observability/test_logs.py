"""One format for every line of the process, and no secret in any of them."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from pydantic import SecretStr

from shared_utils.config.settings import LogSettings
from shared_utils.observability import logs, redaction
from shared_utils.observability.logs import redact_text
from shared_utils.observability.redaction import Policy

SECRET = "what a user said"


class Logged:
    """A process that logs to the captured standard output."""

    def __init__(self, capsys: Any) -> None:
        self._capsys = capsys
        self._text = ""

    def configure(self, *secrets: str, **settings: str) -> Any:
        logs.configure(LogSettings(**settings), "a-service", secrets=secrets)
        return logs.get("a.module")

    def text(self) -> str:
        self._text += self._capsys.readouterr().out
        return self._text

    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.text().splitlines()]


def fail(error: Any) -> None:
    raise error


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Logged]:
    monkeypatch.setattr(logging.root, "handlers", [])
    for module, name in ((sys, "excepthook"), (sys, "unraisablehook"), (threading, "excepthook")):
        monkeypatch.setattr(module, name, getattr(module, name))
    monkeypatch.setattr(redaction, "policy", Policy())
    monkeypatch.setattr(logs, "policy", redaction.policy)
    logging.captureWarnings(capture=False)  # a test that ran a command may have left it on
    level = logging.root.level
    fields = logs._fields.set({})
    yield Logged(capsys)
    logs._fields.reset(fields)
    logging.captureWarnings(capture=False)
    logging.root.setLevel(level)
    structlog.reset_defaults()


def test_a_line_is_one_json_object_with_event_service_module_level_and_time(logged: Logged) -> None:
    logged.configure(format="json").info(
        "turn_settled", task_id="t1", attempts=2, ratio=0.5, agent_id=None, note="名\n"
    )
    (line,) = logged.lines()
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "turn_settled",
        "service": "a-service",
        "module": "a.module",
        "level": "info",
        "task_id": "t1",
        "attempts": 2,
        "ratio": 0.5,
        "agent_id": None,
        "note": "名\n",
    }
    assert "名" in logged.text()


def test_without_a_terminal_the_automatic_format_is_json(logged: Logged) -> None:
    logged.configure().info("started")
    assert logged.lines()[0]["event"] == "started"


def test_the_console_format_is_for_people(logged: Logged) -> None:
    log = logged.configure(format="console")
    try:
        fail(OSError("redis://:hunter2@h is away"))
    except OSError:
        log.exception("failed", task_id="t1")
    text = logged.text()
    assert "failed" in text
    assert "task_id=t1" in text
    assert "OSError: redis://:***@h is away" in text
    assert "hunter2" not in text


@pytest.mark.parametrize(("level", "events"), [("debug", ["d", "i", "w"]), ("info", ["i", "w"]), ("error", [])])
def test_the_level_is_the_least_that_is_written(logged: Logged, level: str, events: list[Any]) -> None:
    log = logged.configure(format="json", level=level)
    log.debug("d")
    log.info("i")
    log.warning("w")
    assert [line["event"] for line in logged.lines()] == events


def test_the_level_may_change_while_running(logged: Logged) -> None:
    log = logged.configure(format="json")
    log.debug("before")
    logs.adjust(LogSettings(level="debug"))
    log.debug("between")
    logs.adjust(LogSettings(level="error"))
    log.warning("after")
    logging.getLogger("some.library").warning("after")
    assert [line["event"] for line in logged.lines()] == ["between"]


def test_a_configured_secret_is_hidden_in_every_kind_of_line(logged: Logged) -> None:
    log = logged.configure("correct horse", format="json", salt="ours")
    log.info("event", error="it is correct horse", deep={"why": ["correct horse"]})
    logging.getLogger("some.library").error("sent %r", b"AUTH correct horse")
    try:
        fail(OSError("no correct horse"))
    except OSError:
        log.exception("failed")
    assert len(logged.lines()) == 3
    assert "correct horse" not in logged.text()


def test_a_crash_is_one_line_without_secrets(logged: Logged) -> None:
    logged.configure("correct horse", format="json")
    try:
        fail(RuntimeError("correct horse\nin two lines"))
    except RuntimeError as error:
        sys.excepthook(type(error), error, error.__traceback__)
    (line,) = logged.lines()
    assert (line["event"], line["level"]) == ("crashed", "critical")
    assert "RuntimeError: ***" in line["exception"]


def test_ctrl_c_is_no_crash(logged: Logged, capsys: pytest.CaptureFixture[str]) -> None:
    logged.configure(format="json")
    sys.excepthook(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert logged.lines() == []


def test_pythons_warnings_have_the_same_format(logged: Logged) -> None:
    logged.configure(format="json")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("an old way", DeprecationWarning, stacklevel=1)
    (line,) = logged.lines()
    assert (line["event"], line["module"], line["level"]) == ("library_log", "py.warnings", "warning")
    assert "DeprecationWarning: an old way" in line["detail"]


def test_bound_fields_are_in_every_later_line(logged: Logged) -> None:
    log = logged.configure(format="json")
    logs.bind(task_id="t1", user_id="ada")
    log.info("event")
    (line,) = logged.lines()
    assert (line["task_id"], line["user_id"]) == ("t1", logs.pseudonym("ada"))


def test_a_line_of_another_thread_names_the_service(logged: Logged) -> None:
    log = logged.configure()
    thread = threading.Thread(target=log.info, args=("hello",))
    thread.start()
    thread.join()
    assert logged.lines()[0]["service"] == "a-service"


def test_a_process_that_identified_itself_is_named_in_lines_of_all_its_threads(
    logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "_own_fields", {})
    log = logged.configure()
    logs.identify(worker=2)
    thread = threading.Thread(target=log.info, args=("hello",))
    thread.start()
    thread.join()
    log.info("again")
    assert [line["worker"] for line in logged.lines()] == [2, 2]


def test_message_texts_and_user_ids_can_be_switched_on(logged: Logged) -> None:
    log = logged.configure(format="json")
    log.info("event", user_id="ada", text="hi")
    logs.adjust(LogSettings(user_ids=True, message_text=True))
    log.info("event", user_id="ada", text="hi")
    hidden, shown = logged.lines()
    assert (hidden["user_id"], hidden["text"]) == (logs.pseudonym("ada"), "<2 characters>")
    assert (shown["user_id"], shown["text"]) == ("ada", "hi")


def test_an_exception_is_part_of_its_line_without_its_secrets(logged: Logged) -> None:
    log = logged.configure(format="json")
    try:
        fail(ValueError("no answer from postgres://u:hunter2@h/d with Bearer abcdef123"))
    except ValueError:
        log.exception("failed")
    (line,) = logged.lines()
    assert "Traceback" in line["exception"]
    assert "ValueError: no answer from postgres://u:***@h/d with Bearer ***" in line["exception"]


def test_a_librarys_line_has_the_same_format(logged: Logged) -> None:
    logged.configure(format="json")
    logging.getLogger("some.library").warning("cannot reach %s", "redis://:hunter2@h:6379")
    logging.getLogger("some.library").info("chatter")
    (line,) = logged.lines()
    assert line["detail"] == "cannot reach redis://:***@h:6379"
    assert (line["event"], line["module"], line["level"]) == ("library_log", "some.library", "warning")


def test_a_librarys_exception_is_not_lost(logged: Logged) -> None:
    logged.configure(format="json")
    try:
        fail(KeyError("a key"))
    except KeyError:
        logging.getLogger("some.library").exception("it failed")
    (line,) = logged.lines()
    assert "KeyError: 'a key'" in line["exception"]


def test_a_librarys_own_level_is_taken_for_the_one_below(logged: Logged) -> None:
    logged.configure(format="json")
    logging.getLogger("some.library").log(35, "between")
    assert logged.lines()[0]["level"] == "warning"


@pytest.mark.parametrize(
    "key", ["password", "redis_password", "passwd", "secret", "client_secret", "token", "api_key", "apikey",
            "letta_api_key", "Authorization", "access_token"],
)  # fmt: skip
def test_a_value_is_hidden_by_the_name_of_its_key(key: str) -> None:
    assert logs.redact(None, "", {key: "hunter2", "deep": {key: ["hunter2"]}}) == {key: "***", "deep": {key: "***"}}


def test_token_counts_are_not_redacted() -> None:
    event = {"event": "x", "prompt_tokens": 5, "max_tokens": 9, "enabled": True, "missing": None}
    assert logs.redact(None, "", dict(event)) == event


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("redis://:hunter2@host", "redis://:***@host"),
        ("redis://user:hunter2@host:6379/0", "redis://user:***@host:6379/0"),
        ("redis+sentinel://u:hunter2@h1:1,h2:2/name", "redis+sentinel://u:***@h1:1,h2:2/name"),
        ("postgres://user:hunter2@host/db", "postgres://user:***@host/db"),
        ("postgresql://u:hunter%402@h", "postgresql://u:***@h"),
        ("redis://:hunt@er2@host", "redis://:***@host"),
        ("postgres://u:hun/ter2@host/db", "postgres://u:***@host/db"),
        ("from redis://:hunter2@a to redis://:hunter2@b", "from redis://:***@a to redis://:***@b"),
        ("{'url': 'redis://:hunter2@a', 'mail': 'x@y'}", "{'url': 'redis://:***@a', 'mail': 'x@y'}"),
        ("Authorization: Bearer eyJhbGciOi.J9-_x", "Authorization: Bearer ***"),
        ("key sk-proj-abc_DEF123 is wrong", "key sk-*** is wrong"),
        ("host=h password=hunter2 dbname=d", "host=h password=*** dbname=d"),
        ('{"api_key": "hunter2", "a": 1}', '{"api_key": "***", "a": 1}'),
    ],
)
def test_a_secret_is_hidden_by_its_shape(text: str, redacted: str) -> None:
    assert redact_text(text) == redacted


@pytest.mark.parametrize(
    "text", ["redis://host:6379/0", "a desk-lamp", "risk-averse", "user@example.org: hi", "你好: 10:30@home"]
)
def test_texts_without_secrets_are_not_redacted(text: str) -> None:
    assert redact_text(text) == text


@pytest.mark.parametrize(
    "value",
    [b"redis://:hunter2@h", ValueError("sk-hunter2hunter2"), SecretStr("hunter2"), {"redis://:hunter2@h"}],
    ids=lambda value: type(value).__name__,
)
def test_a_value_that_is_no_text_is_searched_too(logged: Logged, value: Any) -> None:
    logged.configure(format="json").info("event", value=value, deep=[{"value": value}])
    assert logged.lines()
    assert "hunter2" not in logged.text()


class Defective:
    """Raises where Python cannot hand the exception to anybody."""

    def __del__(self) -> None:
        raise ValueError(SECRET)


def test_a_line_that_cannot_be_written_does_not_fail_its_caller() -> None:
    with Path("/dev/full").open("w", buffering=1, encoding="utf-8") as full:
        logs.configure(LogSettings(format="json"), "a-service", stream=full)
        logs.get("a.module").info("turn_settled")
        logging.getLogger("a library").error("said %s", SECRET)
        with contextlib.suppress(OSError):
            full.close()
    logs.get("a.module").info("turn_settled")


def test_half_an_emoji_does_not_fail_the_line(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w", encoding="utf-8") as stream:
        logs.configure(LogSettings(format="json"), "a-service", stream=stream)
        logs.get("a.module").info("turn_settled", task_id="t\ud83d")
    assert json.loads((tmp_path / "log").read_text("utf-8"))["task_id"] == "t\ud83d"


def test_a_librarys_wrong_log_call_leaves_a_line_without_its_text(
    logged: Logged, capsys: pytest.CaptureFixture[str]
) -> None:
    logged.configure(format="json")
    logging.getLogger("a library").error("said %d", SECRET)
    said = capsys.readouterr()
    assert "a log call that failed: TypeError" in json.loads(said.out)["detail"]
    assert SECRET not in said.out + said.err


def test_exceptions_of_threads_and_finalizers_are_lines_without_secrets(
    logged: Logged, capsys: pytest.CaptureFixture[str]
) -> None:
    logged.configure(SECRET, format="json")
    thread = threading.Thread(target=fail, args=(ValueError(SECRET),))
    thread.start()
    thread.join()
    Defective()
    said = capsys.readouterr()
    lines = [json.loads(line) for line in said.out.splitlines()]
    assert [line["detail"] for line in lines] == ["A thread crashed", "An exception was ignored"]
    assert all("ValueError: ***" in line["exception"] for line in lines)
    assert (SECRET in said.out, said.err) == (False, "")
