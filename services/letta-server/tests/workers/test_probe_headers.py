from __future__ import annotations

from typing import Any

import pytest

from letta_server.workers.worker import ProbeHeaders


async def app(_scope: Any, _receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"a", b"b")]})
    await send({"type": "http.response.body", "body": b"{}"})


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/v1/health/", [(b"letta-server-worker", b"2"), (b"letta-server-workers", b"1/2")]),
        ("/v1/ready", [(b"letta-server-worker", b"2"), (b"letta-server-workers", b"1/2")]),
        ("/v1/agents/", []),
    ],
)
async def test_probes_say_how_many_workers_serve(path: str, expected: list[Any]) -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError

    await ProbeHeaders(app, 2, lambda: (1, 2))({"type": "http", "path": path}, receive, send)
    assert sent[0]["headers"] == [(b"a", b"b"), *expected]
    assert sent[1]["body"] == b"{}"
