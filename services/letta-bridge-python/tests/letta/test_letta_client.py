from __future__ import annotations

import asyncio
import json
import math
import subprocess
import sys
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aiohttp import web

from letta_bridge.errors import AgentGone, LettaRejected, LettaUnavailable, OutcomeUnknown
from letta_bridge.letta import (
    AgentSpec,
    Block,
    FoundTurn,
    ModelParameters,
    SoughtTurn,
    TurnMessage,
    TurnState,
    letta_client,
)
from letta_bridge.letta.letta_client import HISTORY_PAGE, OLDER_PAGE, LettaClient
from letta_bridge.letta.turn_search import TOOL_KWARG_LABEL

Stub = Callable[[Callable[[web.Request], Awaitable[web.StreamResponse]]], Awaitable[str]]
Clients = Callable[..., LettaClient]

AGENT = "agent-22006411-d94a-4f4b-9bd9-25f0a9d311a8"
TURN = (TurnMessage("user", "你好 \ud800", "otid-1"),)
ANSWER = {"messages": [{"message_type": "assistant_message", "content": "hi"}], "stop_reason": "end_turn"}


async def test_a_turn_is_one_request_without_streaming(stub: Stub, client_of: Clients) -> None:
    asked: list[tuple[str, str, str | None, object]] = []

    async def handler(request: web.Request) -> web.Response:
        asked.append((request.method, request.path, request.headers.get("Authorization"), await request.json()))
        return web.json_response(ANSWER)

    client = client_of(await stub(handler) + "/", api_key="s3cret")
    answer = await client.send(AGENT, [TurnMessage("system", "before", "o0"), *TURN], timeout=5)
    assert answer.text == "hi"
    messages = [
        {"role": "system", "content": "before", "otid": "o0"},
        {"role": "user", "content": "你好 \ud800", "otid": "otid-1"},
    ]
    body = {"messages": messages, TOOL_KWARG_LABEL: "otid-1"}
    assert asked == [("POST", f"/v1/agents/{AGENT}/messages", "Bearer s3cret", body)]


async def test_only_the_given_key_is_sent(stub: Stub, client_of: Clients, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LETTA_API_KEY", "of the environment")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    keys: list[str | None] = []

    async def handler(request: web.Request) -> web.Response:
        keys.append(request.headers.get("Authorization"))
        return web.json_response(ANSWER | {"version": "1"})

    client = client_of(await stub(handler))
    await client.send(AGENT, TURN, timeout=5)
    assert await client.health() == "1"
    assert keys == [None, None]


async def test_a_server_that_refuses_connections_is_unavailable(client_of: Clients, unused_tcp_port: int) -> None:
    client = client_of(f"http://127.0.0.1:{unused_tcp_port}")
    with pytest.raises(LettaUnavailable):
        await client.send(AGENT, TURN, timeout=5)
    with pytest.raises(LettaUnavailable):
        await client.health()


async def never(_: web.Request) -> web.Response:
    await asyncio.Event().wait()
    raise AssertionError


async def dropped(request: web.Request) -> web.Response:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def cut(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": "100"})
    await response.prepare(request)
    await response.write(b'{"messages":')
    assert request.transport is not None
    request.transport.close()
    return response


async def drip(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    for _ in range(1000):
        await response.write(b" ")
        await asyncio.sleep(0.01)
    return response


@pytest.mark.parametrize(
    ("handler", "cause"),
    [(never, "timeout"), (drip, "timeout"), (dropped, "connection_lost"), (cut, "connection_lost")],
)
async def test_turn_with_an_unknown_outcome_is_sent_once(
    stub: Stub, client_of: Clients, handler: Callable[[web.Request], Awaitable[web.StreamResponse]], cause: str
) -> None:
    requests = 0

    async def counting(request: web.Request) -> web.StreamResponse:
        nonlocal requests
        requests += 1
        return await handler(request)

    client = client_of(await stub(counting))
    with pytest.raises(OutcomeUnknown) as caught:
        await client.send(AGENT, TURN, timeout=0.1)
    assert caught.value.cause == cause
    assert requests == 1


@pytest.mark.parametrize("handler", [never, dropped, cut])
async def test_a_read_that_breaks_is_unavailable(
    stub: Stub, client_of: Clients, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> None:
    client = client_of(await stub(handler), timeout=0.1)
    with pytest.raises(LettaUnavailable):
        await client.get_agent(AGENT)


async def test_a_connection_lost_while_creating_is_not_called_unsent(stub: Stub, client_of: Clients) -> None:
    client = client_of(await stub(dropped))
    spec = AgentSpec("n", (), "m", None, "letta_v1_agent", (), ())
    with pytest.raises(OutcomeUnknown):
        await client.create_agent(spec)


async def test_redirects_are_not_followed(stub: Stub, client_of: Clients) -> None:
    async def elsewhere(_: web.Request) -> web.Response:
        raise AssertionError("the redirect was followed")

    target = await stub(elsewhere)

    async def handler(_: web.Request) -> web.Response:
        return web.Response(status=307, headers={"Location": f"{target}/stolen"})

    client = client_of(await stub(handler))
    for asked in (client.health(), client.send(AGENT, TURN, timeout=5)):
        with pytest.raises(LettaRejected) as caught:
            await asked
        assert caught.value.cause == "redirected"


async def test_refusal_carries_retry_after(stub: Stub, client_of: Clients) -> None:
    async def handler(_: web.Request) -> web.Response:
        return web.json_response({"error": {"type": "llm_rate_limit"}}, status=429, headers={"Retry-After": "9"})

    client = client_of(await stub(handler))
    with pytest.raises(OutcomeUnknown) as caught:
        await client.send(AGENT, TURN, timeout=5)
    assert (caught.value.cause, caught.value.retry_after) == ("rate_limited", 9.0)
    with pytest.raises(LettaUnavailable) as read:
        await client.find_agents(["a"])
    assert read.value.retry_after == 9.0


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"3", b""])
async def test_success_that_is_not_lettas(stub: Stub, client_of: Clients, body: bytes) -> None:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(body=body)

    client = client_of(await stub(handler))
    with pytest.raises(OutcomeUnknown) as caught:
        await client.send(AGENT, TURN, timeout=5)
    assert caught.value.cause == "connection_lost"
    with pytest.raises(LettaRejected) as read:
        await client.get_agent(AGENT)
    assert read.value.cause == "not_letta"


async def test_a_cancelled_turn_is_cancelled(stub: Stub, client_of: Clients) -> None:
    arrived = asyncio.Event()

    async def handler(request: web.Request) -> web.Response:
        arrived.set()
        return await never(request)

    turn = asyncio.create_task(client_of(await stub(handler)).send(AGENT, TURN, timeout=30))
    await arrived.wait()
    turn.cancel()
    with pytest.raises(asyncio.CancelledError):
        await turn


async def test_a_closed_client_is_unavailable(stub: Stub, client_of: Clients) -> None:
    client = client_of(await stub(never))
    await client.close()
    with pytest.raises(LettaUnavailable):
        await client.send(AGENT, TURN, timeout=5)
    with pytest.raises(LettaUnavailable):
        await client.health()


async def test_connection_pool_holds_max_concurrency_turns(stub: Stub, client_of: Clients) -> None:
    turns, waiting, all_in = 200, 0, asyncio.Event()

    async def handler(_: web.Request) -> web.Response:
        nonlocal waiting
        waiting += 1
        if waiting == turns:
            all_in.set()
        await all_in.wait()
        return web.json_response(ANSWER)

    client = client_of(await stub(handler), max_concurrency=turns)
    answers = await asyncio.gather(*(client.send(AGENT, TURN, timeout=30) for _ in range(turns)))
    assert len(answers) == turns


class Pages:
    """A server with one agent's messages, which pages as Letta does: newest page first, each oldest first."""

    def __init__(self, messages: list[dict[str, object]], runs: list[dict[str, object]]) -> None:
        self.messages = messages
        self.runs = runs
        self.asked: list[str] = []

    async def handle(self, request: web.Request) -> web.Response:
        self.asked.append(request.path)
        if request.path == "/v1/runs/":
            assert request.query.getall("statuses") == ["created", "running", "cancelled"]
            assert request.query["agent_id"] == AGENT
            newer = [i for i, run in enumerate(self.runs) if run["id"] == request.query.get("before")]
            start = newer[0] + 1 if newer else 0
            return web.json_response(self.runs[start : start + int(request.query["limit"])])
        assert request.query["order"] == "desc"
        end = len(self.messages)
        if "before" in request.query:
            end = next(i for i, m in enumerate(self.messages) if m["id"] == request.query["before"])
        return web.json_response(self.messages[max(0, end - int(request.query["limit"])) : end])


async def find(client: LettaClient, otid: str, since: float = 0.0) -> FoundTurn:
    return (await client.find_turns(AGENT, [SoughtTurn(otid, since)])).turns[0]


def turns(count: int) -> list[dict[str, object]]:
    kinds = ("user_message", "assistant_message")
    return [
        {
            "id": f"message-{n}-{kind}",
            "message_type": kind,
            "otid": f"{n}-{kind}",
            "run_id": f"run-{n}",
            "content": f"{n}",
        }
        for n in range(count)
        for kind in kinds
    ]


async def test_a_turn_on_an_older_page(stub: Stub, client_of: Clients) -> None:
    history = Pages(turns(150), [])
    client = client_of(await stub(history.handle))
    found = await find(client, "20-user_message")
    assert found.state is TurnState.STORED
    assert found.answer is not None
    assert found.answer.text == "20"
    assert history.asked == ["/v1/runs/"] + [f"/v1/agents/{AGENT}/messages"] * 2


async def test_an_answer_on_the_page_after_its_question(stub: Stub, client_of: Clients) -> None:
    page = HISTORY_PAGE // 2
    history = Pages(turns(page + 1)[:-1], [])
    found = await find(client_of(await stub(history.handle)), "0-user_message")
    assert found.answer is not None
    assert found.answer.text == "0"


async def test_a_turn_is_absent_only_after_all_of_the_history(stub: Stub, client_of: Clients) -> None:
    history = Pages(turns(1200), [])
    client = client_of(await stub(history.handle))
    assert (await find(client, "nowhere")).state is TurnState.ABSENT
    pages = 2 + math.ceil((2400 - HISTORY_PAGE) / OLDER_PAGE)  # the first, and one that is empty
    assert len(history.asked) == 1 + pages
    assert (await find(client, "0-user_message")).state is TurnState.STORED


async def test_a_search_stops_at_messages_older_than_the_task(stub: Stub, client_of: Clients) -> None:
    began = datetime(2026, 1, 1, tzinfo=UTC)
    dates = [(began + timedelta(seconds=n)).isoformat() for n in range(1200)]
    history = Pages([{**message, "date": date} for message, date in zip(turns(600), dates, strict=True)], [])
    since = (began + timedelta(seconds=1150)).timestamp()
    found = await find(client_of(await stub(history.handle)), "nowhere", since)
    assert found.state is TurnState.ABSENT
    assert len(history.asked) == 1 + 2


async def test_search_beyond_its_time_limit_is_not_complete(stub: Stub, client_of: Clients) -> None:
    history = Pages(turns(1200), [])
    client = client_of(await stub(history.handle))
    look = await client.find_turns(AGENT, [SoughtTurn("nowhere", 0.0)], time_limit=0.0)
    assert not look.complete
    assert len(history.asked) == 1 + 1
    assert (await client.find_turns(AGENT, [SoughtTurn("1199-user_message", 0.0)], time_limit=0.0)).complete
    assert (await client.find_turns(AGENT, [SoughtTurn("nowhere", 0.0)], time_limit=60.0)).complete


async def test_all_runs_are_read(stub: Stub, client_of: Clients, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(letta_client, "_RUN_PAGE", 2)
    runs: Any = [
        {"id": f"run-{n}", "status": "running", "request_config": {TOOL_KWARG_LABEL: str(uuid.UUID(int=n))}}
        for n in range(5)
    ]
    history = Pages([], runs)
    found = await find(client_of(await stub(history.handle)), str(uuid.UUID(int=4)))
    assert (found.state, found.run_ids) == (TurnState.RUNNING, ("run-4",))


async def test_a_server_that_lists_one_page_for_ever_is_not_letta(stub: Stub, client_of: Clients) -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.json_response([] if request.path == "/v1/runs/" else turns(3))

    with pytest.raises(LettaRejected) as caught:
        await find(client_of(await stub(handler)), "nowhere")
    assert caught.value.cause == "not_letta"


async def test_a_turn_labels_its_run(stub: Stub, client_of: Clients) -> None:
    bodies = []

    async def handler(request: web.Request) -> web.Response:
        bodies.append(await request.json())
        return web.json_response(ANSWER)

    told = [TurnMessage("user", "earlier", "otid-1"), TurnMessage("user", "now", "otid-2")]
    await client_of(await stub(handler)).send(AGENT, told, timeout=5)
    assert bodies[0][TOOL_KWARG_LABEL] == "otid-2"
    assert [message["otid"] for message in bodies[0]["messages"]] == ["otid-1", "otid-2"]


@pytest.mark.parametrize(("limit", "first"), [(0, None), (3, "148-assistant_message"), (250, "25-user_message")])
async def test_history_is_the_newest_part(stub: Stub, client_of: Clients, limit: int, first: str | None) -> None:
    client = client_of(await stub(Pages(turns(150), []).handle))
    listed = await client.history(AGENT, limit=limit)
    assert len(listed) == limit
    assert [m["otid"] for m in listed[:1]] == [first] * bool(limit)


async def test_agents_are_read_page_by_page(stub: Stub, client_of: Clients) -> None:
    agents = [{"id": f"agent-{n}", "name": "n", "tags": ["a", "b"], "created_at": str(n)} for n in range(120)]

    async def handler(request: web.Request) -> web.Response:
        assert request.query.getall("tags") == ["a", "b"]
        assert (request.query["match_all_tags"], request.query["order"]) == ("true", "asc")
        start = 0
        if "after" in request.query:
            start = 1 + next(i for i, a in enumerate(agents) if a["id"] == request.query["after"])
        return web.json_response(agents[start : start + int(request.query["limit"])])

    found = await client_of(await stub(handler)).find_agents(["a", "b"])
    assert [agent.agent_id for agent in found] == [agent["id"] for agent in agents]
    assert found[0].tags == ("a", "b")


async def test_create_agent_sends_exactly_the_specification(stub: Stub, client_of: Clients) -> None:
    bodies: list[dict[str, object]] = []

    async def handler(request: web.Request) -> web.Response:
        bodies.append(await request.json())
        return web.json_response({"id": AGENT, "name": "n", "tags": ["t"], "created_at": "2026"})

    spec = AgentSpec(
        name="n",
        tags=("t",),
        model="m/x",
        embedding=None,
        agent_type="letta_v1_agent",
        blocks=(Block("human", "v", "d", 10),),
        tools=("memory_insert",),
        parameters=ModelParameters(32000, 500, 0.3),
    )
    created = await client_of(await stub(handler)).create_agent(spec)
    assert (created.agent_id, created.tags) == (AGENT, ("t",))
    assert bodies == [
        {
            "name": "n",
            "tags": ["t"],
            "model": "m/x",
            "agent_type": "letta_v1_agent",
            "memory_blocks": [{"label": "human", "value": "v", "description": "d", "limit": 10}],
            "tools": ["memory_insert"],
            "include_base_tools": False,
            "context_window_limit": 32000,
            "max_tokens": 500,
            "message_buffer_autoclear": False,
            "enable_sleeptime": False,
        }
    ]


async def test_cancel_without_runs_sends_no_request(stub: Stub, client_of: Clients) -> None:
    bodies: list[object] = []

    async def handler(request: web.Request) -> web.Response:
        bodies.append(await request.json())
        return web.json_response({"detail": "CONFLICT: No active runs to cancel"}, status=404)

    client = client_of(await stub(handler))
    await client.cancel(AGENT, [])
    await client.cancel(AGENT, ["run-1"])
    assert bodies == [{"run_ids": ["run-1"]}]


async def test_deleting_takes_unshared_memory_along_and_the_agent_last(stub: Stub, client_of: Clients) -> None:
    deleted: list[str] = []
    users = {"blocks/own": 1, "blocks/shared": 2, "archives/own": 1}

    async def handler(request: web.Request) -> web.Response:
        path = request.path.removeprefix("/v1/").rstrip("/")
        if request.method == "DELETE":
            deleted.append(path)
            return web.json_response(None)
        if path == f"agents/{AGENT}/core-memory/blocks":
            return web.json_response([{"id": "own"}, {"id": "shared"}, {"id": "vanished"}])
        if path == "archives":
            return web.json_response([{"id": "own"}])
        if (name := path.removesuffix("/agents")) in users:
            return web.json_response([{"id": str(n)} for n in range(users[name])])
        return web.json_response({"detail": "Block with id 'vanished' not found"}, status=404)

    assert await client_of(await stub(handler)).delete_agent(AGENT)
    assert deleted == ["blocks/own", "archives/own", f"agents/{AGENT}"]


async def test_gone_while_being_deleted(stub: Stub, client_of: Clients) -> None:
    async def handler(_: web.Request) -> web.Response:
        return web.json_response({"detail": "Agent not found"}, status=404)

    client = client_of(await stub(handler))
    assert not await client.delete_agent(AGENT)
    with pytest.raises(AgentGone):
        await client.get_agent(AGENT)


@pytest.mark.process
def test_the_package_does_not_load_the_sdk() -> None:
    code = (
        "import sys, letta_bridge.letta; print([m for m in ('letta_client', 'aiohttp', 'httpx') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert json.loads(out.stdout.replace(b"'", b'"')) == []
