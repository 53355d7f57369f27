"""Health endpoints over a fake service, and the server they run in."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from shared_utils.observability import health
from shared_utils.observability.health import Check
from shared_utils.remembered import Remembered


class Service:
    """A service whose dependencies come and go."""

    def __init__(self) -> None:
        self.redis = Check("redis", ok=True, detail="pong", required=True)
        self.letta = Check("letta", ok=True, detail="0.16.8")
        self.stopping = False

    def own_checks(self) -> list[Any]:
        return [] if not self.stopping else [Check("intake", ok=False, detail="draining", required=True)]

    async def checks(self) -> Any:
        return [self.redis, self.letta]

    async def summary(self) -> dict[str, int]:
        return {"in_flight": 3}

    def lose_redis(self) -> None:
        self.redis = Check("redis", ok=False, detail="connection refused", required=True)

    def lose_letta(self) -> None:
        self.letta = Check("letta", ok=False, detail="breaker open")


class CountingService(Service):
    """One that takes its time, and counts how often it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    async def checks(self) -> Any:
        self.asked += 1
        await asyncio.sleep(0)
        return await super().checks()

    async def summary(self) -> dict[str, int]:
        self.asked += 1
        await asyncio.sleep(0)
        return await super().summary()


class BrokenService(Service):
    """One that must not be asked."""

    async def checks(self) -> None:
        raise AssertionError("asked")


def application(service: Any, fresh: Any = 0.0) -> FastAPI:
    app = FastAPI()
    app.include_router(health.router(service, fresh=fresh))
    return app


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
async def http(service: Service) -> AsyncIterator[Any]:
    transport = httpx.ASGITransport(application(service))
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
        yield client


async def test_being_alive_depends_on_nothing() -> None:
    transport = httpx.ASGITransport(application(BrokenService()))
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
        answer = await client.get("/livez")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


async def test_a_hundred_callers_ask_the_dependencies_once() -> None:
    service = CountingService()
    transport = httpx.ASGITransport(application(service, fresh=60.0))
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
        answers = await asyncio.gather(*(client.get(path) for path in ["/health", "/readyz"] * 50))
    assert {answer.status_code for answer in answers} == {200}
    assert service.asked == 2  # once for the checks, once for the summary


async def test_a_service_that_stops_is_not_ready_at_once() -> None:
    service = Service()
    transport = httpx.ASGITransport(application(service, fresh=60.0))
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
        assert (await client.get("/readyz")).status_code == 200
        service.stopping = True
        assert (await client.get("/readyz")).status_code == 503


async def test_an_error_is_not_remembered() -> None:
    answers = iter([OSError("away"), "back"])

    async def ask() -> Any:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    remembered = Remembered(ask, 60.0)
    with pytest.raises(OSError, match="away"):
        await remembered()
    assert [await remembered(), await remembered()] == ["back", "back"]


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/health"])
async def test_head_is_answered_like_get(http: httpx.AsyncClient, path: str) -> None:
    answer = await http.head(path)
    assert answer.status_code == 200


async def test_a_dependencys_words_are_shown_without_passwords(http: httpx.AsyncClient, service: Service) -> None:
    service.letta = Check("letta", ok=False, detail="cannot reach http://bridge:hunter2@letta:8283")
    assert "hunter2" not in (await http.get("/health")).text
    assert "hunter2" not in (await http.get("/readyz?verbose")).text


async def test_a_service_with_everything_is_ready(http: httpx.AsyncClient) -> None:
    answer = await http.get("/readyz")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


async def test_without_a_required_dependency_it_is_not_ready(http: httpx.AsyncClient, service: Service) -> None:
    service.lose_redis()
    answer = await http.get("/readyz")
    assert (answer.status_code, answer.json()) == (503, {"status": "unready"})


async def test_without_another_dependency_it_is_degraded_but_ready(http: httpx.AsyncClient, service: Service) -> None:
    service.lose_letta()
    answer = await http.get("/readyz")
    assert (answer.status_code, answer.json()) == (200, {"status": "degraded"})


@pytest.mark.parametrize("query", ["verbose", "verbose=", "verbose=1"])
async def test_each_dependency_is_reported_on_request(http: httpx.AsyncClient, service: Service, query: str) -> None:
    service.lose_redis()
    answer = await http.get(f"/readyz?{query}")
    assert (answer.status_code, answer.json()) == (
        503,
        {
            "status": "unready",
            "checks": [
                {"name": "redis", "ok": False, "detail": "connection refused", "required": True},
                {"name": "letta", "ok": True, "detail": "0.16.8", "required": False},
            ],
        },
    )


async def test_dependencies_can_be_left_out(http: httpx.AsyncClient, service: Service) -> None:
    service.lose_redis()
    service.lose_letta()
    without_redis = await http.get("/readyz?exclude=redis&verbose")
    assert (without_redis.status_code, without_redis.json()["status"]) == (200, "degraded")
    assert [check["name"] for check in without_redis.json()["checks"]] == ["letta"]
    assert (await http.get("/readyz?exclude=redis&exclude=letta")).json() == {"status": "ok"}
    assert (await http.get("/readyz?exclude=nothing")).status_code == 503


async def test_the_summary_is_always_answered(http: httpx.AsyncClient, service: Service) -> None:
    assert (await http.get("/health")).json() == {
        "status": "ok",
        "checks": {"redis": "ok", "letta": "ok"},
        "in_flight": 3,
    }
    service.lose_redis()
    answer = await http.get("/health")
    assert (answer.status_code, answer.json()["status"]) == (200, "unready")
    assert answer.json()["checks"] == {"redis": "connection refused", "letta": "ok"}


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/readyz?verbose", "/health"])
async def test_head_is_answered_as_get_is_without_the_body(
    http: httpx.AsyncClient, service: Service, path: str
) -> None:
    service.lose_redis()
    got, headed = await http.get(path), await http.head(path)
    assert (headed.status_code, headed.content) == (got.status_code, b"")
    assert headed.headers == got.headers


def test_the_description_names_get_alone(service: Service) -> None:
    described = application(service).openapi()["paths"]
    assert {tuple(methods) for methods in described.values()} == {("get",)}


KUBELET = (
    b"GET %s HTTP/1.1\r\nHost: 10.1.2.3:8290\r\nUser-Agent: kube-probe/1.33\r\nAccept: */*\r\nConnection: close\r\n\r\n"
)
HAPROXY = b"HEAD %s HTTP/1.0\r\n\r\n"
"""``option httpchk HEAD``: no Host header at all."""
ELB = b"GET %s HTTP/1.1\r\nHost: 10.1.2.3:8290\r\nConnection: close\r\nUser-Agent: ELB-HealthChecker/2.0\r\n\r\n"
CURL = b"HEAD %s HTTP/1.1\r\nHost: bridge:8290\r\nUser-Agent: curl/8.5.0\r\nAccept: */*\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize("request_text", [KUBELET, HAPROXY, ELB, CURL], ids=["kubelet", "haproxy", "elb", "curl -I"])
async def test_probes_of_others_are_answered_as_they_ask(service: Service, request_text: bytes) -> None:
    async with health.serve(application(service), host="127.0.0.1", port=0) as port:
        for path, status in ((b"/livez", b"200"), (b"/readyz", b"200"), (b"/health", b"200")):
            assert (await raw_answer(port, request_text % path)).split(b" ")[1] == status
        service.lose_redis()
        assert (await raw_answer(port, request_text % b"/readyz")).split(b" ")[1] == b"503"


async def answer_of(port: int, path: str = "/livez") -> bytes:
    """One request over a connection of its own."""
    return await raw_answer(port, f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())


async def raw_answer(port: int, request_text: bytes) -> bytes:
    """What the server says to these bytes until it closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request_text)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


async def test_the_app_answers_in_the_same_loop_from_the_first_moment(service: Service) -> None:
    async with health.serve(application(service), host="127.0.0.1", port=0) as port:
        assert (await answer_of(port)).startswith(b"HTTP/1.1 200 OK")
    with pytest.raises(ConnectionRefusedError):
        await answer_of(port)


async def test_a_port_is_free_again_afterwards(service: Service) -> None:
    async with health.serve(application(service), host="127.0.0.1", port=0) as port:
        pass
    async with health.serve(application(service), host="127.0.0.1", port=port) as again:
        assert again == port
        assert (await answer_of(port)).endswith(b'{"status":"ok"}')


async def test_a_taken_port_is_an_os_error(service: Service) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use"):
        async with health.serve(application(service), host="127.0.0.1", port=taken.getsockname()[1]):
            pytest.fail("it must not get here")


async def test_an_address_of_another_machine_is_an_os_error(service: Service) -> None:
    with pytest.raises(OSError, match="assign"):
        async with health.serve(application(service), host="192.0.2.1", port=0):
            pytest.fail("it must not get here")


async def test_the_end_of_the_block_ends_the_server_whatever_ended_the_block(service: Service) -> None:
    async def run() -> None:
        async with health.serve(application(service), host="127.0.0.1", port=0) as port:
            running.set_result(port)
            await asyncio.Event().wait()

    running = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(run())
    port = await running
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(ConnectionRefusedError):
        await answer_of(port)


async def test_an_idle_connection_does_not_hold_up_the_end(service: Service) -> None:
    async with health.serve(application(service), host="127.0.0.1", port=0) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n")
        await reader.readuntil(b'{"status":"ok"}')
    assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()
