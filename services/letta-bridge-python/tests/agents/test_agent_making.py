"""Creating an agent is not idempotent; whatever fails in between, each user keeps one agent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

from letta_bridge.agents import agent_maker
from letta_bridge.agents.agent_spec import Owner, agent_spec, opt_out_tag
from letta_bridge.agents.session_manager import SessionManager
from letta_bridge.errors import LettaRejected, LettaUnavailable, OptedOut, OutcomeUnknown
from letta_bridge.letta import TurnMessage
from letta_bridge.letta.port import AgentRef, AgentSpec
from letta_bridge.request_queue import creation_leases
from letta_bridge.request_queue.creation_leases import InMemoryCreationLeases
from letta_bridge.settings import AgentSettings
from letta_bridge.testing.letta import InMemoryLetta
from shared_utils.persistence.choices.port import Choice, user_key
from shared_utils.persistence.sessions.memory_store import InMemorySessionStore

if TYPE_CHECKING:
    from letta_bridge_tests.conftest import Rig

SETTINGS = AgentSettings()
ADA = Owner("", "ada", "default")


class LateLetta(InMemoryLetta):
    """Loses the response to ``create_agent`` and lists the agent only after :meth:`list_late`.

    ``incomplete``: agents listed late lack their system message until :meth:`complete`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.losing = 0
        self.error = OutcomeUnknown
        self.incomplete = False
        self.requests = 0
        self._hidden: list[Any] = []

    async def create_agent(self, spec: AgentSpec) -> AgentRef:
        self.requests += 1
        if not self.losing:
            return await super().create_agent(spec)
        self.losing -= 1
        self._hidden.append(spec)
        raise self.error

    async def list_late(self) -> list[str]:
        """List the agents whose responses were lost; returns their ids."""
        listed = [(await super(LateLetta, self).create_agent(spec)).agent_id for spec in self._hidden]
        self._hidden.clear()
        if self.incomplete:
            for agent_id in listed:
                self._agents[agent_id].history.clear()
        return listed

    def complete(self, agent_id: str) -> None:
        self._agents[agent_id].history.append({"message_type": "system_message", "content": "system"})

    async def say(self, agent_id: str, text: str) -> None:
        await self.send(agent_id, [TurnMessage("user", text, f"otid-{text}")], timeout=5)


@pytest.fixture
def letta() -> LateLetta:
    return LateLetta()


@pytest.fixture
def leases() -> creation_leases.InMemoryCreationLeases:
    """The creation leases that all bridges of the queue share."""
    return InMemoryCreationLeases()


@pytest.fixture
def bridge(leases: creation_leases.InMemoryCreationLeases) -> Callable[..., Any]:
    """Builds the session manager of a bridge, with a session file of its own unless one is given."""
    return lambda store=None, **how: SessionManager(
        store or InMemorySessionStore(), SETTINGS, creation_leases=leases, **how
    )


@pytest.fixture(autouse=True)
def quick_searches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_maker, "_SEARCH_MIN_SECONDS", 0.001)
    monkeypatch.setattr(agent_maker, "_SEARCH_MAX_SECONDS", 0.005)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lost agent is waited for only briefly."""
    monkeypatch.setattr(creation_leases, "LISTED_WITHIN_SECONDS", 0.02)
    monkeypatch.setattr(agent_maker, "LISTED_WITHIN_SECONDS", 0.02)


async def ask(manager: SessionManager, letta: Any, user: str = "ada") -> Any:
    return await manager.agent_for(user, "default", None, letta)


async def agents_of(letta: LateLetta, user: str = "ada") -> set[str]:
    return {ref.agent_id for ref in await letta.find_agents(["bridge", f"user:{user}"])}


@pytest.mark.parametrize("same_bridge", [True, False])
async def test_lost_create_response_waits_for_the_agent_instead_of_creating_another(
    letta: LateLetta, bridge: Callable[..., Any], same_bridge: bool
) -> None:
    letta.losing = 1
    first = bridge()
    with pytest.raises(OutcomeUnknown):
        await ask(first, letta)
    again = asyncio.create_task(ask(first if same_bridge else bridge(), letta))
    await asyncio.sleep(0.05)
    assert not again.done()
    [late] = await letta.list_late()
    assert await again == late
    assert letta.requests == 1


async def test_cancelled_create_waits_for_the_agent_too(letta: Any, bridge: Callable[..., Any]) -> None:
    made, stuck = letta.create_agent, asyncio.Event()

    async def never_answered(spec: AgentSpec) -> None:
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
async def test_definite_create_failure_releases_the_lease_at_once(
    letta: Any, bridge: Callable[..., Any], error: Any
) -> None:
    letta.losing, letta.error = 1, error
    with pytest.raises(type(error)):
        await ask(bridge(), letta)
    async with asyncio.timeout(5):
        assert await ask(bridge(), letta)


async def test_agent_listed_after_its_lease_expired_does_not_replace_the_used_one(
    letta: LateLetta, bridge: Callable[..., Any], impatient: None
) -> None:
    letta.losing = 1
    store = InMemorySessionStore()
    manager = bridge(store)
    with pytest.raises(OutcomeUnknown):
        await ask(manager, letta)
    agent = await ask(manager, letta)
    await letta.say(agent, "I am Ada")
    await letta.list_late()
    assert len(await agents_of(letta)) == 2
    for other in (bridge(), bridge(store), manager):
        assert await ask(other, letta) == agent


async def test_bridge_without_sessions_adopts_the_agent_with_content_not_the_older_one(
    letta: LateLetta, bridge: Callable[..., Any]
) -> None:
    older = await letta.create_agent(agent_spec(SETTINGS, ADA, None))
    used = await letta.create_agent(agent_spec(SETTINGS, ADA, None))
    await letta.say(used.agent_id, "I am Ada")
    with capture_logs() as logs:
        assert await ask(bridge(), letta) == used.agent_id
    [line] = [line for line in logs if line["event"] == "duplicate_agents"]
    assert (line["log_level"], line["empty"], line["conflicting"]) == ("warning", [older.agent_id], [])
    assert len(await agents_of(letta)) == 2  # another bridge may be using the other one


async def test_of_two_agents_with_content_the_one_named_by_an_ended_session_is_chosen(
    letta: LateLetta, bridge: Callable[..., Any]
) -> None:
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
    assert (line["log_level"], line["agent_id"], line["conflicting"]) == ("error", mine, [rival])
    assert await ask(bridge(), letta) == rival  # no session names one: most messages win


async def test_search_after_create_finds_the_agent_of_a_concurrent_attempt(
    letta: Any, bridge: Callable[..., Any]
) -> None:
    created = letta.create_agent

    async def beside_another_bridge(spec: AgentSpec) -> Any:
        twin = await created(replace(spec, tags=spec.tags[:3]))
        await letta.say(twin.agent_id, "said meanwhile")
        return await created(spec)

    letta.create_agent = beside_another_bridge
    agent = await ask(bridge(), letta)
    assert await agents_of(letta) == {agent}
    assert (await letta.contents(agent)).messages == 2


async def test_concurrent_creates_without_shared_leases_converge_on_one_agent(
    letta: Any, bridge: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis has lost the leases, and both bridges searched before either agent existed."""
    create, ready = letta.create_agent, asyncio.Barrier(2)

    async def together(spec: AgentSpec) -> Any:
        await ready.wait()
        made = await create(spec)
        await ready.wait()
        return made

    letta.create_agent = together
    separate = [InMemoryCreationLeases(), InMemoryCreationLeases()]
    managers = [SessionManager(InMemorySessionStore(), SETTINGS, creation_leases=one) for one in separate]
    found = await asyncio.gather(*(ask(manager, letta) for manager in managers))
    assert found[0] == found[1]
    assert await agents_of(letta) == {found[0]}


class TestIncompleteAgents:
    async def test_incomplete_agent_is_used_only_once_it_is_complete(
        self, letta: LateLetta, bridge: Callable[..., Any]
    ) -> None:
        letta.losing, letta.incomplete = 1, True
        manager = bridge()
        with pytest.raises(OutcomeUnknown):
            await ask(manager, letta)
        [late] = await letta.list_late()
        again = asyncio.create_task(ask(manager, letta))
        await asyncio.sleep(0.05)
        assert not again.done()
        letta.complete(late)
        assert await again == late

    async def test_agent_that_stays_incomplete_is_replaced_and_deleted(
        self, letta: Any, bridge: Callable[..., Any], impatient: None
    ) -> None:
        letta.losing, letta.incomplete, letta.error = 1, True, LettaUnavailable
        manager = bridge()
        with pytest.raises(LettaUnavailable):
            await ask(manager, letta)
        [incomplete] = await letta.list_late()
        agent = await ask(bridge(), letta)
        assert agent != incomplete
        assert await agents_of(letta) == {agent}

    async def test_agent_that_stays_incomplete_is_replaced_although_no_turn_waits_that_long(
        self, letta: Any, bridge: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        now = [0.0]
        monkeypatch.setattr(agent_maker, "time", SimpleNamespace(monotonic=lambda: now[0]))
        monkeypatch.setattr(creation_leases, "LISTED_WITHIN_SECONDS", 0.0)
        letta.losing, letta.incomplete, letta.error = 1, True, LettaUnavailable
        manager = bridge()
        with pytest.raises(LettaUnavailable):
            await ask(manager, letta)
        [incomplete] = await letta.list_late()
        looks = asyncio.Semaphore(0)
        find_agents = letta.find_agents

        async def counted(tags: Any) -> Any:
            looks.release()
            return await find_agents(tags)

        letta.find_agents = counted
        turn = asyncio.create_task(ask(manager, letta))
        for _ in range(3):  # behind the second of these looks it waits for the agent
            await looks.acquire()
        turn.cancel()  # as its reply deadline does
        await asyncio.wait([turn])
        now[0] = agent_maker.LISTED_WITHIN_SECONDS + 1  # type: ignore[attr-defined]  # imported there
        async with asyncio.timeout(30):
            agent = await ask(manager, letta)
        assert await agents_of(letta) == {agent}
        assert agent != incomplete

    async def test_incomplete_agent_with_a_passage_is_not_deleted(
        self, letta: LateLetta, bridge: Callable[..., Any], impatient: None
    ) -> None:
        letta.losing, letta.incomplete = 1, True
        manager = bridge()
        with pytest.raises(OutcomeUnknown):
            await ask(manager, letta)
        [incomplete] = await letta.list_late()
        letta.note(incomplete, "a restored passage")
        agent = await ask(manager, letta)
        assert await agents_of(letta) == {agent, incomplete}


class TestOptOutTags:
    """The tag is the last replica of an opt-out after database and Redis lost it."""

    @staticmethod
    async def opted_out_agent(letta: InMemoryLetta, chosen_ms: int = 17) -> str:
        ref = await letta.create_agent(agent_spec(SETTINGS, ADA, None))
        await letta.retag(ref.agent_id, add=[opt_out_tag(Choice(user_key("ada"), False, chosen_ms))])
        return ref.agent_id

    @pytest.mark.parametrize("store_away", [False, True])
    async def test_opt_out_tag_stops_adoption_and_restores_the_choice(
        self, make_rig: Callable[..., Rig], store_away: bool
    ) -> None:
        rig = make_rig()
        await self.opted_out_agent(rig.letta)
        rig.store.broken = store_away
        manager = SessionManager(rig.store, SETTINGS, consent=rig.consent)
        with pytest.raises(OptedOut):
            await ask(manager, rig.letta)
        assert rig.choices.choices[user_key("ada")] == Choice(user_key("ada"), False, 17)
        assert rig.letta.sent == []

    async def test_later_opt_in_wins_and_removes_the_tag(self, make_rig: Callable[..., Rig]) -> None:
        rig = make_rig()
        agent = await self.opted_out_agent(rig.letta)
        await rig.consent.choose("ada", permanent_memory=True)
        assert await ask(SessionManager(rig.store, SETTINGS, consent=rig.consent), rig.letta) == agent
        assert opt_out_tag(Choice("", False, 17)) not in (await rig.letta.get_agent(agent)).tags

    async def test_turn_of_a_tagged_agent_is_answered_by_the_fallback_without_journal_entry(
        self, make_rig: Callable[..., Rig]
    ) -> None:
        rig = make_rig()
        await self.opted_out_agent(rig.letta)
        rig.sessions = SessionManager(rig.store, SETTINGS, consent=rig.consent)
        rig.delivery_context = replace(rig.delivery_context, sessions=rig.sessions)
        rig.push("t1", content="a secret")
        await rig.work_off()
        assert rig.fallback.answered == [("t1", "user_switch")]
        assert rig.shelf.missed == {}
        assert rig.shelf.journal == []
        rig.push("t2", content="another")
        await rig.work_off()
        assert rig.letta.sent == []
