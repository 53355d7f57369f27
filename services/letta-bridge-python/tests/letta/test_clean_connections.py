"""A server that answers twice gives nobody somebody else's answer."""

from __future__ import annotations

import asyncio
import contextlib
import re
import sys
from asyncio.streams import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import pytest
from aiohttp.connector import Connection

from letta_bridge.errors import OutcomeUnknown
from letta_bridge.letta.clean_connections import CleanRequest, StaleConnection
from letta_bridge.letta.letta_client import LettaClient
from letta_bridge.letta.port import TurnMessage


@contextlib.asynccontextmanager
async def client_of(converse: Callable[[StreamReader, StreamWriter], Awaitable[None]]) -> AsyncIterator[LettaClient]:
    """A client of a server that talks so on each connection, until the client leaves; all are closed at the end."""
    conversations: list[Any] = []

    async def serve(reader: StreamReader, writer: StreamWriter) -> None:
        conversations.append(asyncio.current_task())
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            await converse(reader, writer)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    client = LettaClient(f"http://{host}:{port}")
    try:
        yield client
    finally:
        await client.close()
        await asyncio.gather(*conversations)
        server.close()


async def asked_agent(reader: StreamReader) -> bytes:
    """Reads a turn; whose it is."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head.lower())
    agent = re.search(rb"agents/([\w-]+)/", head)
    assert length is not None
    assert agent is not None
    await reader.readexactly(int(length[1]))
    return agent[1]


def answer_of(agent: bytes) -> bytes:
    return b'{"messages":[{"message_type":"assistant_message","content":"I am %b"}]}' % agent


def response(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


@pytest.mark.parametrize("late", [False, True], ids=["while the connection is idle", "after the next request"])
async def test_duplicate_answer_is_never_given_to_another_request(late: bool) -> None:
    asked = []
    repeated = asyncio.Semaphore(0)

    async def twice(reader: StreamReader, writer: StreamWriter) -> None:
        again = b""
        while True:
            agent = await asked_agent(reader)
            asked.append(agent.decode())
            answer = response(answer_of(agent))
            writer.write(again + answer)
            if late:
                again = answer
            else:
                await asyncio.sleep(0.05)  # by then the connection waits for its next request
                writer.write(answer)
            repeated.release()

    unknown = 0
    async with client_of(twice) as client:
        for number in range(4):
            try:
                answer = await client.send(f"agent-{number}", [TurnMessage("user", "你好", "o")], timeout=5)
            except OutcomeUnknown:
                unknown += 1
            else:
                assert answer.text == f"I am agent-{number}"
            await repeated.acquire()
            await asyncio.sleep(0.1)  # the copy arrives
    assert asked == ["agent-0", "agent-1", "agent-2", "agent-3"]
    assert unknown in {0, 2}  # a repeated answer costs the connection, so that the next turn has a new one


async def test_any_number_of_stale_connections_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    stale = iter(range(sys.getrecursionlimit()))

    async def send(request: CleanRequest, conn: Connection) -> aiohttp.ClientResponse:
        if next(stale, None) is not None:
            raise StaleConnection
        return await aiohttp.ClientRequest.send(request, conn)

    monkeypatch.setattr(CleanRequest, "send", send)

    async def once(reader: StreamReader, writer: StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(response(b"{}"))
        await reader.read()

    async with client_of(once) as client:
        assert (await client.send("agent-1", [TurnMessage("user", "你好", "o")], timeout=30)).text == ""


@pytest.mark.parametrize("stub", [b"", b"<html>", b'{"status":"working"}', b'{"messages":[]}'], ids=repr)
async def test_the_true_answer_behind_a_stub_is_never_given_to_the_next_request(stub: bytes) -> None:
    async def late(reader: StreamReader, writer: StreamWriter) -> None:
        while True:
            agent = await asked_agent(reader)
            for body in (stub, answer_of(agent)):
                writer.write(response(body))
                await writer.drain()
                await asyncio.sleep(0.01)

    async with client_of(late) as client:
        for number in range(4):
            with contextlib.suppress(OutcomeUnknown):
                answer = await client.send(f"agent-{number}", [TurnMessage("user", "你好", "o")], timeout=5)
                assert answer.text in {"", f"I am agent-{number}"}


async def test_lookups_share_no_connection() -> None:
    seen = []

    async def nothing(reader: StreamReader, writer: StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        seen.append(writer.get_extra_info("peername"))
        writer.write(response(b"[]"))
        await reader.readuntil(b"\r\n\r\n")

    async with client_of(nothing) as client:
        for _ in range(3):
            assert await client.find_agents(["user:小明"]) == []
    assert len(set(seen)) == 3
