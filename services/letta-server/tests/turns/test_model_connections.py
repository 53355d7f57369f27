"""Connections to models: kept between calls of the real Letta, and what a shared pool may not change."""

from __future__ import annotations

import concurrent.futures
import json
import socket
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

pytestmark = [pytest.mark.integration, pytest.mark.letta, pytest.mark.xdist_group("letta-server")]

AGENT_COUNT: Final = 5
TURNS_EACH: Final = 20
AGENT: Final = {"model": "openai-proxy/gpt-4o-mini", "embedding": "openai/text-embedding-3-small"}
SDK: Final = {"X-Stainless-Package-Version": "1.12.1"}
"""Without it Letta refuses ``streaming``."""

SHARED: Final = """
import asyncio, os, socket
from letta_server.turns import surplus
from letta_server.turns.model_connections import Connections

surplus.install()
connections = Connections()
MESSAGES = [{"role": "user", "content": "hello"}]

def client(key="one", **options):
    return connections.client(api_key=key, base_url=os.environ["MODEL"], **options)

async def ask(key="one", **options):
    return await client(key, **options).chat.completions.create(model="m", messages=MESSAGES)

async def said(text):
    messages = [{"role": "user", "content": text}]
    return (await client().chat.completions.create(model="m", messages=messages)).choices[0].message.content

async def stream(key="one"):
    async with await client(key).chat.completions.create(model="m", messages=MESSAGES, stream=True) as events:
        async for _ in events:
            pass
"""


@pytest.fixture
def run(run_with_letta: Callable[..., Any], counting_model: Any, tmp_path: Path) -> Callable[[str], str]:
    """Runs a program after ``SHARED``; returns what it prints."""

    def run(program: str) -> str:
        ran = run_with_letta(SHARED + program, tmp_path, MODEL=counting_model.url)
        assert ran.returncode == 0, ran.stderr
        said: str = ran.stdout
        return said

    return run


def test_hundred_turns_take_a_handful_of_connections_and_leave_no_line_above_info(
    letta_server: Any, postgres: Any, database: str, counting_model: Any, ready: Any
) -> None:
    settings = postgres.variables(database, OPENAI_BASE_URL=counting_model.url, OPENAI_API_KEY="sk-anything")
    started = letta_server.start("run", "--port", "0", settings=settings | {"LETTA_SERVER_FULL_API": "true"})
    with httpx.Client(base_url=ready(started), headers=SDK, timeout=60, trust_env=False) as letta:
        agents = [letta.post("/v1/agents/", json=AGENT | {"name": f"a{n}"}).json()["id"] for n in range(AGENT_COUNT)]

        def turn(number: int, agent: str) -> None:
            message = {"messages": [{"role": "user", "content": "hello"}], "streaming": number % 2 == 0}
            answer = letta.post(f"/v1/agents/{agent}/messages", json=message)
            assert answer.status_code == 200, answer.text
            assert "end_turn" in answer.text
            if number % 5 == 0:
                stored = letta.post(f"/v1/agents/{agent}/archival-memory", json={"text": f"fact {number}"})
                assert stored.status_code == 200, stored.text

        with concurrent.futures.ThreadPoolExecutor(AGENT_COUNT) as pool:
            for number in range(TURNS_EACH):
                list(pool.map(partial(turn, number), agents))
    assert counting_model.calls >= AGENT_COUNT * TURNS_EACH
    # A turn's last writes may overlap the next one's call, so one for each agent and a few more.
    assert len(counting_model.connections) <= 2 * AGENT_COUNT
    started.process.terminate()
    assert started.ended(within=30) == 0
    lines = [json.loads(line) for line in started.said.splitlines() if line.startswith("{")]
    assert {line["event"] for line in lines} >= {"started", "stopped"}
    assert [line for line in lines if line["level"] not in {"debug", "info"}] == []


def test_answers_and_streams_and_embeddings_share_one_connection(
    run: Callable[[str], str], counting_model: Any
) -> None:
    run("""
async def main():
    for _ in range(3):
        await ask()
        await stream()
        await client().embeddings.create(model="m", input=["a", "b"], encoding_format="float")
    await connections.close()
asyncio.run(main())
""")
    assert [len(connection.keys) for connection in counting_model.connections] == [9]


def test_calls_with_different_keys_share_a_connection_but_no_cookie(
    run: Callable[[str], str], counting_model: Any
) -> None:
    run("""
async def main():
    await ask("one")
    await ask("two")
    await connections.close()
asyncio.run(main())
""")
    (connection,) = counting_model.connections
    assert connection.keys == ["Bearer one", "Bearer two"]
    assert connection.cookies == []


def test_call_on_a_connection_that_the_model_has_just_closed_is_repeated_once(
    run: Callable[[str], str], counting_model: Any
) -> None:
    counting_model.hang_up = 1
    assert run("""
async def main():
    await ask()
    print((await ask()).choices[0].message.content)
asyncio.run(main())
""").splitlines() == ["hello"]
    assert [len(connection.keys) for connection in counting_model.connections] == [2, 1]


@pytest.mark.parametrize(
    ("answer_count", "surplus", "calls_on_each"),
    [(2, b"", [1, 1, 1]), (1, b"\r\n", [3])],  # a line end before an answer changes nothing
    ids=["second answer", "stray line end"],
)
def test_surplus_after_an_answer_is_never_the_answer_to_the_next_call(
    run: Callable[[str], str], counting_model: Any, answer_count: int, surplus: bytes, calls_on_each: list[int]
) -> None:
    counting_model.answer_count, counting_model.surplus = answer_count, surplus
    assert run("""
async def main():
    for text in ("one", "two", "three"):
        print(await said(text))
asyncio.run(main())
""").splitlines() == ["one", "two", "three"]
    assert [len(connection.keys) for connection in counting_model.connections] == calls_on_each


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="a socket option of Linux")
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_connection_whose_other_end_acknowledges_nothing_is_given_up_within_seconds(
    run: Callable[[str], str], loop: str
) -> None:
    said = run(f"""
import {loop} as loop
async def main():
    await ask()
    ((protocol, _),) = [*connections._http._transport.client.connector._conns.values()][0]
    connection = protocol.transport.get_extra_info("socket")
    print(connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))
    print(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT))
loop.run(main())
""")
    assert said.splitlines() == ["1", "20000"]


def test_abandoned_and_cancelled_calls_leave_no_connection(run: Callable[[str], str], counting_model: Any) -> None:
    said = run("""
async def abandoned():
    async with await client().chat.completions.create(model="m", messages=MESSAGES, stream=True) as events:
        async for _ in events:
            break

async def main():
    for _ in range(5):
        await abandoned()
    calls = [asyncio.create_task(stream()) for _ in range(5)]
    await asyncio.sleep(0.01)
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    print(list(connections._http._transport.client.connector._acquired))
    await ask()
asyncio.run(main())
""")
    assert said.splitlines() == ["[]"]


def test_a_call_cancelled_after_its_last_event_leaves_no_connection(
    run: Callable[[str], str], counting_model: Any
) -> None:
    said = run("""
async def stream_until_last_event(came):
    async with await client().chat.completions.create(model="m", messages=MESSAGES, stream=True) as events:
        async for event in events:
            if event.choices[0].finish_reason:
                asyncio.get_running_loop().call_later(0.01, came.set)

async def main():
    came = asyncio.Event()
    call = asyncio.create_task(stream_until_last_event(came))
    await came.wait()
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    print(list(connections._http._transport.client.connector._acquired))
asyncio.run(main())
""")
    assert said.splitlines() == ["[]"]


def test_another_event_loop_has_connections_of_its_own(run: Callable[[str], str], counting_model: Any) -> None:
    run("""
import threading
async def main():
    await ask()
    other = threading.Thread(target=lambda: asyncio.run(ask()))
    other.start()
    await asyncio.to_thread(other.join)
    await ask()
asyncio.run(main())
""")
    assert [len(connection.keys) for connection in counting_model.connections] == [2, 1]


def test_closing_ends_idle_connections(run: Callable[[str], str], counting_model: Any) -> None:
    run("""
async def main():
    await ask()
    await connections.close()
    await ask()
    await connections.close()
asyncio.run(main())
""")
    assert [len(connection.keys) for connection in counting_model.connections] == [1, 1]
    deadline = time.monotonic() + 30
    while not all(connection.ended for connection in counting_model.connections):
        assert time.monotonic() < deadline
        time.sleep(0.01)
