"""A server that answers twice answers no other request with it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from asyncio.streams import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest

from shared_utils.repeated_answers import SingleAnswerClient


@pytest.fixture
async def serve() -> AsyncIterator[Callable[..., Any]]:
    """Serves on a port of its own; takes what makes each answer of the request before it and this one."""
    served: list[asyncio.Task[None]] = []

    async def start(answers: Callable[..., Any]) -> str:
        async def connected(reader: StreamReader, writer: StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            served.append(task)
            before = b""
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                while head := await reader.readuntil(b"\r\n\r\n"):
                    length = re.search(rb"content-length: (\d+)", head.lower())
                    body = await reader.readexactly(int(length[1]) if length else 0)
                    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
                    writer.write(answers(before, answer))
                    before = answer
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

        server = await asyncio.start_server(connected, "127.0.0.1", 0)
        servers.append(server)
        host, port = server.sockets[0].getsockname()
        return f"http://{host}:{port}"

    servers: list[Any] = []
    yield start
    for server in servers:
        server.close()
    await asyncio.gather(*served)


ANSWERS = {
    "twice at once": lambda _, answer: answer + answer,
    "again after the next request": lambda before, answer: before + answer,
}


@pytest.mark.parametrize("answers", ANSWERS.values(), ids=ANSWERS)
async def test_a_repeated_answer_is_an_error_and_costs_the_connection(
    serve: Callable[..., Any], answers: Callable[..., Any]
) -> None:
    url = await serve(answers)
    refused = 0
    async with SingleAnswerClient(timeout=5) as client:
        for number in range(6):
            question = {"content": f"第{number}句"}
            try:
                answer = await client.post(url, json=question)
            except httpx.RemoteProtocolError:
                refused += 1
                answer = await client.post(url, json=question)
            assert json.loads(answer.content) == question
    assert refused in {0, 5}


async def test_the_same_request_may_be_answered_alike(serve: Callable[..., Any]) -> None:
    url = await serve(lambda _, answer: answer)
    async with SingleAnswerClient(timeout=5) as client:
        for _ in range(3):
            assert not (await client.get(f"{url}/readyz")).content
