"""An opt-out is tagged on every agent of its user and removed again; an outage of Letta delays no choice."""

from __future__ import annotations

import asyncio
from typing import Any
from unittest.mock import AsyncMock

import pytest

from letta_bridge.agents import opt_out_tags
from letta_bridge.agents.agent_spec import Owner, agent_spec, opt_out_in, opt_out_tags_in, user_tags
from letta_bridge.agents.opt_out_tags import OptOutTags
from letta_bridge.errors import BreakerOpen, TenantTaken
from letta_bridge.settings import AgentSettings
from letta_bridge.testing.letta import InMemoryLetta
from shared_utils.persistence.choices.port import Choice, user_key

SETTINGS = AgentSettings()


@pytest.fixture
async def letta() -> InMemoryLetta:
    letta = InMemoryLetta()
    for owner in (("", "ada", "default"), ("", "ada", "coach"), ("", "bo", "default"), ("shop", "ada", "default")):
        await letta.create_agent(agent_spec(SETTINGS, Owner(*owner), None))
    return letta


async def opt_outs(letta: InMemoryLetta, tenant: str = "", user: str = "ada") -> list[Any]:
    return [opt_out_in(user, agent.tags) for agent in await letta.find_agents(user_tags(tenant, user))]


async def test_opt_out_tags_every_persona_of_its_user_only(letta: InMemoryLetta) -> None:
    choice = Choice(user_key("ada"), permanent_memory=False, chosen_ms=5)
    assert await OptOutTags(lambda: letta, "").write("ada", choice)
    assert await opt_outs(letta) == [choice, choice]
    assert await opt_outs(letta, user="bo") == [None]
    assert await opt_outs(letta, "shop") == [None]


async def test_later_choice_replaces_the_tag(letta: InMemoryLetta) -> None:
    tags = OptOutTags(lambda: letta, "")
    for chosen_ms in (5, 6, 6):
        await tags.write("ada", Choice(user_key("ada"), permanent_memory=False, chosen_ms=chosen_ms))
    agents = await letta.find_agents(["bridge", "user:ada"])
    assert [opt_out_tags_in(agent.tags) for agent in agents] == [("memory-opt-out:6",)] * 2
    await tags.write("ada", Choice(user_key("ada"), permanent_memory=True, chosen_ms=7))
    assert await opt_outs(letta) == [None, None]


@pytest.mark.parametrize("permanent_memory", [True, False])
async def test_earlier_choice_that_arrives_late_leaves_the_tag_of_a_later_opt_out(
    letta: InMemoryLetta, permanent_memory: bool
) -> None:
    tags = OptOutTags(lambda: letta, "")
    later = Choice(user_key("ada"), permanent_memory=False, chosen_ms=6)
    await tags.write("ada", later)
    assert await tags.write("ada", Choice(user_key("ada"), permanent_memory=permanent_memory, chosen_ms=5))
    assert await opt_outs(letta) == [later, later]


async def test_unavailable_letta_is_reported_without_an_error(letta: InMemoryLetta) -> None:
    choice = Choice(user_key("ada"), permanent_memory=False, chosen_ms=5)
    letta.down = True
    assert not await OptOutTags(lambda: letta, "").write("ada", choice)

    def breaker_open() -> Any:
        raise BreakerOpen

    assert not await OptOutTags(breaker_open, "").write("ada", choice)


async def test_hanging_letta_times_out(letta: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(opt_out_tags, "_TAG_WRITE_TIMEOUT_SECONDS", 0.02)
    letta.find_agents = lambda _tags: asyncio.sleep(60)
    assert not await OptOutTags(lambda: letta, "").write("ada", Choice("k", False, 5))


async def test_agents_that_another_queue_has_are_not_tagged(letta: InMemoryLetta) -> None:
    refusing = AsyncMock(side_effect=TenantTaken)
    assert not await OptOutTags(lambda: letta, "", refusing).write("ada", Choice("k", False, 5))
    assert await opt_outs(letta) == [None, None]
