"""The bridges' database is killed, cut off, out of connections, read-only, or locked."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Final, LiteralString

import psycopg
from psycopg import sql

from bridge_chaos.fault import Fault, FaultContext, parts
from bridge_chaos.waiting import restart

_AWAY_SECONDS: Final = 5.0
_SERVER: Final = parts("postgres")


def faults() -> list[Fault]:
    """All of them."""
    rows = [
        ("kill", "PostgreSQL gets SIGKILL and is started again", _kill),
        ("restart", "PostgreSQL is restarted gracefully", _restart),
        ("away", f"PostgreSQL is down for {_AWAY_SECONDS:g} s", _away),
        ("connections", f"the database accepts no further connections, for {_AWAY_SECONDS:g} s", _no_connections),
        ("read-only", f"the database refuses to write for {_AWAY_SECONDS:g} s", _read_only),
        (
            "locks",
            f"another client locks the journal's tables in reverse order for {_AWAY_SECONDS:g} s (deadlocks)",
            _locks,
        ),
    ]
    return [
        *(Fault(f"postgres/{name}", what, act, occupies=_SERVER) for name, what, act in rows),
        Fault(
            "postgres/away-at-start",
            f"PostgreSQL is down for {_AWAY_SECONDS:g} s, and both bridges start meanwhile",
            _away_at_start,
            occupies=_SERVER | parts("bridges"),
        ),
        Fault(
            "postgres/black-hole",
            f"no byte passes between PostgreSQL and the bridges for {_AWAY_SECONDS:g} s",
            _black_hole,
            occupies=parts("postgres-link"),
        ),
    ]


def _kill(context: FaultContext) -> None:
    context.strike()
    restart(context.environment.postgres)


def _restart(context: FaultContext) -> None:
    context.strike()
    context.environment.postgres.restart()


def _away(context: FaultContext) -> None:
    context.strike()
    context.environment.postgres.kill()
    context.let_pass(_AWAY_SECONDS)
    restart(context.environment.postgres)


def _away_at_start(context: FaultContext) -> None:
    context.strike()
    context.environment.postgres.kill()
    restart(*context.environment.bridges)
    context.let_pass(_AWAY_SECONDS)
    restart(context.environment.postgres)


def _black_hole(context: FaultContext) -> None:
    context.strike()
    context.environment.postgres_link.blackhole()
    context.let_pass(_AWAY_SECONDS)
    context.environment.postgres_link.resume()


def _no_connections(context: FaultContext) -> None:
    context.strike()
    _alter(context, "ALTER DATABASE {} WITH CONNECTION LIMIT 0")
    try:
        _drop_sessions(context)
        context.let_pass(_AWAY_SECONDS)
    finally:
        _alter(context, "ALTER DATABASE {} WITH CONNECTION LIMIT -1")


def _read_only(context: FaultContext) -> None:
    context.strike()
    _alter(context, "ALTER DATABASE {} SET default_transaction_read_only = on")
    try:
        _drop_sessions(context)
        context.let_pass(_AWAY_SECONDS)
    finally:
        _alter(context, "ALTER DATABASE {} SET default_transaction_read_only = off")
        _drop_sessions(context)


def _locks(context: FaultContext) -> None:
    context.strike()
    until = time.monotonic() + _AWAY_SECONDS
    environment = context.environment
    with psycopg.connect(environment.postgres.url(environment.database), autocommit=True) as connection:
        # The bridge notices the deadlock first, and is the one whose transaction ends.
        connection.execute("SET deadlock_timeout = '30s'")
        connection.execute("SET lock_timeout = '4s'")
        while time.monotonic() < until:
            with suppress(psycopg.errors.LockNotAvailable), connection.transaction():
                # The other way round than the journal takes them.
                connection.execute("LOCK TABLE letta_bridge.agent_messages IN ACCESS EXCLUSIVE MODE")
                context.let_pass(0.3)
                connection.execute("LOCK TABLE letta_bridge.agent_conversations IN ACCESS EXCLUSIVE MODE")
            context.let_pass(0.2)


def _alter(context: FaultContext, statement: LiteralString) -> None:
    with psycopg.connect(context.environment.postgres.url(), autocommit=True) as connection:
        connection.execute(sql.SQL(statement).format(sql.Identifier(context.environment.database)))


def _drop_sessions(context: FaultContext) -> None:
    with psycopg.connect(context.environment.postgres.url(), autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s",
            (context.environment.database,),
        )
