"""A message through real processes, and an operator's commands, over every kind of Redis that the README names."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from local_stack.fixtures import BridgeFactory, MemoryFactory, missing_parts
from local_stack.ports import HOST, free_port
from local_stack.programs import environment, program
from local_stack.tls import TlsFront, make_certificates
from local_stack.valkey import Sentinel, Valkey

pytestmark = pytest.mark.acceptance

PASSWORD = "p%40ss%2Fw%23rd"  # as it stands in a URL
PLAIN = "p@ss/w#rd"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    with contextlib.ExitStack() as running:

        def make(kind: Any, *arguments: Any, **options: Any) -> Any:
            server = kind(tmp_path / f"server-{free_port()}", *arguments, **options)
            running.callback(server.kill)
            server.start()
            server.wait_ready()
            return server

        make.enter = running.enter_context  # type: ignore[attr-defined]
        yield make


def one_server(start: Any, tmp_path: Any) -> str:
    server = start(Valkey, options={"requirepass": PLAIN})
    return f"redis://:{PASSWORD}@{HOST}:{server.port}/0"


def unix_socket(start: Any, tmp_path: Any) -> str:
    path = f"/tmp/addresses-{free_port()}.sock"  # noqa: S108  # a socket's path may have about a hundred bytes
    start(Valkey, options={"unixsocket": path})
    return f"unix://{path}"


def tls(start: Any, tmp_path: Any) -> str:
    with missing_parts():
        certificates = make_certificates(tmp_path / "tls")
    front = start.enter(TlsFront(start(Valkey).port, certificates))
    return f"rediss://localhost:{front.port}/0?ssl_ca_certs={certificates.authority}"


def sentinel(start: Any, tmp_path: Any) -> str:
    server = start(Valkey, options={"requirepass": PLAIN})
    watcher = start(Sentinel, server, password="other", replicas=False)
    return f"redis+sentinel://:{PASSWORD}@{HOST}:{watcher.port}/bridge/0?sentinel_password=other"


def cluster(start: Any, tmp_path: Any) -> str:
    """Three primaries; one of the two without the queue is dead before anything starts."""
    options = {"cluster-enabled": "yes", "cluster-require-full-coverage": "no", "appendonly": "no"}
    nodes = [start(Valkey, options=options | {"cluster-port": str(free_port())}) for _ in range(3)]
    with contextlib.ExitStack() as clients:
        first, *others = [clients.enter_context(redis.Redis(host=HOST, port=node.port)) for node in nodes]
        # Whatever this project uses lies on the first node, which has all slots but two thousand.
        names = ("letta_requests", "user_input_queue", "memory:user_sessions:ada", "memory:global_context")
        taken = {first.execute_command("CLUSTER", "KEYSLOT", name) for name in names}
        spare = [start for start in range(0, 16_000, 1000) if not taken & set(range(start, start + 1000))][:2]
        free = [slot for slot in range(16_384) if not any(begin <= slot < begin + 1000 for begin in spare)]
        first.execute_command("CLUSTER", "ADDSLOTS", *free)
        for client, node, begin in zip(others, nodes[1:], spare, strict=True):
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", begin, begin + 999)
            bus = client.config_get("cluster-port")["cluster-port"]
            first.execute_command("CLUSTER", "MEET", HOST, node.port, bus)
        deadline = time.monotonic() + 30
        while any(client.cluster("INFO")["cluster_slots_assigned"] != "16384" for client in (first, *others)):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    nodes[1].kill()
    return f"redis+cluster://{HOST}:{nodes[1].port},{HOST}:{nodes[0].port}"


@pytest.mark.parametrize("form", [one_server, unix_socket, tls, sentinel, cluster], ids=lambda form: form.__name__)
def test_a_message_gets_its_answer(
    form: Any, start: Callable[..., Any], tmp_path: Path, bridge_factory: BridgeFactory, memory_factory: MemoryFactory
) -> None:
    url = form(start, tmp_path)
    nobody = f"http://{HOST}:{free_port()}"
    bridge_factory(url, nobody, LETTA_ENABLED="false")
    memory_factory(url)
    variables = environment(REDIS_URL=url, LETTA_ENABLED="false", DATABASE_URL=None, DATA_DIR=str(tmp_path / "data"))

    def run(*arguments: Any) -> Any:
        done = subprocess.run(
            [program("letta-bridge"), *arguments],
            env=variables,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    reply = json.loads(run("send", "hello", "--user", "ada", "--wait", "30", "--json"))
    assert (reply["source"], reply["status"]) == ("memory-python", "ok")
    assert "bridges alive        1" in run("status")
    assert "FAIL" not in run("doctor")
