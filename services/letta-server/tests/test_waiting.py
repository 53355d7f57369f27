from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from letta_server import waiting
from letta_server.database import wait_for_server
from letta_server.database_url import DatabaseUrl
from letta_server.errors import NotReachable
from letta_server.redis_probe import wait_for_redis
from letta_server.settings import Redis


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "_PROBE_PAUSE_SECONDS", 0.001)


@pytest.fixture
def redis_saying() -> Iterator[Callable[..., Redis]]:
    """Start a listener that gives these answers, one a connection."""
    threads, listeners = [], []

    def start(*answers: bytes) -> Redis:
        listener = socket.create_server(("127.0.0.1", 0))

        def serve() -> None:
            for answer in answers:
                connection, _ = listener.accept()
                with connection:
                    connection.recv(100)
                    connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        threads.append(thread)
        listeners.append(listener)
        return Redis("127.0.0.1", listener.getsockname()[1])

    yield start
    for thread in threads:
        thread.join(5)
    for listener in listeners:
        listener.close()


def test_wait_until_up_returns_at_once_if_the_service_is_up(capsys: pytest.CaptureFixture[str]) -> None:
    waiting.wait_until_up("It", lambda: None, 0)
    assert capsys.readouterr().err == ""


def test_the_wait_is_announced_once_and_ends_when_it_is_up(capsys: pytest.CaptureFixture[str]) -> None:
    troubles = iter(["is starting", "is starting", "is starting", None])
    waiting.wait_until_up("It", lambda: next(troubles), 30)
    assert capsys.readouterr().err.count("is starting") == 1


def test_the_limit_ends_the_wait_with_the_last_reason() -> None:
    with pytest.raises(NotReachable, match="It is away"):
        waiting.wait_until_up("It", lambda: "is away", 0.01)


def test_redis_that_loads_is_waited_for(redis_saying: Callable[..., Redis]) -> None:
    wait_for_redis(redis_saying(b"-LOADING Redis is loading\r\n", b"+PONG\r\n"), 30)


def test_redis_with_a_password_is_not(redis_saying: Callable[..., Redis]) -> None:
    with pytest.raises(NotReachable, match="requires a password"):
        wait_for_redis(redis_saying(b"-NOAUTH Authentication required.\r\n"), 30)


def test_no_redis_at_all(free_port: Callable[[], int]) -> None:
    with pytest.raises(NotReachable, match="does not answer"):
        wait_for_redis(Redis("127.0.0.1", free_port()), 0)


def test_single_attempt_mentions_no_waiting_time() -> None:
    with pytest.raises(NotReachable, match=r"^It is away; start it, or correct its address\.$"):
        waiting.wait_until_up("It", lambda: "is away", 0)


def test_a_name_that_cannot_be_resolved_is_reported_as_such() -> None:
    url = DatabaseUrl.parse("postgresql://letta:secret@no-such-host.invalid/letta")
    with pytest.raises(NotReachable, match=r"no-such-host\.invalid:5432 has a name that cannot be resolved; start it"):
        wait_for_server(url, 0)
