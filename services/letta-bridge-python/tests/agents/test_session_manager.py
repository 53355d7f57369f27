"""Which agent is a user's: over the in-memory Letta and session store."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from letta_bridge.agents import session_manager
from letta_bridge.agents.agent_maker import AgentMaker
from letta_bridge.agents.session_manager import SessionManager
from letta_bridge.errors import LettaError, LettaRejected, LettaUnavailable, OutcomeUnknown
from letta_bridge.letta import AgentSpec, ModelParameters
from letta_bridge.letta.port import AgentRef
from letta_bridge.settings import AgentSettings, SessionSettings
from letta_bridge.testing.letta import InMemoryLetta
from shared_utils.clock import utc_now
from shared_utils.persistence.sessions.memory_store import InMemorySessionStore
from shared_utils.persistence.sessions.port import Session, SessionStoreAway

PERSONAS = {
    "default": {"persona": {"zh": "中", "en": "E"}, "human": {"zh": "人", "en": "H"}},
    "luna": {"persona": {"en": "Luna"}, "human": {}},
}
SETTINGS = AgentSettings.model_validate({"personas": PERSONAS, "model": "openai/m", "block_limit": 300})


class CountingStore(InMemorySessionStore):
    """Counts what it is asked; ``meanwhile`` is done right before a write, as another process would."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Any] = []
        self.meanwhile: Callable[[Session], Session] | None = None

    async def find(self, user_id: str, persona: str) -> Session | None:
        self.calls.append("find")
        return await super().find(user_id, persona)

    async def claim(self, session_id: str, owner: str, seconds: float) -> bool:
        self.calls.append("claim")
        return await super().claim(session_id, owner, seconds)

    async def save(self, session: Session, *, expires_in_hours: float | None = None) -> Session:
        self.calls.append("save")
        if self.meanwhile is not None:
            meanwhile, self.meanwhile = self.meanwhile, None
            await super().save(meanwhile(self.sessions[session.user_id, session.persona]))
        return await super().save(session, expires_in_hours=expires_in_hours)


class RecordingLetta(InMemoryLetta):
    """Remembers what agents were made of, and can be killed right after making one."""

    def __init__(self) -> None:
        super().__init__()
        self.specs: list[Any] = []
        self.searches = 0
        self.dies_after_creating = False
        self.parameter_errors: list[LettaError] = []

    async def set_parameters(self, agent_id: str, parameters: ModelParameters) -> bool:
        if self.parameter_errors:
            raise self.parameter_errors.pop()
        return await super().set_parameters(agent_id, parameters)

    async def find_agents(self, tags: Any) -> Any:
        self.searches += 1
        return await super().find_agents(tags)

    async def create_agent(self, spec: AgentSpec) -> AgentRef:
        self.specs.append(spec)
        ref = await super().create_agent(spec)
        if self.dies_after_creating:
            self.dies_after_creating = False
            raise LettaUnavailable
        return ref


@pytest.fixture
def store() -> CountingStore:
    return CountingStore()


@pytest.fixture
def letta() -> RecordingLetta:
    return RecordingLetta()


@pytest.fixture
def manager(store: CountingStore) -> session_manager.SessionManager:
    return SessionManager(store, SETTINGS)


async def test_a_new_user_gets_an_agent_and_keeps_it(manager: Any, store: CountingStore, letta: Any) -> None:
    agent = await manager.agent_for("ada", "default", None, letta)
    assert store.sessions["ada", "default"].agent_id == agent
    assert [await manager.agent_for("ada", "default", None, letta) for _ in range(3)] == [agent] * 3
    assert len(letta.specs) == 1
    assert (letta.searches, store.calls) == (2, ["find", "claim", "save"])  # before it is made, and after


async def test_users_and_personas_have_agents_of_their_own(manager: Any, letta: Any) -> None:
    pairs = [("ada", "default"), ("ada", "luna"), ("bo", "default")]
    assert len({await manager.agent_for(*pair, None, letta) for pair in pairs}) == len(pairs)
    assert len({spec.name for spec in letta.specs}) == len(pairs)


async def test_agent_is_found_in_the_store_after_a_restart(manager: Any, store: Any, letta: Any) -> None:
    agent = await manager.agent_for("ada", "default", None, letta)
    letta.down = True
    assert await SessionManager(store, SETTINGS).agent_for("ada", "default", None, letta) == agent


async def test_the_session_is_reserved_before_the_agent_is_made(manager: Any, store: CountingStore, letta: Any) -> None:
    letta.down = True
    with pytest.raises(LettaUnavailable):
        await manager.agent_for("ada", "default", None, letta)
    assert store.sessions["ada", "default"].agent_id is None
    assert await store.count() == {"active": 1, "reserved": 1}


@pytest.mark.parametrize("restarted", [False, True])
async def test_an_agent_made_but_not_written_down_is_adopted(store: CountingStore, letta: Any, restarted: bool) -> None:
    manager = SessionManager(store, SETTINGS, claim=0.05)
    letta.dies_after_creating = True
    with pytest.raises(LettaUnavailable):
        await manager.agent_for("ada", "default", None, letta)
    next_manager = SessionManager(store, SETTINGS) if restarted else manager
    agent = await next_manager.agent_for("ada", "default", None, letta)
    assert [ref.agent_id for ref in await letta.find_agents(["user:ada"])] == [agent]
    assert store.sessions["ada", "default"].agent_id == agent


async def test_of_twins_the_oldest_is_chosen(manager: Any, letta: Any) -> None:
    tags = ("bridge", "user:ada", "persona:default")
    spec = AgentSpec("twin", tags, "m", None, "letta_v1_agent", (), ())
    oldest = await letta.create_agent(spec)
    await letta.create_agent(spec)
    assert await manager.agent_for("ada", "default", None, letta) == oldest.agent_id


@pytest.mark.parametrize(
    "tags",
    [
        ("bridge", "user:bo", "persona:default"),
        ("bridge", "user:ada", "persona:luna"),
        ("user:ada", "persona:default"),
        ("bridge", "user:ad", "persona:default"),
    ],
)
async def test_agent_of_another_user_is_never_adopted(manager: Any, letta: Any, tags: tuple[Any, ...]) -> None:
    other = await letta.create_agent(AgentSpec("other", tags, "m", None, "letta_v1_agent", (), ()))
    assert await manager.agent_for("ada", "default", None, letta) != other.agent_id


async def test_while_the_store_is_unavailable_the_tags_decide(manager: Any, store: Any, letta: Any) -> None:
    store.broken = True
    agent = await manager.agent_for("ada", "default", None, letta)
    assert await manager.agent_for("ada", "default", None, letta) == agent
    assert await SessionManager(store, SETTINGS).agent_for("ada", "default", None, letta) == agent
    assert len(letta.specs) == 1
    assert await manager.session("ada", "default") is None
    assert await manager.count() == {}
    assert manager.store_error == SessionStoreAway.__doc__


async def test_when_the_store_is_back_the_agent_is_written_down(manager: Any, store: CountingStore, letta: Any) -> None:
    store.broken = True
    agent = await manager.agent_for("ada", "default", None, letta)
    store.broken = False
    assert await manager.agent_for("ada", "default", None, letta) == agent
    assert store.sessions["ada", "default"].agent_id == agent
    assert await manager.count() == {"active": 1, "reserved": 0}
    assert manager.store_error is None


async def test_a_choice_in_the_store_counts_again_when_the_store_is_back(
    manager: Any, store: CountingStore, letta: Any
) -> None:
    session = await store.reserve("ada", "default")
    await store.save(replace(session, metadata={"permanent_memory": False}))
    store.broken = True
    await manager.agent_for("ada", "default", None, letta)
    store.broken = False
    assert (await manager.session("ada", "default")).permanent_memory is False


async def test_a_session_in_memory_serves_while_the_store_is_unavailable(
    manager: Any, store: CountingStore, letta: Any
) -> None:
    agent = await manager.agent_for("ada", "default", None, letta)
    store.broken = True
    assert await manager.agent_for("ada", "default", None, letta) == agent


async def test_saving_an_agent_keeps_a_concurrent_change_of_the_session(manager: Any, store: Any, letta: Any) -> None:
    store.meanwhile = lambda session: replace(session, metadata={"permanent_memory": False})
    agent = await manager.agent_for("ada", "default", None, letta)
    for session in (store.sessions["ada", "default"], await manager.session("ada", "default")):
        assert (session.agent_id, session.permanent_memory, session.version) == (agent, False, 3)


async def test_a_vanished_agent_is_replaced(manager: Any, store: CountingStore, letta: Any) -> None:
    gone = await manager.agent_for("ada", "default", None, letta)
    await letta.delete_agent(gone)
    agent = await manager.replace_agent("ada", "default", None, letta, gone)
    assert agent != gone
    assert store.sessions["ada", "default"].agent_id == agent
    assert await manager.agent_for("ada", "default", None, letta) == agent


async def test_a_vanished_agent_that_another_bridge_replaced_is_looked_up(manager: Any, store: Any, letta: Any) -> None:
    gone = await manager.agent_for("ada", "default", None, letta)
    await letta.delete_agent(gone)
    other = await SessionManager(store, SETTINGS).replace_agent("ada", "default", None, letta, gone)
    assert await manager.replace_agent("ada", "default", None, letta, gone) == other
    assert len(letta.specs) == 2


async def test_a_vanished_agent_is_replaced_while_the_store_is_unavailable(
    manager: Any, store: CountingStore, letta: Any
) -> None:
    gone = await manager.agent_for("ada", "default", None, letta)
    await letta.delete_agent(gone)
    store.broken = True
    agent = await manager.replace_agent("ada", "default", None, letta, gone)
    assert agent != gone
    assert await manager.agent_for("ada", "default", None, letta) == agent
    store.broken = False
    assert (await manager.session("ada", "default")).agent_id == gone
    assert await manager.replace_agent("ada", "default", None, letta, gone) == agent


async def test_no_more_sessions_than_allowed_are_kept_in_memory(store: CountingStore, letta: Any) -> None:
    manager = SessionManager(store, SETTINGS, SessionSettings(cached=2))
    for user in ("ada", "bo"):
        await manager.agent_for(user, "default", None, letta)
    await manager.session("ada", "default")
    await manager.agent_for("cy", "default", None, letta)
    store.calls.clear()
    for user in ("cy", "ada"):
        await manager.session(user, "default")
    assert store.calls == []
    await manager.session("bo", "default")
    assert store.calls == ["find"]


async def test_a_forgotten_session_is_read_again(manager: Any, store: CountingStore, letta: Any) -> None:
    await manager.agent_for("ada", "default", None, letta)
    await store.save(replace(store.sessions["ada", "default"], metadata={"permanent_memory": False}))
    manager.forget("ada", "default")
    assert (await manager.session("ada", "default")).permanent_memory is False


@pytest.mark.parametrize("user", ["ada", "a:b/c", "小明", "x" * 256, 'o\'neil "q"', "ada\u2028", ""])
async def test_agent_name_is_valid_and_does_not_reveal_the_user(manager: Any, letta: Any, user: Any) -> None:
    await manager.agent_for(user, "default", None, letta)
    (spec,) = letta.specs
    assert re.fullmatch(r"bridge-[0-9a-f]{24}", spec.name)
    *identity, attempt = spec.tags
    assert identity == ["bridge", f"user:{user}", "persona:default"]
    assert re.fullmatch(r"attempt:[0-9a-f]{16}", attempt)


async def test_an_agent_is_made_of_the_settings(manager: Any, letta: Any) -> None:
    await manager.agent_for("ada", "default", None, letta)
    (spec,) = letta.specs
    assert (spec.model, spec.embedding, spec.agent_type) == ("openai/m", SETTINGS.embedding, "letta_v1_agent")
    assert (spec.tools, spec.parameters.empty) == (SETTINGS.tools, True)
    assert [(block.label, block.limit) for block in spec.blocks] == [("persona", 300), ("human", 300)]


async def test_an_agent_is_brought_up_to_the_settings_once_before_its_first_turn(store: Any, letta: Any) -> None:
    agent = await SessionManager(store, SETTINGS).agent_for("ada", "default", None, letta)
    settings = SETTINGS.model_copy(update={"context_window": 8192, "max_tokens": 300, "temperature": 0.0})
    manager = SessionManager(store, settings)
    await manager.session("ada", "default")
    assert manager.known_session("ada", "default") is None, "its agent has not been looked at"
    assert await manager.agent_for("ada", "default", None, letta) == agent
    assert letta.agents[agent].parameters == ModelParameters(8192, 300, 0.0)
    assert manager.known_session("ada", "default") is not None
    letta.agents[agent].parameters = ModelParameters()
    await manager.agent_for("ada", "default", None, letta)
    assert letta.agents[agent].parameters.empty, "another program's change stays until the next start"
    new = await manager.agent_for("bo", "default", None, letta)
    assert letta.agents[new].parameters == ModelParameters(8192, 300, 0.0)


@pytest.mark.parametrize(
    ("error", "again"), [(LettaRejected("no"), False), (LettaUnavailable("away"), True), (OutcomeUnknown("?"), True)]
)
async def test_parameters_that_cannot_be_set_keep_no_turn_from_its_agent(
    store: Any, letta: Any, error: Exception, again: bool
) -> None:
    manager = SessionManager(store, SETTINGS.model_copy(update={"max_tokens": 300}))
    agent = await manager.agent_for("ada", "default", None, letta)
    letta.agents[agent].parameters = ModelParameters()
    manager = SessionManager(store, SETTINGS.model_copy(update={"max_tokens": 300}))
    letta.parameter_errors.append(error)
    assert await manager.agent_for("ada", "default", None, letta) == agent
    assert await manager.agent_for("ada", "default", None, letta) == agent
    assert (letta.agents[agent].parameters.max_tokens == 300) is again


@pytest.mark.parametrize(
    ("language", "values"),
    [
        (None, ["中", "人"]),
        ("", ["中", "人"]),
        ("zh", ["中", "人"]),
        ("zh-CN", ["中", "人"]),
        ("en", ["E", "H"]),
        ("EN_us", ["E", "H"]),
        ("ja", ["中", "人"]),
    ],
)
async def test_the_first_memory_is_in_the_users_language(
    manager: Any, letta: Any, language: Any, values: list[str]
) -> None:
    await manager.agent_for("ada", "default", language, letta)
    assert [block.value for block in letta.specs[0].blocks] == values


async def test_persona_without_the_language_uses_an_available_one(manager: Any, letta: Any) -> None:
    await manager.agent_for("ada", "luna", "zh", letta)
    assert [block.value for block in letta.specs[0].blocks] == ["Luna", ""]


@pytest.mark.parametrize(
    ("name", "persona"),
    [("luna", "luna"), ("default", "default"), ("Luna", "default"), ("", "default"), (None, "default")],
)
def test_an_unknown_persona_is_the_default_one(
    manager: session_manager.SessionManager, name: str | None, persona: str
) -> None:
    assert manager.persona(name) == persona


async def test_many_first_messages_at_once_make_one_agent(store: CountingStore, letta: Any) -> None:
    managers = [SessionManager(store, SETTINGS) for _ in range(4)]
    firsts = [manager.agent_for("ada", "default", None, letta) for manager in managers for _ in range(5)]
    assert len(set(await asyncio.gather(*firsts))) == 1
    assert len(letta.specs) == 1


async def test_unconfirmed_agent_of_a_killed_bridge_is_adopted_after_its_claim(store: Any, letta: Any) -> None:
    session = await store.reserve("ada", "default")
    await store.claim(session.session_id, "killed", 0.5)
    spec = AgentSpec("a", ("bridge", "user:ada", "persona:default"), "m", None, "letta_v1_agent", (), ())
    orphan = await letta.create_agent(spec)
    waiting = asyncio.create_task(SessionManager(store, SETTINGS).agent_for("ada", "default", None, letta))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    assert await waiting == orphan.agent_id
    assert len(letta.specs) == 1


async def test_a_slow_letta_does_not_end_the_claim_of_a_living_bridge(store: CountingStore, letta: Any) -> None:
    slow, made = asyncio.Event(), letta.create_agent

    async def create(spec: AgentSpec) -> Any:
        await slow.wait()
        return await made(spec)

    letta.create_agent = create
    makers = [AgentMaker(store, SETTINGS, owner=owner, claim=0.1) for owner in ("one", "other")]
    making = [asyncio.create_task(maker.session("ada", "default", None, letta)) for maker in makers]
    await asyncio.sleep(0.4)
    slow.set()
    sessions = await asyncio.gather(*making)
    assert sessions[0] == sessions[1]
    assert len(letta.specs) == 1


async def test_a_bridge_that_slept_past_its_claim_removes_its_surplus_agent(store: Any, letta: Any) -> None:
    store.meanwhile = lambda session: replace(session, agent_id="agent-other")
    assert await SessionManager(store, SETTINGS).agent_for("ada", "default", None, letta) == "agent-other"
    assert await letta.find_agents(["user:ada"]) == []


async def test_after_a_failure_another_bridge_need_not_wait(store: Any, letta: Any) -> None:
    letta.down = True
    with pytest.raises(LettaUnavailable):
        await SessionManager(store, SETTINGS).agent_for("ada", "default", None, letta)
    letta.down = False
    async with asyncio.timeout(5):
        assert await SessionManager(store, SETTINGS).agent_for("ada", "default", None, letta)


async def test_no_second_creation_begins_while_letta_may_complete_the_first(store: CountingStore, letta: Any) -> None:
    made = letta.create_agent

    async def timed_out(spec: AgentSpec) -> None:
        await made(spec)
        raise OutcomeUnknown

    letta.create_agent = timed_out
    manager = SessionManager(store, SETTINGS)
    with pytest.raises(OutcomeUnknown):
        await manager.agent_for("ada", "default", None, letta)
    assert not await store.claim(store.sessions["ada", "default"].session_id, "another", 1)
    assert await manager.agent_for("ada", "default", None, letta)
    assert len(letta.specs) == 1


async def test_manager_follows_sessions_written_by_another_bridge(
    manager: Any, store: CountingStore, letta: Any
) -> None:
    await manager.follow()
    await manager.agent_for("ada", "default", None, letta)
    await store.save(replace(store.sessions["ada", "default"], metadata={"permanent_memory": False}))
    await manager.follow()
    assert (await manager.session("ada", "default")).permanent_memory is False


async def test_used_sessions_are_recorded_in_one_call(manager: Any, store: CountingStore, letta: Any) -> None:
    agents = [await manager.agent_for(user, "default", None, letta) for user in ("ada", "bo", "ada")]
    assert agents[0] == agents[2]
    before = {key: session.last_updated for key, session in store.sessions.items()}
    await manager.touch_used()
    assert {user: session.message_count for (user, _), session in store.sessions.items()} == {"ada": 2, "bo": 1}
    assert all(session.last_updated > before[key] for key, session in store.sessions.items())


async def test_uses_are_not_lost_while_the_store_is_unavailable(manager: Any, store: CountingStore, letta: Any) -> None:
    await manager.agent_for("ada", "default", None, letta)
    store.broken = True
    await manager.touch_used()
    store.broken = False
    await manager.agent_for("ada", "default", None, letta)
    await manager.touch_used()
    assert store.sessions["ada", "default"].message_count == 2


async def test_a_removed_session_is_forgotten_when_it_is_used(manager: Any, store: CountingStore, letta: Any) -> None:
    await manager.agent_for("ada", "default", None, letta)
    await store.delete(store.sessions["ada", "default"].session_id, hard=True)
    await manager.touch_used()
    assert await manager.session("ada", "default") is None


async def test_sessions_are_restored_into_memory(manager: Any, store: CountingStore, letta: Any) -> None:
    await store.merge([Session(f"user-{n}", "default", agent_id=f"agent-{n}") for n in range(3)])
    before = manager.restored
    restored = await manager.restore()
    assert (before, manager.restored) == (None, restored)
    assert len(restored.sessions) == 3
    store.broken = True
    assert await manager.agent_for("user-1", "default", None, letta) == "agent-1"


async def test_restore_does_not_replace_newer_sessions(manager: Any, store: Any, letta: Any) -> None:
    await manager.agent_for("ada", "default", None, letta)
    known = await manager.session("ada", "default")
    await store.merge([replace(known, agent_id="older", version=1)])
    await manager.restore()
    assert await manager.session("ada", "default") == known


@pytest.mark.parametrize(("sliding", "moved"), [(True, True), (False, False)])
async def test_sessions_expire_and_keep_their_agent(store: Any, letta: Any, sliding: bool, moved: Any) -> None:
    settings = SessionSettings(expires_in_hours=2, sliding=sliding, deleted_retention_hours=0)
    manager = SessionManager(store, SETTINGS, settings)
    agent = await manager.agent_for("ada", "default", None, letta)
    first = store.sessions["ada", "default"]
    assert timedelta(hours=1.9) < first.expires_at - utc_now() < timedelta(hours=2)
    await manager.touch_used()
    assert (store.sessions["ada", "default"].expires_at > first.expires_at) is moved
    await store.save(store.sessions["ada", "default"], expires_in_hours=-1)
    await manager.follow()
    await manager.clean_up()
    await manager.follow()
    assert await manager.session("ada", "default") is None
    assert await manager.agent_for("ada", "default", None, letta) == agent
    assert len(letta.specs) == 1


async def test_running_manager_synchronises_cache_and_store(
    store: CountingStore, letta: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_manager, "_CHANGES_POLL_SECONDS", 0.01)
    monkeypatch.setattr(session_manager, "_LAST_SEEN_WRITE_SECONDS", 0.02)
    manager = SessionManager(store, SETTINGS, SessionSettings(cleanup_interval_seconds=1))
    store.broken = True
    async with manager.running(), asyncio.timeout(10):
        while manager.store_error is None:
            await asyncio.sleep(0.005)
        store.broken = False
        await manager.agent_for("ada", "default", None, letta)
        while store.sessions["ada", "default"].message_count == 0:
            await asyncio.sleep(0.005)
        assert not manager.store_error
        await store.save(replace(store.sessions["ada", "default"], metadata={"permanent_memory": False}))
        while (session := await manager.session("ada", "default")) is None or session.permanent_memory:
            await asyncio.sleep(0.005)
        await manager.agent_for("ada", "default", None, letta)
    assert store.sessions["ada", "default"].message_count == 2
