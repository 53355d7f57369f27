"""A server that answers twice gives nobody somebody else's answer."""

from __future__ import annotations

import asyncio
import json
import re

import pytest

from letta_bridge.letta.letta_client import LettaClient
from letta_bridge.letta.port import TurnMessage


@pytest.fixture
async def repeating_letta():
    """Says each turn's agent back, twice; gives its address and a list of the agents asked."""
    asked = []

    async def serve(reader, writer):
        while head := await reader.readuntil(b"\r\n\r\n") if not reader.at_eof() else b"":
            await reader.readexactly(int(re.search(rb"content-length: (\d+)", head.lower())[1]))
            agent = re.search(rb"agents/([\w-]+)/", head)[1].decode()
            asked.append(agent)
            said = {"messages": [{"message_type": "assistant_message", "content": f"I am {agent}"}]}
            body = json.dumps(said).encode()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
            await asyncio.sleep(0.05)  # by then the connection waits for its next request
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    async def guarded(reader, writer):
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


async def test_an_answer_nobody_asked_for_is_nobodys(repeating_letta):
    url, asked = repeating_letta
    client = LettaClient(url)
    try:
        for number in range(3):
            answer = await client.send(f"agent-{number}", [TurnMessage("user", "你好", "o")], timeout=5)
            assert answer.text == f"I am agent-{number}"
            await asyncio.sleep(0.1)
    finally:
        await client.close()
    assert asked == ["agent-0", "agent-1", "agent-2"]
