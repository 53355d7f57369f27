"""Waits for Redis, because Letta checks for it only once, for five seconds, and then runs without locks."""

from __future__ import annotations

import socket
from typing import Final

from letta_server.errors import NotReachable
from letta_server.settings import Redis
from letta_server.waiting import wait_until_up

_PROBE_TIMEOUT_SECONDS: Final = 2.0
"""Seconds for one look."""


def wait_for_redis(redis: Redis, limit: float) -> None:
    """Return when it answers PING.

    Raises:
        NotReachable: it did not within ``limit`` seconds, or it wants a password, which Letta cannot give.
    """
    wait_until_up(f"Redis at {redis}", lambda: _trouble(redis), limit)


def _trouble(redis: Redis) -> str | None:
    try:
        with socket.create_connection((redis.host, redis.port), _PROBE_TIMEOUT_SECONDS) as connection:
            connection.sendall(b"PING\r\n")
            with connection.makefile("rb") as answers:
                answer = answers.readline(200).decode("utf-8", "replace").strip()
    except OSError as error:
        return f"does not answer ({error.strerror or error})"
    if answer.startswith(("-NOAUTH", "-WRONGPASS", "-NOPERM")):
        raise NotReachable(
            f"Redis at {redis} requires a password, which Letta 0.16.8 cannot send; use a Redis without a password "
            "for Letta."
        )
    return None if answer == "+PONG" else f"answers {answer[:80]!r} to PING"
