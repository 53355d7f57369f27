"""letta-server with two workers: the real Letta, one port, one database."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import httpx
import psutil
import psycopg
import pytest

from local_stack.fixtures import BridgeFactory, MemoryFactory, missing_parts
from local_stack.letta import Letta
from local_stack.models import ScriptedModel
from local_stack.postgres import Postgres
from local_stack.valkey import Valkey

pytestmark = [pytest.mark.acceptance, pytest.mark.letta, pytest.mark.xdist_group("letta-workers")]

DATABASE = "letta_workers"
PATIENCE = 90.0


def wait_until(holds: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + PATIENCE
    while not (found := holds()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


@pytest.fixture(scope="module")
def server(
    postgres_server: Postgres, scripted_model: ScriptedModel, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Letta]:
    """Started by the first test that needs it."""
    with missing_parts(), ExitStack() as held:
        locks = Valkey(tmp_path_factory.mktemp("locks"), durable=False)
        held.callback(locks.stop)
        locks.start()
        locks.wait_ready()
        server = Letta(
            tmp_path_factory.mktemp("letta"),
            database_url=f"{postgres_server.url(DATABASE)}?sslmode=disable",
            locks=(locks.host, locks.port),
            model=scripted_model.access,
            workers=2,
        )
        held.callback(server.stop)
        yield server


@pytest.fixture
def letta(server: Letta) -> Letta:
    """With both workers, whatever the previous test did to it."""
    server.start()
    server.wait_ready()
    wait_until(lambda: serving(server) == "2/2")
    return server


def serving(letta: Letta) -> str:
    answer = httpx.get(f"{letta.url}/v1/ready/", trust_env=False, timeout=PATIENCE)
    assert answer.status_code == 200
    return answer.headers["letta-server-workers"]


@pytest.fixture
def clients(letta: Letta) -> Iterator[Callable[[int], Sequence[httpx.Client]]]:
    """``clients(count)``: each has one connection, which stays at one worker."""
    with ExitStack() as held:

        def make(count: int) -> Sequence[httpx.Client]:
            options: dict[str, Any] = {"base_url": letta.url, "trust_env": False, "timeout": PATIENCE}
            headers = {"Authorization": f"Bearer {letta.api_key}"}
            return [held.enter_context(httpx.Client(headers=headers, **options)) for _ in range(count)]

        yield make


def worker_of(client: httpx.Client) -> str:
    return client.get("/v1/health/").headers["letta-server-worker"]


def new_agent(client: httpx.Client, letta: Letta) -> str:
    blocks = [{"label": "human", "value": ""}, {"label": "persona", "value": "kind"}]
    made = client.post("/v1/agents/", json={"name": "one", "model": letta.model, "memory_blocks": blocks})
    assert made.status_code == 200, made.text
    return str(made.json()["id"])


def say(client: httpx.Client, agent: str, text: str) -> str:
    """The agent's answer."""
    answer = client.post(f"/v1/agents/{agent}/messages", json={"input": text})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["messages"][-1]["content"])


def test_both_workers_serve_any_agent_and_keep_its_memory(letta: Letta, clients: Any, server: Letta) -> None:
    many = clients(8)
    with ThreadPoolExecutor(8) as pool:
        assert Counter(pool.map(worker_of, many)) == {"1": 4, "2": 4}
        agents = list(pool.map(lambda client: new_agent(client, letta), many))
        texts = [f"hello {number}" for number in range(8)]
        assert list(pool.map(say, many, agents, texts)) == [f"echo: {text}" for text in texts]

    # One agent at alternating workers: each sees what the other has just stored.
    first = many[0]
    second = next(client for client in many if worker_of(client) != worker_of(first))
    agent = agents[0]
    before = len(first.get(f"/v1/agents/{agent}").json()["message_ids"])
    say(first, agent, "我喜欢乌龙茶")
    assert say(second, agent, "我喜欢什么?") == "你喜欢乌龙茶。"
    assert say(first, agent, "hello") == "echo: hello"
    in_context = [len(client.get(f"/v1/agents/{agent}").json()["message_ids"]) for client in (first, second)]
    assert in_context[0] == in_context[1] > before + 6
    blocks = [client.get(f"/v1/agents/{agent}/core-memory/blocks").json() for client in (first, second)]
    assert blocks[0] == blocks[1]

    log = server.log.read_text()
    assert log.count("now holds Letta 0.16.8's schema") == 1
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    assert all(line["worker"] in {1, 2} and line["pid"] for line in lines if line["module"].startswith("letta."))


def test_a_turn_on_a_killed_worker_is_answered_once_and_stored_once(
    letta: Letta,
    observe: Any,
    users: Callable[..., Any],
    redis_url: str,
    bridge_factory: BridgeFactory,
    scripted_model: ScriptedModel,
    postgres_server: Postgres,
) -> None:
    bridge_factory(redis_url, letta)
    [user] = users(1)
    observe.push(user, "t0", "hello")
    observe.wait_for(1)
    observe.push(user, "t1", "[[latency:3000]] 你好")
    wait_until(lambda: asks(scripted_model, letta))[0].kill()
    replies = observe.wait_for(2)
    assert [(reply["source"], reply["response_text"]) for reply in replies] == [
        ("letta", "echo: hello"),
        ("letta", "echo: 你好"),
    ]
    assert len(observe.said(user)[user]) == 2
    # The run that the worker left behind has ended: the bridge has not waited for its lifetime.
    of_user = "SELECT status FROM runs JOIN agents_tags USING (agent_id) WHERE tag = %s"
    with psycopg.connect(postgres_server.url(DATABASE)) as connection:
        runs = connection.execute(of_user, [f"user:{user}"]).fetchall()
    assert Counter(status for (status,) in runs) == {"completed": 2, "failed": 1}
    wait_until(lambda: serving(letta) == "2/2")


def test_turns_that_were_on_a_killed_worker_do_not_pause_the_other_one(
    letta: Letta,
    observe: Any,
    users: Callable[..., Any],
    redis_url: str,
    bridge_factory: BridgeFactory,
    memory_factory: MemoryFactory,
    scripted_model: ScriptedModel,
) -> None:
    bridge_factory(redis_url, letta)
    memory_factory(redis_url)  # would answer if the circuit breaker opened
    people = users(12)
    for user in people:
        observe.push(user, "t0", "hello")
    observe.wait_for(12)
    for user in people:
        observe.push(user, "t1", "[[latency:5000]] 你好")
    wait_until(lambda: in_flight(scripted_model) == 12)
    asks(scripted_model, letta)[0].kill()
    assert Counter(reply["source"] for reply in observe.wait_for(24)) == {"letta": 24}
    assert {len(said) for said in observe.said(*people).values()} == {2}


def asks(model: ScriptedModel, letta: Letta) -> list[psutil.Process]:
    """The workers that have a request at the model now."""
    calls = httpx.get(f"{model.base_url}/control/calls", trust_env=False).json()["last"]
    if not any(call["outcome"] == "in flight" for call in calls):
        return []
    port = httpx.URL(model.base_url).port
    workers = psutil.Process(letta.pid).children()
    return [worker for worker in workers if any(one.raddr[1:] == (port,) for one in worker.net_connections(kind="tcp"))]


def test_sigterm_lets_the_turns_of_both_workers_finish(
    letta: Letta, clients: Any, scripted_model: ScriptedModel
) -> None:
    both = clients(2)
    agents = [new_agent(client, letta) for client in both]
    workers = psutil.Process(letta.pid).children()
    with ThreadPoolExecutor(2) as pool:
        answers = [
            pool.submit(say, client, agent, "[[latency:2000]] bye") for client, agent in zip(both, agents, strict=True)
        ]
        wait_until(lambda: in_flight(scripted_model) == 2)
        psutil.Process(letta.pid).terminate()
        assert [answer.result() for answer in answers] == ["echo: bye"] * 2
    wait_until(lambda: not letta.running)
    assert letta.returncode == 0
    assert psutil.wait_procs(workers, PATIENCE)[1] == []


def in_flight(model: ScriptedModel) -> int:
    calls = httpx.get(f"{model.base_url}/control/calls", trust_env=False).json()["last"]
    return sum(call["outcome"] == "in flight" for call in calls)
