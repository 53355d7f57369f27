"""A server that answers twice gives nobody somebody else's answer."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import sys
from asyncio.streams import StreamReader, StreamWriter
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp.connector import Connection

from letta_bridge.errors import OutcomeUnknown
from letta_bridge.letta.clean_connections import CleanRequest, StaleConnection
from letta_bridge.letta.letta_client import LettaClient
from letta_bridge.letta.port import TurnMessage


@pytest.fixture(params=["while the connection is idle", "after the next request"])
async def repeating_letta(request: pytest.FixtureRequest) -> AsyncIterator[Any]:
    """Says each turn's agent back, twice; gives its address and a list of the agents asked."""
    asked = []
    late = request.param == "after the next request"

    async def serve(reader: Any, writer: StreamWriter) -> None:
        again = b""
        while head := await reader.readuntil(b"\r\n\r\n") if not reader.at_eof() else b"":
            await reader.readexactly(int(re.findall(rb"content-length: (\d+)", head.lower())[0]))
            agent = re.findall(rb"agents/([\w-]+)/", head)[0].decode()
            asked.append(agent)
            said = {"messages": [{"message_type": "assistant_message", "content": f"I am {agent}"}]}
            body = json.dumps(said).encode()
            answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
            writer.write(again + answer)
            if late:
                again = answer
                continue
            await asyncio.sleep(0.05)  # by then the connection waits for its next request
            writer.write(answer)

    async def guarded(reader: StreamReader, writer: StreamWriter) -> None:
        try:
            await serve(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(guarded, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    yield f"http://{address[0]}:{address[1]}", asked
    server.close()


async def test_duplicate_answer_is_never_given_to_another_request(repeating_letta: tuple[Any, ...]) -> None:
    url, asked = repeating_letta
    client = LettaClient(url)
    unknown = 0
    try:
        for number in range(4):
            try:
                answer = await client.send(f"agent-{number}", [TurnMessage("user", "你好", "o")], timeout=5)
            except OutcomeUnknown:
                unknown += 1
            else:
                assert answer.text == f"I am agent-{number}"
            await asyncio.sleep(0.1)
    finally:
        await client.close()
    assert asked == ["agent-0", "agent-1", "agent-2", "agent-3"]
    assert unknown <= 2  # a repeated answer costs the connection, so that the next turn has a new one


async def test_any_number_of_stale_connections_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    stale = iter(range(sys.getrecursionlimit()))

    async def send(request: CleanRequest, conn: Connection) -> aiohttp.ClientResponse:
        if next(stale, None) is not None:
            raise StaleConnection
        return await aiohttp.ClientRequest.send(request, conn)

    monkeypatch.setattr(CleanRequest, "send", send)
    served: list[Any] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.append(asyncio.current_task())
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
            await reader.read()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    client = LettaClient(f"http://{host}:{port}")
    try:
        assert (await client.send("agent-1", [TurnMessage("user", "你好", "o")], timeout=30)).text == ""
    finally:
        await client.close()
        await asyncio.gather(*served)
        server.close()


@pytest.mark.parametrize("stub", [b"", b"<html>", b'{"status":"working"}', b'{"messages":[]}'], ids=repr)
async def test_the_true_answer_behind_a_stub_is_never_given_to_the_next_request(stub: bytes) -> None:
    served: list[Any] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.append(asyncio.current_task())
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                found = re.search(rb"content-length: (\d+)", head.lower())
                assert found is not None
                await reader.readexactly(int(found[1]))
                agent = head.split(b"/")[3]
                said = b'{"messages":[{"message_type":"assistant_message","content":"I am %s"}]}' % agent
                for body in (stub, said):
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
                    await writer.drain()
                    await asyncio.sleep(0.01)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    client = LettaClient(f"http://{host}:{port}")
    try:
        for number in range(4):
            with contextlib.suppress(OutcomeUnknown):
                answer = await client.send(f"agent-{number}", [TurnMessage("user", "你好", "o")], timeout=5)
                assert answer.text in {"", f"I am agent-{number}"}
    finally:
        await client.close()
        await asyncio.gather(*served)
        server.close()


async def test_lookups_share_no_connection() -> None:
    seen = []

    async def serve(reader: StreamReader, writer: StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        seen.append(writer.get_extra_info("peername"))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n[]")
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    client = LettaClient(f"http://{host}:{port}")
    try:
        for _ in range(3):
            assert await client.find_agents(["user:小明"]) == []
    finally:
        await client.close()
        server.close()
    assert len(set(seen)) == 3
