"""Who answers: a table of switches and tasks."""

from __future__ import annotations

from typing import Any

import pytest

from letta_bridge.consent import Verdict
from letta_bridge.settings import LettaSettings
from letta_bridge.turn.router import Decision, route
from shared_utils.contracts.messages import Task

LETTA = Decision("letta", "permanent")
UNKNOWN_TYPE = Decision("memory-python", "memory_type_unknown")


def decision(task: dict[str, Any], *, consent: Verdict = Verdict.ALLOWED, **settings: Any) -> Decision:
    return route(Task.model_validate(task), LettaSettings.model_validate(settings), consent=consent)


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ({"content": "hi"}, LETTA),
        ({"content": "hi", "meta": {}}, LETTA),
        ({"content": "hi", "meta": {"memory_type": ""}}, LETTA),
        ({"content": "hi", "meta": {"memory_type": "permanent"}}, LETTA),
        ({"content": "hi", "meta": {"memory_type": "temporary"}}, Decision("memory-python", "temporary")),
        ({"content": "hi", "meta": {"memory_type": "unheard of"}}, UNKNOWN_TYPE),
        ({"content": "hi", "type": "audio"}, LETTA),
        ({"type": "audio"}, Decision("memory-python", "audio")),
        ({"type": "audio", "input_file": "voice.wav"}, Decision("memory-python", "audio")),
        ({"type": "text", "input_file": "note.txt"}, LETTA),
    ],
)
def test_the_route_follows_the_task(task: dict[str, Any], expected: Decision) -> None:
    assert decision(task) == expected


@pytest.mark.parametrize("memory_type", ["permanent", None])
def test_memory_python_answers_with_catch_up_while_letta_is_switched_off(memory_type: str | None) -> None:
    task = {"content": "hi", "meta": {"memory_type": memory_type}}
    assert decision(task, enabled=False) == Decision("memory-python", "letta_disabled", remember=True)


def test_temporary_task_has_no_catch_up_while_letta_is_switched_off() -> None:
    task = {"content": "hi", "meta": {"memory_type": "temporary"}}
    assert decision(task, enabled=False) == Decision("memory-python", "temporary")


@pytest.mark.parametrize("enabled", [True, False])
def test_unknown_memory_type_does_not_request_permanent_memory(enabled: bool) -> None:
    task = {"content": "hi", "meta": {"memory_type": "temporay"}}
    assert decision(task, enabled=enabled) == UNKNOWN_TYPE


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("memory_type", ["permanent", "temporary", None])
def test_a_user_without_permanent_memory_never_reaches_an_agent(enabled: bool, memory_type: str | None) -> None:
    task = {"content": "hi", "meta": {"memory_type": memory_type}}
    for consent, reason in ((Verdict.DENIED, "user_switch"), (Verdict.UNKNOWN, "choice_unknown")):
        assert decision(task, consent=consent, enabled=enabled) == Decision("memory-python", reason)


@pytest.mark.parametrize(
    ("routing", "memory_type", "expected"),
    [
        ({"permanent": "memory-python"}, None, Decision("memory-python", "permanent")),
        ({"permanent": "memory-python"}, "unheard of", UNKNOWN_TYPE),
        ({"temporary": "letta"}, "temporary", Decision("letta", "temporary")),
        ({"diary": "letta", "permanent": "memory-python"}, "diary", Decision("letta", "diary")),
        ({}, None, LETTA),
        ({}, "temporary", UNKNOWN_TYPE),
    ],
)
def test_the_operators_table_decides_over_the_type(
    routing: dict[str, Any], memory_type: str | None, expected: Decision
) -> None:
    assert decision({"content": "hi", "meta": {"memory_type": memory_type}}, memory_type_routing=routing) == expected
