"""What SIGHUP changes, and what has to wait for a restart."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, SecretStr

from shared_utils.config.reload import merge, reread
from shared_utils.config.settings import Section, setting
from shared_utils.errors import SettingsError


class Inner(Section):
    size: int = setting(1, doc="", reload=True)
    place: str = setting("here", doc="")


class Outer(Section):
    level: str = setting("info", doc="", reload=True)
    key: SecretStr | None = setting(None, doc="")
    inner: Inner = Inner()


class Settings(BaseModel):
    outer: Outer = Outer()


class Log:
    def __init__(self) -> None:
        self.lines: list[Any] = []

    def info(self, event: str, **fields: Any) -> None:
        self.lines.append(("info", event, fields))

    def error(self, event: str, **fields: str) -> None:
        self.lines.append(("error", event, fields))


@pytest.fixture
def log() -> Log:
    return Log()


def settings(**outer: Any) -> Any:
    return Settings.model_validate({"outer": outer})


def test_reload_applies_only_reloadable_settings() -> None:
    read = settings(level="debug", key="new", inner={"size": 2, "place": "there"})
    outcome = merge(settings(key="old"), read)
    assert outcome.settings == settings(level="debug", key="old", inner={"size": 2})
    assert outcome.changed == {"outer.level": "debug", "outer.inner.size": 2}
    assert outcome.need_restart == ("outer.key", "outer.inner.place")


def test_the_running_settings_are_not_touched() -> None:
    running = settings()
    merge(running, settings(level="debug"))
    assert running == settings()


def test_the_same_settings_change_nothing() -> None:
    outcome = merge(settings(level="debug"), settings(level="debug"))
    assert (outcome.settings, outcome.changed, outcome.need_restart) == (settings(level="debug"), {}, ())


def test_reload_logs_changed_settings_and_those_that_need_a_restart(log: Any) -> None:
    assert reread(settings(), lambda: settings(level="debug", key="hunter2"), log) == settings(level="debug")
    assert log.lines == [
        ("info", "settings_reloaded", {"changed": {"outer.level": "debug"}, "need_restart": ["outer.key"]})
    ]


def test_wrong_settings_change_nothing(log: Any) -> None:
    def read() -> None:
        raise SettingsError("outer.level is wrong")

    assert reread(settings(), read, log) is None
    assert log.lines == [("error", "settings_refused", {"error": "outer.level is wrong"})]
