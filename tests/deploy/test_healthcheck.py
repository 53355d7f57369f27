"""deploy/healthcheck.py: says nothing where a service is healthy, and why where it is not."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from local_stack.ports import HOST, free_port

pytestmark = pytest.mark.process

_REASON = b'{"status":"unready","checks":[{"name":"redis","ok":false,"detail":"no connection"}]}'


class _Service(BaseHTTPRequestHandler):
    """Ready at /ready; elsewhere it tells why it is not, if it is asked to."""

    def do_GET(self) -> None:
        status, body = (200, b"ok") if self.path == "/ready" else (503, _REASON if "?verbose" in self.path else b"{}")
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def service() -> Iterator[str]:
    with ThreadingHTTPServer((HOST, 0), _Service) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://{HOST}:{server.server_port}"
        server.shutdown()
        thread.join()


def _check(checkout: Path, url: str) -> tuple[int, str]:
    words: list[str | Path] = [sys.executable, checkout / "deploy/healthcheck.py", url]
    done = subprocess.run(words, env={"HTTP_PROXY": "http://127.0.0.1:9"}, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.returncode, done.stdout


def test_says_nothing_of_a_healthy_service(service: str, checkout: Path) -> None:
    assert _check(checkout, f"{service}/ready") == (0, "")


def test_repeats_why_a_service_is_not_ready(service: str, checkout: Path) -> None:
    code, said = _check(checkout, f"{service}/other?verbose")
    assert code == 1
    assert said == f"{service}/other?verbose answers 503: {_REASON.decode()}\n"


def test_tells_a_service_that_does_not_answer(checkout: Path) -> None:
    code, said = _check(checkout, f"http://{HOST}:{free_port()}/ready")
    assert code == 1
    assert "does not answer: ConnectionRefusedError" in said
