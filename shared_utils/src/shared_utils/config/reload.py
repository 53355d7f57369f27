"""Splits newly read settings into those that a running service applies and those that need a restart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Any, Generic, TypeVar

from pydantic import BaseModel
from structlog.typing import FilteringBoundLogger

from shared_utils.config.variables import leaves
from shared_utils.errors import SettingsError

_Settings = TypeVar("_Settings", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Reload(Generic[_Settings]):
    """The outcome of reading the settings again."""

    settings: _Settings
    """The settings in force: the running ones with every changed value that is reloadable."""
    changed: dict[str, Any]
    """Dotted path → new value of the settings taken over."""
    need_restart: tuple[str, ...]
    """Dotted paths of the settings that differ and stay as they were."""


def merge(running: _Settings, read: _Settings) -> Reload[_Settings]:
    """Compare the running settings with newly read ones."""
    changed: dict[str, Any] = {}
    need_restart: list[str] = []
    merged: BaseModel = running
    for leaf in leaves(type(running)):
        path = leaf.path.split(".")
        value = _at(read, path)
        if value == _at(running, path):
            continue
        if leaf.reloadable:
            merged = _with(merged, path, value)
            changed[leaf.path] = value
        else:
            need_restart.append(leaf.path)
    return Reload(merged, changed, tuple(need_restart))  # type: ignore[arg-type]  # a copy of ``running``


def reread(running: _Settings, read: Callable[[], _Settings], log: FilteringBoundLogger) -> _Settings | None:
    """Read the settings again and log the result; returns the settings in force, None if they are invalid."""
    try:
        outcome = merge(running, read())
    except SettingsError as error:
        sentence = str(error)
    else:
        log.info("settings_reloaded", changed=outcome.changed, need_restart=list(outcome.need_restart))
        return outcome.settings
    log.error("settings_refused", error=sentence)
    return None


def _at(settings: BaseModel, path: list[str]) -> Any:
    return reduce(getattr, path, settings)


def _with(settings: BaseModel, path: list[str], value: Any) -> BaseModel:
    name, *rest = path
    inner = _with(getattr(settings, name), rest, value) if rest else value
    return settings.model_copy(update={name: inner})
