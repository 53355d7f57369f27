"""docs/logs.md lists every event the services log, and no other."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

CHECKOUT = Path(__file__).parents[2]
SOURCES = (
    "shared_utils/src",
    "services/letta-bridge-python/src",
    "services/letta-server/src/letta_server/logs",
    "services/letta-server/src/letta_server/workers",
    "services/memory-python/src",
)
pytestmark = pytest.mark.xdist_group("logs")  # what the tests share is read once
LEVELS = {"debug", "info", "warning", "error", "critical", "exception"}
EVENT = re.compile(r"^[a-z][a-z0-9_]*$")


@cache
def calls() -> Any:
    """Every call that writes a line: (path, event, level, names of its fields)."""
    return list(_calls())


def _calls() -> Iterator[Any]:
    for source in SOURCES:
        for path in sorted((CHECKOUT / source).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and (found := _event(node)):
                    yield path, *found


def _event(call: Any) -> Any:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if name not in LEVELS and name != "log":
        return None
    texts = [arg.value for arg in call.args[:2] if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
    if not texts:
        return None
    fields = {keyword.arg for keyword in call.keywords if keyword.arg} - {"exc_info"}
    return texts[0], name.replace("exception", "error"), fields


def rows() -> dict[Any, Any]:
    """Event → its row's cells: level, fields, when, what to do."""
    text = (CHECKOUT / "docs" / "logs.md").read_text(encoding="utf-8")
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| `")]
    return {event.strip("`"): rest for event, *rest in cells}


def test_an_event_is_a_name() -> None:
    for path, event, _, _ in calls():
        assert EVENT.match(event), f"{path}: {event!r}"


def test_every_event_is_listed_and_no_other() -> None:
    assert sorted(rows()) == sorted({event for _, event, _, _ in calls()})


def test_every_row_is_complete() -> None:
    for event, (level, _fields, when, _what_to_do) in rows().items():
        assert level, event
        assert when, event


def test_levels_and_fields_are_right() -> None:
    listed = rows()
    for path, event, level, fields in calls():
        row = listed[event]
        if level != "log":
            assert level in row[0].split(", "), f"{path}: {event} is logged as {level}"
        missing = fields - set(re.findall(r"`(\w+)`", row[1]))
        assert not missing, f"{path}: {event} has {missing}, which docs/logs.md leaves out"


def test_log_lines_contain_no_message_texts() -> None:
    for path, event, _, fields in calls():
        assert not fields & {"content", "text", "message", "response_text", "prompt"}, f"{path}: {event}"
