"""Who answers: a table of switches and tasks."""

from __future__ import annotations

import pytest

from letta_bridge.router import Decision, route
from letta_bridge.settings import LettaSettings
from shared_utils.messages import Task

LETTA = Decision("letta", "permanent")


def decision(task, *, permanent_memory=True, **settings):
    return route(Task.model_validate(task), LettaSettings.model_validate(settings), permanent_memory=permanent_memory)


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ({"content": "hi"}, LETTA),
        ({"content": "hi", "meta": {}}, LETTA),
        ({"content": "hi", "meta": {"memory_type": ""}}, LETTA),
        ({"content": "hi", "meta": {"memory_type": "permanent"}}, LETTA),
        ({"content": "hi", "meta": {"memory_type": "temporary"}}, Decision("memory-python", "temporary")),
        ({"content": "hi", "meta": {"memory_type": "unheard of"}}, LETTA),
        ({"content": "hi", "type": "audio"}, LETTA),
        ({"type": "audio"}, Decision("memory-python", "audio")),
        ({"type": "audio", "input_file": "voice.wav"}, Decision("memory-python", "audio")),
        ({"type": "text", "input_file": "note.txt"}, LETTA),
    ],
)
def test_the_task_decides(task, expected):
    assert decision(task) == expected


@pytest.mark.parametrize("memory_type", ["permanent", None, "unheard of"])
def test_with_letta_switched_off_memory_answers_and_the_agent_hears_of_it_later(memory_type):
    task = {"content": "hi", "meta": {"memory_type": memory_type}}
    assert decision(task, enabled=False) == Decision("memory-python", "letta_disabled", agent_is_told=True)


def test_a_temporary_task_is_never_told_even_where_letta_is_switched_off():
    task = {"content": "hi", "meta": {"memory_type": "temporary"}}
    assert decision(task, enabled=False) == Decision("memory-python", "temporary")


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("memory_type", ["permanent", "temporary", None])
def test_a_user_without_permanent_memory_never_reaches_an_agent(enabled, memory_type):
    task = {"content": "hi", "meta": {"memory_type": memory_type}}
    expected = Decision("memory-python", "user_switch")
    assert decision(task, permanent_memory=False, enabled=enabled) == expected


@pytest.mark.parametrize(
    ("routing", "memory_type", "expected"),
    [
        ({"permanent": "memory-python"}, None, Decision("memory-python", "permanent")),
        ({"permanent": "memory-python"}, "unheard of", Decision("memory-python", "permanent")),
        ({"temporary": "letta"}, "temporary", Decision("letta", "temporary")),
        ({"diary": "letta", "permanent": "memory-python"}, "diary", Decision("letta", "diary")),
        ({}, None, LETTA),
    ],
)
def test_the_operators_table_decides_over_the_type(routing, memory_type, expected):
    assert decision({"content": "hi", "meta": {"memory_type": memory_type}}, memory_type_routing=routing) == expected
