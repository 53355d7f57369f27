"""What every Letta behind the port does: one suite, run on the fake, on the HTTP double and on a real server."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, cast

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from letta_bridge.errors import AgentGone, LettaError, LettaRejected, OutcomeUnknown, TurnCancelled
from letta_bridge.letta import (
    AgentSpec,
    Block,
    FoundTurn,
    LettaPort,
    ModelParameters,
    SoughtTurn,
    ToolState,
    TurnMessage,
    TurnState,
    derived_otid,
    turn_otid,
)
from letta_bridge.letta.letta_client import LettaClient
from letta_bridge.testing.letta import Hold, InMemoryLetta, ToolUse
from letta_bridge.testing.turn_listener import Heard

servers = pytest.mark.parametrize("world", ["double", pytest.param("server", marks=pytest.mark.letta)], indirect=True)
GONE = "agent-22006411-d94a-4f4b-9bd9-25f0a9d311a8"


@dataclass(frozen=True)
class World:
    """A Letta, and an agent specification it accepts, with a tag of this test's own."""

    letta: LettaPort
    spec: AgentSpec
    url: str = ""
    """Of the server behind the port; the fake has none."""
    api_key: str | None = None
    slow_milliseconds: int = 6000
    """What a slow turn takes."""

    async def agent(self) -> str:
        return (await self.letta.create_agent(self.spec)).agent_id

    async def note(self, agent_id: str, text: str) -> str:
        """Put a passage into the agent's archival memory."""
        if isinstance(self.letta, InMemoryLetta):
            return self.letta.note(agent_id, text)
        assert isinstance(self.letta, LettaClient)
        [made] = await self.letta._sdk.agents.passages.create(agent_id, text=text)
        assert made.id
        return made.id

    async def find(self, agent_id: str, otid: str, **sought: Any) -> FoundTurn:
        turn = SoughtTurn(otid, **{"since": time.time() - 600, **sought})
        return (await self.letta.find_turns(agent_id, [turn])).turns[0]

    async def wait_until(self, agent_id: str, otid: str, state: TurnState) -> FoundTurn:
        async with asyncio.timeout(60):
            while (found := await self.find(agent_id, otid)).state is not state:
                await asyncio.sleep(0.1)  # no event tells that a server far away is ready
        return found

    def slow(self) -> AbstractContextManager[object]:
        """Turns take longer than the 0.02 seconds a test may wait: a real server's always do."""
        return self.letta.held() if isinstance(self.letta, InMemoryLetta) else nullcontext()


@pytest.fixture(params=["fake", "double", pytest.param("server", marks=pytest.mark.letta)])
async def world(request: pytest.FixtureRequest, double: Callable[[], Awaitable[Any]]) -> AsyncIterator[World]:
    letta: LettaPort
    options: dict[str, Any] = {}
    if request.param == "fake":
        model = "fake/model"
        letta = InMemoryLetta(models=frozenset({model}))
    else:
        double_wanted = request.param == "double"
        server = await double() if double_wanted else request.getfixturevalue("letta_url")
        options = {"url": server.url, "api_key": server.api_key}
        if double_wanted:
            options["slow_milliseconds"] = 500
        model = server.model
        letta = LettaClient(server.url, api_key=server.api_key)
    tag = f"test:{uuid.uuid4()}"
    spec = AgentSpec(
        name="contract test",
        tags=("bridge", tag),
        model=model,
        embedding=None,
        agent_type="letta_v1_agent",
        blocks=(Block("human", "说中文", "about the user", 2000), Block("persona", "kind")),
        tools=("memory_insert", "memory_replace"),
    )
    yield World(letta, spec, **options)
    for agent in await letta.find_agents([tag]):
        await letta.delete_agent(agent.agent_id)
    await letta.close()


def user(content: str, otid: str) -> TurnMessage:
    return TurnMessage("user", content, otid)


async def test_created_found_and_deleted(world: World) -> None:
    letta, spec = world.letta, world.spec
    assert await letta.find_agents(spec.tags) == []
    first, second = [await letta.create_agent(spec) for _ in range(2)]
    assert (first.name, set(first.tags)) == (spec.name, set(spec.tags))
    assert first.created_at < second.created_at
    found = await letta.find_agents(spec.tags)
    assert [agent.agent_id for agent in found] == [first.agent_id, second.agent_id]
    assert set(found[0].tags) == set(spec.tags)
    assert await letta.find_agents([*spec.tags, "another"]) == []
    assert (await letta.get_agent(first.agent_id)).agent_id == first.agent_id
    assert await letta.delete_agent(first.agent_id)
    assert not await letta.delete_agent(first.agent_id)
    assert [agent.agent_id for agent in await letta.find_agents(spec.tags)] == [second.agent_id]


async def test_what_an_agent_asks_of_its_model_is_changed_once_and_only_as_far_as_named(world: World) -> None:
    letta = world.letta
    made = ModelParameters(context_window=20_000, max_tokens=300)
    agent_id = (await letta.create_agent(replace(world.spec, parameters=made))).agent_id
    assert not await letta.set_parameters(agent_id, made), "it was created with them"
    assert not await letta.set_parameters(agent_id, ModelParameters())
    warm = ModelParameters(temperature=0.25)
    assert [await letta.set_parameters(agent_id, warm) for _ in range(2)] == [True, False]
    assert not await letta.set_parameters(agent_id, replace(made, temperature=0.25))
    assert await letta.set_parameters(agent_id, replace(made, max_tokens=200))
    with pytest.raises(AgentGone):
        await letta.set_parameters(GONE, warm)


@pytest.mark.parametrize("world", [pytest.param("server", marks=pytest.mark.letta)], indirect=True)
async def test_the_parameters_of_an_agent_reach_the_model(world: World, letta: Any, scripted_model: Any) -> None:
    if world.url != letta.url:
        pytest.skip("another server's model tells nothing about its calls")
    port = world.letta
    letta = world.letta
    made = ModelParameters(context_window=20_000, max_tokens=300)
    agent_id = (await port.create_agent(replace(world.spec, parameters=made))).agent_id
    await port.set_parameters(agent_id, ModelParameters(temperature=0.25))
    said = f"parameters {uuid.uuid4()}"
    await port.send(agent_id, [user(said, str(uuid.uuid4()))], timeout=60)
    async with httpx.AsyncClient(base_url=scripted_model.base_url) as client:
        calls = (await client.get("/control/calls", params={"last": 100, "full": True})).json()["last"]
    [asked] = [call["request"] for call in calls if said in call["newest"]]
    assert (asked["max_completion_tokens"], asked["temperature"]) == (300, 0.25)


async def test_agents_are_found_by_the_beginning_of_a_tag(world: World) -> None:
    letta, spec = world.letta, world.spec
    beginning = f"{uuid.uuid4()}-Mark:"
    first, second, plain = [await letta.create_agent(spec) for _ in range(3)]
    assert await letta.find_tagged_agents(beginning) == []
    await letta.retag(first.agent_id, add=[f"{beginning}1", f"{beginning}2"])
    await letta.retag(second.agent_id, add=[f"{beginning}1", f"{beginning}'%,_\n好"])
    await letta.retag(plain.agent_id, add=[f"of {beginning}1", beginning.upper(), beginning[:-1]])
    found = await letta.find_tagged_agents(beginning)
    assert sorted(agent.agent_id for agent in found) == sorted([first.agent_id, second.agent_id])
    assert all(set(spec.tags) < set(agent.tags) for agent in found)


@pytest.mark.parametrize("agent_id", [GONE, "agent-of nobody"])
async def test_an_agent_that_does_not_exist(world: World, agent_id: str) -> None:
    letta = world.letta
    for asked in (
        letta.get_agent(agent_id),
        letta.send(agent_id, [user("hello", str(uuid.uuid4()))], timeout=30),
        letta.find_turns(agent_id, [SoughtTurn(str(uuid.uuid4()), 0.0)]),
        letta.history(agent_id),
        letta.contents(agent_id),
        letta.retag(agent_id, add=["more"]),
    ):
        with pytest.raises(AgentGone):
            await asked
    assert not await letta.delete_agent(agent_id)
    await letta.cancel(agent_id, [f"run-{uuid.uuid4()}"])


async def test_a_new_agent_is_whole_and_holds_nothing_but_its_first_blocks(world: World) -> None:
    contents = await world.letta.contents(await world.agent())
    assert (contents.complete, contents.messages, contents.passages, contents.running) == (True, 0, 0, False)
    assert contents.blocks == {"human": "说中文", "persona": "kind"}


async def test_contents_count_messages_and_passages(world: World) -> None:
    letta = world.letta
    agent = await world.agent()
    await letta.send(agent, [user("hello", turn_otid(agent, "t"))], timeout=60)
    said = (await letta.contents(agent)).messages
    assert said >= 2
    await world.note(agent, "a passage")
    await world.note(agent, "another")
    contents = await letta.contents(agent)
    assert (contents.messages, contents.passages, contents.complete) == (said, 1, True)


async def test_tags_are_added_and_removed(world: World) -> None:
    letta, spec = world.letta, world.spec
    agent = await world.agent()
    await letta.retag(agent, add=["one", "two:小明"])
    assert set((await letta.get_agent(agent)).tags) == {*spec.tags, "one", "two:小明"}
    await letta.retag(agent, add=["three", "one"], remove=["two:小明", "unknown"])
    assert set((await letta.get_agent(agent)).tags) == {*spec.tags, "one", "three"}
    assert [ref.agent_id for ref in await letta.find_agents([*spec.tags, "three"])] == [agent]
    assert (await letta.contents(agent)).messages == 0


async def test_notes_are_created_changed_and_removed(world: World) -> None:
    letta = world.letta
    label = f"contract/{uuid.uuid4().hex[:8]}"
    assert await letta.notes(label) == []
    for value in ('{"a": 1}', "第二"):
        await letta.write_note(label, value)
    first, second = await letta.notes(label)
    assert (first.value, second.value) == ('{"a": 1}', "第二")
    await letta.write_note(label, "changed", note_id=first.note_id)
    assert [note.value for note in await letta.notes(label)] == ["changed", "第二"]
    assert await letta.notes(f"{label}/other") == []
    for note in (first, second, second):
        await letta.delete_note(note.note_id)
    assert await letta.notes(label) == []
    with pytest.raises(LettaRejected):
        await letta.write_note(label, "too late", note_id=first.note_id)


async def test_an_agent_that_cannot_be_made(world: World) -> None:
    for change, cause in (
        ({"model": "no/such-model"}, "unknown_model"),
        ({"name": "user:42/.."}, "bad_request"),
        ({"tools": ("memory_insert", "no_such_tool")}, "bad_request"),
    ):
        with pytest.raises(LettaRejected) as caught:
            await world.letta.create_agent(replace(world.spec, **change))
        assert caught.value.cause == cause
    assert await world.letta.find_agents(world.spec.tags) == []


@pytest.mark.parametrize("newest_first", [False, True])
async def test_archival_memory_is_listed_in_pages(world: World, newest_first: bool) -> None:
    agent, other = await world.agent(), await world.agent()
    told = [f"第{number}条" for number in range(5)]
    noted = [await world.note(agent, text) for text in told]
    await world.note(other, "somebody else's")
    order = -1 if newest_first else 1
    first = await world.letta.passages(agent, newest_first=newest_first, limit=3)
    last = first[-1].passage_id
    second = await world.letta.passages(agent, after=last, newest_first=newest_first, limit=3)
    assert [passage.passage_id for passage in (*first, *second)] == noted[::order]
    assert [passage.text for passage in (*first, *second)] == told[::order]
    assert all(passage.created_at for passage in first)
    assert await world.letta.passages(GONE) == []


async def test_a_turn_is_answered_and_found_again(world: World) -> None:
    agent = await world.agent()
    otids = [turn_otid(agent, task) for task in ("task 1", "task 2")]
    answers = [await world.letta.send(agent, [user(f"第{n}句", otid)], timeout=60) for n, otid in enumerate(otids)]
    assert all(answer.text for answer in answers)
    assert answers[0].stop_reason == "end_turn"
    for otid, answer in zip(otids, answers, strict=True):
        found = await world.find(agent, otid)
        assert found.state is TurnState.STORED
        assert found.answer is not None
        assert found.answer.text == answer.text
    listed = await world.letta.history(agent)
    spoken = [m for m in listed if m["message_type"] in {"user_message", "assistant_message"}]
    assert [m["content"] for m in spoken] == ["第0句", answers[0].text, "第1句", answers[1].text]
    assert [m["otid"] for m in spoken if m["message_type"] == "user_message"] == otids
    assert [m["content"] for m in await world.letta.history(agent, limit=2)] == ["第1句", answers[1].text]


async def test_a_listener_hears_the_turn_and_the_answer_is_the_same(world: World) -> None:
    agent, other = await world.agent(), await world.agent()
    said, heard, otid = "Where is the garden, 小明?", Heard(), str(uuid.uuid4())
    whole = await world.letta.send(other, [user(said, str(uuid.uuid4()))], timeout=60)
    answer = await world.letta.send(agent, [user(said, otid)], timeout=60, listener=heard)
    assert answer == whole
    assert heard.messages == [answer.text]
    assert len(heard.pieces) > 1, "the double, too, speaks in pieces"
    found = await world.find(agent, otid)
    assert found.answer is not None
    assert (found.state, found.answer.text) == (TurnState.STORED, answer.text)
    assert [found.run_id] == heard.runs


async def test_a_turn_with_a_listener_is_refused_as_one_without(world: World) -> None:
    agent, heard = await world.agent(), Heard()
    with pytest.raises(LettaRejected) as caught:
        await world.letta.send(agent, [user("", str(uuid.uuid4()))], timeout=60, listener=heard)
    assert caught.value.cause == "bad_request"
    with pytest.raises(AgentGone):
        await world.letta.send(GONE, [user("hello", str(uuid.uuid4()))], timeout=60, listener=heard)
    if isinstance(world.letta, InMemoryLetta):
        world.letta.fail_next(OutcomeUnknown(cause="server_error"))
    with pytest.raises(OutcomeUnknown) as failed:
        await world.letta.send(
            agent, [user("[[fail:500]] hello", otid := str(uuid.uuid4()))], timeout=60, listener=heard
        )
    assert failed.value.cause == "server_error"
    assert heard.pieces == []
    assert (await world.find(agent, otid)).state is TurnState.ABSENT


@pytest.mark.parametrize("world", [pytest.param("server", marks=pytest.mark.letta)], indirect=True)
@pytest.mark.parametrize(
    "marker",
    [
        *(f"[[fail:{status}]]" for status in (400, 401, 402, 403, 404, 413, 422, 429, 503)),
        *(f"[[fail-after-tool:{status}]]" for status in (400, 429)),
        "[[drop]]",
        "[[empty]]",
    ],
)
async def test_a_failure_of_the_model_is_the_same_with_a_listener(world: World, marker: str) -> None:
    async def told(listener: Heard | None) -> tuple[object, ...]:
        agent = await world.agent()
        try:
            answer = await world.letta.send(
                agent, [user(f"{marker} hello", str(uuid.uuid4()))], timeout=60, listener=listener
            )
        except LettaError as error:
            return type(error), getattr(error, "cause", None)
        return (answer,)

    assert await told(Heard()) == await told(None)


async def test_a_turn_with_a_listener_continues_after_its_caller_left(world: World) -> None:
    agent, otid = await world.agent(), str(uuid.uuid4())
    heard = Heard()
    text = f"[[latency:{world.slow_milliseconds}]] hello"
    timeout = 0.02 if isinstance(world.letta, InMemoryLetta) else world.slow_milliseconds / 2000
    with world.slow(), pytest.raises(OutcomeUnknown) as caught:
        await world.letta.send(agent, [user(text, otid)], timeout=timeout, listener=heard)
    assert caught.value.cause == "timeout"
    assert len(heard.runs) == 1
    assert (await world.wait_until(agent, otid, TurnState.STORED)).answer is not None
    assert heard.pieces == []


async def test_cancelling_ends_a_turn_with_a_listener_and_stores_nothing_of_it(world: World) -> None:
    agent, otid = await world.agent(), str(uuid.uuid4())
    heard = Heard()
    hold = Hold()
    if isinstance(world.letta, InMemoryLetta):
        world.letta.stream_next("one ", "two ", hold, "three ", "four")
    turn = asyncio.create_task(
        world.letta.send(agent, [user(f"[[pace:300]] {'word ' * 60}", otid)], timeout=60, listener=heard)
    )
    await heard.until(lambda heard: len(heard.pieces) >= 2)
    await world.letta.cancel(agent, heard.runs)
    hold.release()
    with pytest.raises(TurnCancelled):
        await turn
    assert len(heard.pieces) < 10
    assert (await world.find(agent, otid)).state is TurnState.CANCELLED
    assert [m for m in await world.letta.history(agent) if m.get("run_id")] == []
    assert (await world.letta.send(agent, [user("hello", str(uuid.uuid4()))], timeout=60, listener=Heard())).text


@pytest.mark.parametrize("world", ["fake", pytest.param("server", marks=pytest.mark.letta)], indirect=True)
async def test_a_cancel_keeps_the_steps_that_were_complete(world: World) -> None:
    agent, otid = await world.agent(), str(uuid.uuid4())
    heard, hold = Heard(), Hold()
    if isinstance(world.letta, InMemoryLetta):
        world.letta.stream_next(ToolUse("memory_insert"), "one ", hold, "two ")
    turn = asyncio.create_task(
        world.letta.send(agent, [user("[[pace:300]] My name is Ada.", otid)], timeout=60, listener=heard)
    )
    await heard.until(lambda heard: heard.pieces and heard.tools)
    await world.letta.cancel(agent, heard.runs)
    hold.release()
    with pytest.raises(TurnCancelled):
        await turn
    assert heard.tools == [("memory_insert", ToolState.CALLED), ("memory_insert", ToolState.RETURNED)]
    found = await world.find(agent, otid)
    assert (found.state, found.answer) == (TurnState.STORED, None)


async def test_a_cancel_after_the_last_token_comes_too_late_for_the_answer(world: World) -> None:
    agent, otid = await world.agent(), str(uuid.uuid4())
    heard, hold = Heard(), Hold()
    if isinstance(world.letta, InMemoryLetta):
        world.letta.stream_next("echo: ", "ok", hold)
    turn = asyncio.create_task(world.letta.send(agent, [user("[[pace:800]] ok", otid)], timeout=60, listener=heard))
    await heard.until(lambda heard: heard.messages and heard.messages[0].endswith("ok"))
    await world.letta.cancel(agent, heard.runs)
    hold.release()
    with pytest.raises(TurnCancelled):
        await turn
    found = await world.find(agent, otid)
    assert found.answer is not None
    assert (found.state, found.answer.text) == (TurnState.STORED, heard.messages[0])


async def test_run_end_has_the_stop_reason_and_usage(world: World) -> None:
    """Why it ended, and its tokens: what an answer that is found in the history lacks."""
    agent, otid = await world.agent(), str(uuid.uuid4())
    answer = await world.letta.send(agent, [user("hello", otid)], timeout=60)
    found = await world.find(agent, otid)
    assert found.answer is not None
    assert (found.answer.stop_reason, found.answer.usage) == ("found", None)
    assert found.run_id is not None
    end = await world.letta.run_end(found.run_id)
    tokens = [(usage.prompt_tokens, usage.total_tokens) if usage else None for usage in (end.usage, answer.usage)]
    assert end.stop_reason == answer.stop_reason
    assert tokens[0] == tokens[1]
    with pytest.raises(LettaRejected) as caught:
        await world.letta.run_end(f"run-{uuid.uuid4()}")
    assert caught.value.cause == "not_found"


@servers  # the fake has no model that cuts
@pytest.mark.parametrize("listener", [None, Heard()], ids=["whole", "streamed"])
async def test_a_text_cut_at_the_length_limit_is_marked(world: World, listener: Heard | None) -> None:
    agent, otid = await world.agent(), str(uuid.uuid4())
    answer = await world.letta.send(agent, [user("[[cut]] Once upon a time", otid)], timeout=60, listener=listener)
    assert answer.truncated
    found = await world.find(agent, otid)
    assert found.run_id is not None
    assert (await world.letta.run_end(found.run_id)).stop_reason == answer.stop_reason


async def test_a_turn_never_sent(world: World) -> None:
    agent = await world.agent()
    await world.letta.send(agent, [user("hello", str(uuid.uuid4()))], timeout=60)
    found = await world.find(agent, str(uuid.uuid4()))
    assert (found.state, found.answer, found.run_ids) == (TurnState.ABSENT, None, ())


@pytest.mark.parametrize("roles", [("user", "user"), ("user", "assistant", "user"), ("system", "user")])
async def test_several_messages_in_one_turn(world: World, roles: tuple[str, ...]) -> None:
    agent = await world.agent()
    told = [TurnMessage(cast("Any", role), f"{n} {role}", str(uuid.uuid4())) for n, role in enumerate(roles)]
    answer = await world.letta.send(agent, told, timeout=60)
    listed = [m for m in await world.letta.history(agent) if m.get("run_id")]
    assert [m["content"] for m in listed] == [*(m.content for m in told), answer.text]
    assert [m["message_type"] for m in listed[:-1]] == [f"{role}_message" for role in roles]
    kept = {m["otid"] for m in listed}
    assert all((m.otid in kept) == (m.role != "assistant") for m in told)
    found = await world.find(agent, told[-1].otid)
    assert found.answer is not None
    assert found.answer.text == answer.text


async def test_a_turn_continues_after_its_caller_left(world: World) -> None:
    agent, otid = await world.agent(), str(uuid.uuid4())
    with world.slow(), pytest.raises(OutcomeUnknown) as caught:
        await world.letta.send(agent, [user("hello", otid)], timeout=0.02)
    assert caught.value.cause == "timeout"
    found = await world.wait_until(agent, otid, TurnState.STORED)
    assert found.answer is not None
    listed = await world.letta.history(agent)
    assert [m["message_type"] for m in listed if m["otid"] == otid] == ["user_message"]


async def test_an_empty_message_is_refused(world: World) -> None:
    agent, otid = await world.agent(), str(uuid.uuid4())
    with pytest.raises(LettaRejected) as caught:
        await world.letta.send(agent, [user("", otid)], timeout=60)
    assert caught.value.cause == "bad_request"
    assert (await world.find(agent, otid)).state is TurnState.ABSENT


async def test_of_two_turns_with_one_otid_the_newest_is_found(world: World) -> None:
    agent, otid = await world.agent(), str(uuid.uuid4())
    for number in range(2):
        await world.letta.send(agent, [user(f"第{number}句", otid)], timeout=60)
    found = await world.find(agent, otid)
    assert found.answer is not None
    assert "第1句" in found.answer.text


async def test_an_otid_that_others_may_have_had_counts_with_the_same_words_and_a_later_date_only(world: World) -> None:
    agent, otid = await world.agent(), str(uuid.uuid4())
    await world.letta.send(agent, [user("说\0定了", otid)], timeout=60)
    legacy = {"labelled": False, "content": "说\0定了"}
    assert (await world.find(agent, otid, **legacy)).state is TurnState.STORED
    assert (await world.find(agent, otid, **{**legacy, "content": "something else"})).state is TurnState.ABSENT
    assert (await world.find(agent, otid, **{**legacy, "since": time.time() + 60})).state is TurnState.ABSENT


async def test_several_turns_and_their_copies_are_found_in_one_look(world: World) -> None:
    agent = await world.agent()
    first, second, third = (str(uuid.uuid4()) for _ in range(3))
    copy = derived_otid(first, "copy")
    await world.letta.send(agent, [user("told later", copy), user("second", second)], timeout=60)
    sought = [SoughtTurn(first, 0.0, copies=frozenset({copy})), SoughtTurn(second, 0.0), SoughtTurn(third, 0.0)]
    found = await world.letta.find_turns(agent, sought)
    assert [turn.state for turn in found.turns] == [TurnState.ABSENT, TurnState.STORED, TurnState.ABSENT]
    assert [turn.caught_up for turn in found.turns] == [True, False, False]
    assert found.other_runs == ()


async def test_a_run_belongs_to_the_turn_it_was_sent_for(world: World) -> None:
    agent, otids = await world.agent(), [str(uuid.uuid4()) for _ in range(2)]
    with world.slow():
        for otid in otids:
            with pytest.raises(OutcomeUnknown):
                await world.letta.send(
                    agent, [user(f"[[latency:{world.slow_milliseconds}]] {otid}", otid)], timeout=0.02
                )
        running = [await world.wait_until(agent, otid, TurnState.RUNNING) for otid in otids]
        assert [len(turn.run_ids) for turn in running] == [1, 1]
        assert running[0].run_ids != running[1].run_ids
        look = await world.letta.find_turns(agent, [SoughtTurn(str(uuid.uuid4()), 0.0)])
        assert look.turns[0].state is TurnState.ABSENT
        assert set(look.other_runs) == {*running[0].run_ids, *running[1].run_ids}
        await world.letta.cancel(agent, running[0].run_ids)
        states = [(await world.find(agent, otid)).state for otid in otids]
        assert states == [TurnState.CANCELLED, TurnState.RUNNING]
    for otid in otids:  # a cancel stops no model call: what was cancelled is stored after all
        await world.wait_until(agent, otid, TurnState.STORED)


async def test_a_failed_turn_is_absent_although_it_had_a_run(world: World) -> None:
    agent, otid = await world.agent(), str(uuid.uuid4())
    if isinstance(world.letta, InMemoryLetta):
        world.letta.fail_next(OutcomeUnknown(cause="server_error"))
    with pytest.raises(OutcomeUnknown) as caught:
        await world.letta.send(agent, [user("[[fail:500]] hello", otid)], timeout=60)
    assert caught.value.cause == "server_error"
    assert (await world.find(agent, otid)).state is TurnState.ABSENT


async def test_cancelling_a_finished_run_is_no_error(world: World) -> None:
    agent = await world.agent()
    await world.letta.cancel(agent, [])
    await world.letta.cancel(agent, [f"run-{uuid.uuid4()}"])


async def test_health_answers(world: World) -> None:
    assert await world.letta.health()


@servers
async def test_a_deleted_agent_leaves_no_block_behind(world: World) -> None:
    letta = world.letta
    headers = {"Authorization": f"Bearer {world.api_key}"} if world.api_key else {}
    value = f"secret of {uuid.uuid4()}"
    async with httpx.AsyncClient(base_url=world.url, headers=headers) as raw:
        blocks = (Block("human", value), Block("persona", "kind"))
        agent = await letta.create_agent(replace(world.spec, blocks=blocks))
        query = {"label": "human", "value_search": value}
        assert len((await raw.get("/v1/blocks/", params=query)).json()) == 1
        assert await letta.delete_agent(agent.agent_id)
        assert (await raw.get("/v1/blocks/", params=query)).json() == []


def test_an_otid_belongs_to_one_agent_and_one_task() -> None:
    other = "agent-32006411-d94a-4f4b-9bd9-25f0a9d311a8"
    assert turn_otid(GONE, "t") == turn_otid(GONE, "t")
    assert len({turn_otid(GONE, "t"), turn_otid(other, "t"), turn_otid(GONE, "u")}) == 3


@given(st.uuids(), st.text(st.characters(codec="utf-8")))
def test_an_otid_is_the_uuid_5_of_the_task_in_the_agents_namespace(agent: uuid.UUID, task_id: str) -> None:
    assert turn_otid(f"agent-{agent}", task_id) == str(uuid.uuid5(agent, task_id))
