"""The figure's parts; Letta itself is tried by running the benchmark."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from bridge_bench.callers import Callers
from bridge_bench.errors import WorkerFailed
from bridge_bench.figures.setup import described
from bridge_bench.runs import Bench, Row
from bridge_bench.stock_letta import stock_variables
from local_stack.ports import HOST, free_port


@pytest.fixture
def letta() -> Iterator[Any]:
    """A server that gives one answer to everything: set ``status`` and ``body``, look at ``seen``."""

    class Handler(BaseHTTPRequestHandler):
        status, body, seen = 200, "{}", []

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.seen.append((self.path, self.headers["Authorization"], asked))
            self.send_response(self.status)
            self.send_header("Content-Length", str(len(self.body)))
            self.end_headers()
            self.wfile.write(self.body.encode())

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    Handler.url = f"http://127.0.0.1:{server.server_port}"  # type: ignore[attr-defined]  # where the tests find it
    yield Handler
    server.shutdown()
    thread.join()
    server.server_close()


def test_every_agent_has_its_turns(bench: Bench) -> None:
    with bench.harness.stub() as stub:
        callers = Callers(stub.url, "openai-proxy/scripted")
        agents = callers.new_agents(3)
        taken = callers.talk(agents, 4)
        assert stub.stats()["turns"] == 12
    assert len(set(agents)) == 3
    assert len(taken) == 12
    assert min(taken) > 0


def test_agents_take_their_turns_side_by_side_but_each_one_by_one(bench: Bench) -> None:
    with bench.harness.stub(0.1) as stub:
        callers = Callers(stub.url, "openai-proxy/scripted")
        callers.talk(callers.new_agents(5), 3)
        assert stub.stats()["most_in_flight"] == 5


def test_the_password_goes_with_each_request(letta: Any) -> None:
    letta.body = json.dumps({"id": "agent-1"})
    assert Callers(letta.url, "openai-proxy/scripted", "sesame").new_agents(1) == ["agent-1"]
    path, authorization, spec = letta.seen[-1]
    assert (path, authorization, spec["model"]) == ("/v1/agents/", "Bearer sesame", "openai-proxy/scripted")


@pytest.mark.parametrize(
    ("status", "body", "sentence"),
    [
        (500, "out of order", "Letta answered 500: out of order"),
        (200, json.dumps({"messages": [{"message_type": "tool_call_message"}]}), "without a word of the agent's"),
    ],
    ids=["refused", "wordless"],
)
def test_a_turn_without_an_answer_fails(letta: Any, status: int, body: Any, sentence: str) -> None:
    letta.status, letta.body = status, body
    with pytest.raises(WorkerFailed, match=sentence):
        Callers(letta.url, "openai-proxy/scripted").talk(["agent-1"], 1)


def test_a_server_that_is_gone_fails() -> None:
    with pytest.raises(WorkerFailed, match="Letta did not answer"):
        Callers(f"http://{HOST}:{free_port()}", "openai-proxy/scripted").talk(["agent-1"], 1)


def test_the_defaults_are_lettas_own(tmp_path: Path) -> None:
    operators = {
        "PATH": "/bin",
        "HOME": "/home/me",
        "LETTA_DISABLE_SQLALCHEMY_POOLING": "false",
        "LETTA_REDIS_HOST": "cache",
        "OPENAI_API_BASE": "http://elsewhere",
    }
    found = stock_variables(operators, tmp_path, LETTA_PG_URI="postgresql://db/letta")
    assert found == {"PATH": "/bin", "HOME": str(tmp_path), "LETTA_PG_URI": "postgresql://db/letta"}


def test_rows_know_their_ratio_to_the_defaults() -> None:
    rows = [{"name": "ours", "turns_per_second": 8.0}, {"name": "stock", "turns_per_second": 4.0}]
    ours, stock = described(rows, {"ours": "bridge", "stock": "peer"})
    assert (ours["kind"], ours["relative"], stock["relative"]) == ("bridge", 2.0, 1.0)


def test_without_the_defaults_there_is_no_ratio() -> None:
    rows: list[Row] = [{"name": "ours", "turns_per_second": 8.0}, {"name": "stock", "failed": "it ended"}]
    ours, stock = described(rows, {"ours": "bridge", "stock": "peer"})
    assert "relative" not in ours
    assert stock["kind"] == "peer"
