"""Choices in sessions, for bridges of the previous release: the later one counts, whoever writes last."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from letta_bridge.agents.user_settings import SessionChoices
from shared_utils.persistence.choices.port import Choice, user_key
from shared_utils.persistence.sessions.memory_store import InMemorySessionStore
from shared_utils.persistence.sessions.port import CHOICE_FIELD


@pytest.fixture
def store() -> InMemorySessionStore:
    return InMemorySessionStore()


@pytest.fixture
def choices(store: InMemorySessionStore) -> SessionChoices:
    return SessionChoices(store, ["default", "teacher"])


def choice(chosen_ms: int, *, permanent_memory: bool) -> Choice:
    return Choice(user_key("ada"), permanent_memory, chosen_ms)


@pytest.mark.parametrize("permanent_memory", [True, False])
async def test_earlier_choice_that_is_written_late_leaves_a_later_one(
    store: InMemorySessionStore, choices: SessionChoices, permanent_memory: Any
) -> None:
    later = choice(6, permanent_memory=not permanent_memory)
    await store.reserve("ada", "default")
    await choices.write("ada", later)
    await choices.write("ada", choice(5, permanent_memory=permanent_memory))
    session = await store.find("ada", "default")
    assert session is not None
    assert session.choice == later
    assert session.permanent_memory == later.permanent_memory


async def test_opt_out_wins_a_tie_whichever_is_written_last(
    store: InMemorySessionStore, choices: SessionChoices
) -> None:
    opt_out = choice(5, permanent_memory=False)
    for one in (opt_out, choice(5, permanent_memory=True), opt_out):
        await choices.write("ada", one)
        assert await choices.opt_out("ada") == opt_out


async def test_opt_out_of_the_previous_release_gives_way_to_any_choice_of_this_one(
    store: InMemorySessionStore, choices: SessionChoices
) -> None:
    session = await store.reserve("ada", "default")
    await store.save(replace(session, metadata={CHOICE_FIELD: False}))
    await choices.write("ada", choice(5, permanent_memory=True))
    assert await choices.opt_out("ada") is None
