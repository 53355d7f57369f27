"""A Letta that is gone looks to bridges as it does without proxies: nobody listens, and nobody answers in its place."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from bridge_chaos.letta_gate import LettaGate
from bridge_chaos.waiting import wait_until
from letta_bridge.errors import OutcomeUnknown
from letta_bridge.letta import AgentSpec, TurnMessage
from letta_bridge.letta.letta_client import LettaClient
from letta_bridge.testing.turn_listener import Heard
from local_stack.ports import HOST, free_port

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("chaos")]


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[LettaGate]:
    """Before a port at which nobody listens."""
    gate = LettaGate(f"http://{HOST}:{free_port()}", logs=tmp_path)
    gate.start()
    yield gate
    gate.kill()


def test_the_gate_loses_the_connection_where_its_target_is_gone(gate: LettaGate) -> None:
    gate.wait_ready()
    for method in ("GET", "POST"):
        with pytest.raises(httpx.RemoteProtocolError):
            httpx.request(method, f"{gate.url}/v1/agents/")


async def test_a_gate_passes_streams_on_and_cuts_them(letta_double: Callable[..., Any], tmp_path: Path) -> None:
    target = letta_double()
    gate = LettaGate(target.url, logs=tmp_path)
    gate.start()
    client = LettaClient(gate.url)
    try:
        gate.wait_ready()
        spec = AgentSpec("ada", ("bridge",), "openai/gpt-4o-mini", None, "letta_v1_agent", blocks=(), tools=())
        agent = (await client.create_agent(spec)).agent_id
        heard = Heard()
        said = [TurnMessage("user", "hello, this is long enough", str(uuid.uuid4()))]
        answer = await client.send(agent, said, timeout=10, listener=heard)
        assert heard.messages == [answer.text]
        for mode in ("cut-answer", "cut"):
            gate.fail(mode, times=1)
            with pytest.raises(OutcomeUnknown) as caught:
                await client.send(agent, said, timeout=10, listener=Heard())
            assert caught.value.cause == "connection_lost"
    finally:
        await client.close()
        gate.kill()


def test_address_of_a_killed_letta_refuses_connections(environment: Any) -> None:
    letta = environment.letta
    url = f"{letta.link.url}/v1/health/"
    assert httpx.get(url).is_success
    restarting = threading.Thread(target=letta.kill_and_restart, args=(letta.double,), kwargs={"away": 1.0})
    restarting.start()

    def is_refused() -> bool:
        try:
            httpx.get(url)
        except httpx.ConnectError:
            return True
        except httpx.HTTPError:
            return False
        return False

    assert wait_until(is_refused, 30)
    restarting.join()
    assert httpx.get(url).is_success
