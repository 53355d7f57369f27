"""What the terminal of a running stack is told of its services' troubles."""

from __future__ import annotations

import http.server
import json
import socket
import threading
from collections.abc import Iterator

import pytest

from local_stack import service_problems
from local_stack.service_problems import ServiceProblems


class Service:
    """One whose /readyz says what a test wants."""

    def __init__(self) -> None:
        self.checks: list[dict[str, object]] = []
        self.status = 200
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:  # the library's name
                body = json.dumps({"checks": outer.checks}).encode()
                self.send_response(outer.status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def service() -> Iterator[Service]:
    made = Service()
    thread = threading.Thread(target=made.server.serve_forever)
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_problems, "_PAUSE_SECONDS", 0.0)


def test_a_failure_is_reported_once_and_its_end_too(service: Service) -> None:
    lines: list[str] = []
    watched = ServiceProblems({"letta-bridge": service.url}, lines.append)
    full = {"name": "redis", "ok": False, "detail": "Redis is full; raise its maxmemory"}
    service.checks = [full, full | {"name": "journal"}, {"name": "letta", "ok": True, "detail": "fine"}]
    service.status = 503
    for _ in range(4):
        watched.look()
    assert lines == ["letta-bridge (redis): Redis is full; raise its maxmemory"]
    service.checks, service.status = [full | {"ok": True}], 200
    watched.look()
    watched.look()
    assert lines[1:] == ["letta-bridge (redis): healthy again"]


def test_failure_that_ends_before_the_next_check_is_not_reported(service: Service) -> None:
    watched = ServiceProblems({"letta-bridge": service.url}, pytest.fail)
    service.checks = [{"name": "redis", "ok": False, "detail": "starting"}]
    watched.look()
    service.checks = []
    watched.look()
    watched.look()


def test_a_service_that_takes_connections_and_says_nothing_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_problems, "_TIMEOUT_SECONDS", 0.1)
    lines: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as frozen:
        watched = ServiceProblems({"letta-bridge": f"http://127.0.0.1:{frozen.getsockname()[1]}"}, lines.append)
        for _ in range(3):
            watched.look()
    (line,) = lines
    assert line.startswith("letta-bridge (HTTP port): no answer within 0.1 s, so it is frozen or overloaded; see its")


def test_a_service_that_says_nothing_has_not_got_well(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    watched = ServiceProblems({"letta-bridge": service.url}, lines.append)
    service.checks = [{"name": "redis", "ok": False, "detail": "Redis is full"}]
    watched.look()
    watched.look()
    monkeypatch.setattr(service_problems, "_troubles", lambda _url: {service_problems._NO_ANSWER: "no answer"})
    watched.look()
    watched.look()
    assert lines == ["letta-bridge (redis): Redis is full", "letta-bridge (HTTP port): no answer"]


def test_stopped_service_is_not_reported_as_a_problem(service: Service) -> None:
    gone = socket.create_server(("127.0.0.1", 0))
    port = gone.getsockname()[1]
    gone.close()
    watched = ServiceProblems({"letta-bridge": f"http://127.0.0.1:{port}"}, pytest.fail)
    for _ in range(3):
        watched.look()
