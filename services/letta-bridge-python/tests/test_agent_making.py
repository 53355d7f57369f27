"""Making an agent is not idempotent: whatever fails in between, a user's memory stays in one agent."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from letta_bridge import agent_attempts, agent_maker
from letta_bridge.agent_attempts import InMemoryAgentAttempts
from letta_bridge.agent_spec import Owner, agent_spec, refusal_tag
from letta_bridge.errors import LettaRejected, LettaUnavailable, MemoryRefused, TurnFateUnknown
from letta_bridge.letta import InMemoryLetta, TurnMessage
from letta_bridge.session_manager import SessionManager
from letta_bridge.settings import AgentSettings
from shared_utils.persistence.choices import Choice, user_key
from shared_utils.persistence.memory_sessions import InMemorySessionStore

SETTINGS = AgentSettings()
ADA = Owner("", "ada", "default")


class LateLetta(InMemoryLetta):
    """Loses the answer to making an agent, goes on with it, and shows the agent when it is told to.

    ``halves``: the agents that show are not made to the end before :meth:`finish`.
    """

    def __init__(self):
        super().__init__()
        self.losing = 0
        self.error = TurnFateUnknown
        self.halves = False
        self.requests = 0
        self._hidden = []
        self._half_made = set()

    async def create_agent(self, spec):
        self.requests += 1
        if not self.losing:
            return await super().create_agent(spec)
        self.losing -= 1
        self._hidden.append(spec)
        raise self.error

    async def show(self):
        """What was lost shows now; the ids."""
        shown = [(await super(LateLetta, self).create_agent(spec)).agent_id for spec in self._hidden]
        self._hidden.clear()
        if self.halves:
            self._half_made.update(shown)
            for agent_id in shown:
                self._agents[agent_id].history.clear()
        return shown

    def finish(self, agent_id):
        self._half_made.discard(agent_id)
        self._agents[agent_id].history.append({"message_type": "system_message", "content": "system"})

    async def say(self, agent_id, text):
        await self.send(agent_id, [TurnMessage("user", text, f"otid-{text}")], timeout=5)


@pytest.fixture
def letta():
    return LateLetta()


@pytest.fixture
def queue_marks():
    """What all bridges of the queue see in Redis."""
    return InMemoryAgentAttempts()


@pytest.fixture
def bridge(queue_marks):
    """Makes bridges, each with a session file of its own unless it is given one."""
    return lambda store=None, **how: SessionManager(
        store or InMemorySessionStore(), SETTINGS, attempts=queue_marks, **how
    )


@pytest.fixture(autouse=True)
def quick_looks(monkeypatch):
    monkeypatch.setattr(agent_maker, "_LOOK_MIN_SECONDS", 0.001)
    monkeypatch.setattr(agent_maker, "_LOOK_MAX_SECONDS", 0.005)


@pytest.fixture
def impatient(monkeypatch):
    """An agent that does not show at once is not waited for."""
    monkeypatch.setattr(agent_attempts, "SHOWS_WITHIN_SECONDS", 0.02)
    monkeypatch.setattr(agent_maker, "SHOWS_WITHIN_SECONDS", 0.02)


async def ask(manager, letta, user="ada"):
    return await manager.agent_for(user, "default", None, letta)


async def agents_of(letta, user="ada"):
    return {ref.agent_id for ref in await letta.find_agents(["bridge", f"user:{user}"])}


@pytest.mark.parametrize("same_bridge", [True, False])
async def test_after_a_lost_answer_the_agent_is_waited_for_and_no_second_one_made(letta, bridge, same_bridge):
    letta.losing = 1
    first = bridge()
    with pytest.raises(TurnFateUnknown):
        await ask(first, letta)
    again = asyncio.create_task(ask(first if same_bridge else bridge(), letta))
    await asyncio.sleep(0.05)
    assert not again.done()
    [late] = await letta.show()
    assert await again == late
    assert letta.requests == 1


async def test_a_request_that_the_bridge_itself_gave_up_is_waited_for_too(letta, bridge):
    made, stuck = letta.create_agent, asyncio.Event()

    async def never_answered(spec):
        await made(spec)
        stuck.set()
        await asyncio.Event().wait()

    letta.create_agent = never_answered
    asking = asyncio.create_task(ask(bridge(), letta))
    await stuck.wait()
    asking.cancel()
    letta.create_agent = made
    await ask(bridge(), letta)
    assert letta.requests == 1


@pytest.mark.parametrize("error", [LettaUnavailable(refused=True), LettaRejected()])
async def test_after_a_failure_that_surely_made_nothing_another_bridge_begins_at_once(letta, bridge, error):
    letta.losing, letta.error = 1, error
    with pytest.raises(type(error)):
        await ask(bridge(), letta)
    async with asyncio.timeout(5):
        assert await ask(bridge(), letta)


async def test_what_shows_too_late_takes_nothing_over(letta, bridge, impatient):
    letta.losing = 1
    store = InMemorySessionStore()
    manager = bridge(store)
    with pytest.raises(TurnFateUnknown):
        await ask(manager, letta)
    agent = await ask(manager, letta)
    await letta.say(agent, "I am Ada")
    await letta.show()
    assert len(await agents_of(letta)) == 2
    for other in (bridge(), bridge(store), manager):
        assert await ask(other, letta) == agent


async def test_the_older_empty_agent_is_not_adopted_by_a_bridge_that_knows_nothing(letta, bridge):
    older = await letta.create_agent(agent_spec(SETTINGS, ADA, None))
    used = await letta.create_agent(agent_spec(SETTINGS, ADA, None))
    await letta.say(used.agent_id, "I am Ada")
    with capture_logs() as logs:
        assert await ask(bridge(), letta) == used.agent_id
    [line] = [line for line in logs if line["event"] == "duplicate_agents"]
    assert (line["log_level"], line["surplus"], line["with_content"]) == ("warning", [older.agent_id], [])
    assert len(await agents_of(letta)) == 2  # who uses the other one is not known here


async def test_of_two_with_content_the_one_an_ended_session_names_is_kept_and_the_other_named(letta, bridge):
    store = InMemorySessionStore()
    manager = bridge(store)
    mine = await ask(manager, letta)
    await letta.say(mine, "one")
    rival = (await letta.create_agent(agent_spec(SETTINGS, ADA, None))).agent_id
    for text in ("two", "three", "four"):
        await letta.say(rival, text)
    await store.delete(store.sessions["ada", "default"].session_id)
    with capture_logs() as logs:
        assert await ask(bridge(store), letta) == mine
    [line] = [line for line in logs if line["event"] == "duplicate_agents"]
    assert (line["log_level"], line["agent_id"], line["with_content"]) == ("error", mine, [rival])
    assert await ask(bridge(), letta) == rival  # nobody names one: the one with most messages


async def test_a_twin_that_shows_while_another_is_being_made_is_noticed_at_once(letta, bridge):
    created = letta.create_agent

    async def beside_another_bridge(spec):
        twin = await created(replace(spec, tags=spec.tags[:3]))
        await letta.say(twin.agent_id, "said meanwhile")
        return await created(spec)

    letta.create_agent = beside_another_bridge
    agent = await ask(bridge(), letta)
    assert await agents_of(letta) == {agent}
    assert (await letta.contents(agent)).messages == 2


async def test_of_two_agents_made_at_once_every_bridge_keeps_the_same(letta, bridge, monkeypatch):
    """Both had looked before either was there: Redis had lost the marks."""
    create, ready = letta.create_agent, asyncio.Barrier(2)

    async def together(spec):
        await ready.wait()
        made = await create(spec)
        await ready.wait()
        return made

    letta.create_agent = together
    marks = [InMemoryAgentAttempts(), InMemoryAgentAttempts()]
    managers = [SessionManager(InMemorySessionStore(), SETTINGS, attempts=one) for one in marks]
    found = await asyncio.gather(*(ask(manager, letta) for manager in managers))
    assert found[0] == found[1]
    assert await agents_of(letta) == {found[0]}


class TestHalfMade:
    async def test_an_agent_is_used_only_once_it_is_whole(self, letta, bridge):
        letta.losing, letta.halves = 1, True
        manager = bridge()
        with pytest.raises(TurnFateUnknown):
            await ask(manager, letta)
        [late] = await letta.show()
        again = asyncio.create_task(ask(manager, letta))
        await asyncio.sleep(0.05)
        assert not again.done()
        letta.finish(late)
        assert await again == late

    async def test_one_that_never_becomes_whole_is_replaced_and_removed(self, letta, bridge, impatient):
        letta.losing, letta.halves, letta.error = 1, True, LettaUnavailable
        manager = bridge()
        with pytest.raises(LettaUnavailable):
            await ask(manager, letta)
        [half] = await letta.show()
        agent = await ask(bridge(), letta)
        assert agent != half
        assert await agents_of(letta) == {agent}

    async def test_one_that_holds_something_is_not_removed(self, letta, bridge, impatient):
        letta.losing, letta.halves = 1, True
        manager = bridge()
        with pytest.raises(TurnFateUnknown):
            await ask(manager, letta)
        [half] = await letta.show()
        letta.note(half, "a passage somebody brought back")
        agent = await ask(manager, letta)
        assert await agents_of(letta) == {agent, half}


class TestRefusalOnAnAgent:
    """The last copy of a refusal, where database and Redis were lost with it."""

    @staticmethod
    async def refused(letta, chosen_ms=17):
        ref = await letta.create_agent(agent_spec(SETTINGS, ADA, None))
        await letta.retag(ref.agent_id, add=[refusal_tag(Choice(user_key("ada"), False, chosen_ms))])
        return ref.agent_id

    @pytest.mark.parametrize("store_away", [False, True])
    async def test_it_is_heeded_and_becomes_a_choice_again(self, make_rig, store_away):
        rig = make_rig()
        await self.refused(rig.letta)
        rig.store.broken = store_away
        manager = SessionManager(rig.store, SETTINGS, consent=rig.consent)
        with pytest.raises(MemoryRefused):
            await ask(manager, rig.letta)
        assert rig.choices.choices[user_key("ada")] == Choice(user_key("ada"), False, 17)
        assert rig.letta.sent == []

    async def test_a_later_permission_wins_and_takes_the_tag_away(self, make_rig):
        rig = make_rig()
        agent = await self.refused(rig.letta)
        await rig.consent.choose("ada", permanent_memory=True)
        assert await ask(SessionManager(rig.store, SETTINGS, consent=rig.consent), rig.letta) == agent
        assert refusal_tag(Choice("", False, 17)) not in (await rig.letta.get_agent(agent)).tags

    async def test_the_turn_is_answered_by_memory_python_and_told_to_no_agent(self, make_rig):
        rig = make_rig()
        await self.refused(rig.letta)
        rig.sessions = SessionManager(rig.store, SETTINGS, consent=rig.consent)
        rig.desk = replace(rig.desk, sessions=rig.sessions)
        rig.push("t1", content="a secret")
        await rig.work_off()
        assert rig.fallback.answered == [("t1", "user_switch")]
        assert rig.shelf.missed == {}
        assert rig.shelf.journal == []
        rig.push("t2", content="another")
        await rig.work_off()
        assert rig.letta.sent == []
