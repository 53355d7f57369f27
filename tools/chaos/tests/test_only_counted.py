"""Which turns an agent knows by their number alone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from bridge_chaos.load import Utterance
from bridge_chaos.promises.only_counted import Bounds, Exchange, only_counted

NOTES = {
    "en": "(While you were away, the short-term memory answered {} earlier messages that are not shown here.)",
    "zh": "(在你不在的时候,短期记忆还回答了用户更早的 {} 条消息,内容未附上。)",
}
BOUNDS = Bounds(turns=3, characters=1000)


def exchanges(sources: Any, characters: int = 10) -> list[Exchange]:
    """One exchange for each letter, answered by (l)etta or (m)emory-python."""
    replies = {"l": {"source": "letta"}, "m": {"source": "memory-python"}}
    return [Exchange(Utterance("ada", number), characters, replies[by]) for number, by in enumerate(sources)]


def run(run_id: Any, *numbers: Any, left_out: int = 0, language: str = "en") -> list[Any]:
    """Messages of one run: what is told along, and at last the turn itself."""
    note = [{"message_type": "system_message", "content": NOTES[language].format(left_out), "run_id": run_id}]
    said = [
        {"message_type": "user_message", "content": Utterance("ada", number).text, "run_id": run_id}
        for number in numbers
    ]
    return [*note * bool(left_out), *said]


def numbers(found: Any) -> list[Any]:
    return sorted(utterance.number for utterance in found)


def test_the_bounds_are_those_of_the_configuration_and_of_the_topology() -> None:
    def bounds(*variables: Any) -> Any:
        environment: Any = SimpleNamespace(topology=SimpleNamespace(variables=variables))
        return Bounds.of(environment)

    assert bounds() == Bounds(turns=20, characters=8000)
    assert bounds(("LETTA_BRIDGE_FALLBACK_CATCH_UP_MAX_TURNS", "200")) == Bounds(turns=200, characters=8000)


@pytest.mark.parametrize("language", NOTES)
def test_the_turns_before_those_that_are_reported_are_known_by_number(language: str) -> None:
    history = run("run-1", 0) + run("run-2", 3, 4, 5, 6, left_out=2, language=language)
    assert numbers(only_counted(history, exchanges("lmmmmml"), BOUNDS)) == [1, 2]


def test_a_turn_beyond_the_number_of_the_note_is_not_known() -> None:
    history = run("run-1", 0) + run("run-2", 3, 4, 5, 6, left_out=1)
    assert numbers(only_counted(history, exchanges("lmmmmml"), BOUNDS)) == [2]


def test_a_note_counts_no_turn_that_the_bounds_would_have_let_through() -> None:
    history = run("run-1", 0) + run("run-2", 3, 4, left_out=2)
    assert only_counted(history, exchanges("lmmml"), BOUNDS) == set()


def test_note_excludes_turns_caught_up_or_answered_before() -> None:
    history = run("run-1", 4) + run("run-2", 6, 7, 8, 9, left_out=5)
    assert numbers(only_counted(history, exchanges("mmmmlmmmml"), BOUNDS)) == [5]


def test_without_a_note_nothing_is_known() -> None:
    assert only_counted(run("run-2", 3, 4, 5, 6), exchanges("mmmmmml"), BOUNDS) == set()


def test_a_bound_of_characters_leaves_out_too() -> None:
    bounds = Bounds(turns=20, characters=25)
    history = run("run-2", 2, 3, 4, left_out=2)
    assert numbers(only_counted(history, exchanges("mmmml"), bounds)) == [0, 1]
